"""`pt.predict`: an estimate, how sure it is, and who misses an objective."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytwin import _core
from pytwin.config import EngineConfig
from pytwin.errors import PytwinError
from pytwin.simulation import TPOT_SLO_MS, TTFT_SLO_MS, Twin, check_nouns, extrapolated
from pytwin.uncertainty.ensemble import Member, Outlook, Plan, member_spec, members, outlook
from pytwin.uncertainty.factors import INTERVAL_METRICS, Uncertainty, uncertainty_of
from pytwin.uncertainty.intervals import Law, checked_level
from pytwin.uncertainty.objectives import adapter_outlook
from pytwin.workload import Workload

if TYPE_CHECKING:
    import polars as pl

_MOST = 100_000


class Prediction:
    """What to expect of a server under a workload, and how sure that is.

    Attributes
    ----------
    status: "ok", or "infeasible" when the server could not start.
    error: the reason why not, in the server's own terms; None if ok.
    metrics: mean over the seeds of every metric of `Run.metrics`; empty if infeasible.
    level: share of real runs that an interval is to hold.
    starved_probability: that at most 0.9 of the offered tokens are served; None if infeasible.
    near_critical: why a small error of the cost model changes the result a lot; empty if it does
        not.
    sensitivity: metric -> percent by which it changes when steps take 3 % longer.
    extrapolated: why the result goes beyond what the profile was measured on; empty if it does
        not.
    """

    def __init__(
        self,
        found: Outlook,
        *,
        status: str,
        error: str | None,
        server: EngineConfig,
        traffic: Workload,
        plan: Plan,
        level: float,
        extrapolated: list[str],
        frames: Callable[[], pl.DataFrame],
    ) -> None:
        self.status = status
        self.error = error
        self.metrics = dict(found.estimates)
        self.level = level
        self.starved_probability = found.starved
        self.near_critical = list(found.sensitivity.reasons) if found.sensitivity else []
        self.sensitivity = dict(found.sensitivity.percent) if found.sensitivity else {}
        self.extrapolated = extrapolated
        self._laws = found.laws
        self._server = server
        self._traffic = traffic
        self._plan = plan
        self._frames = frames

    def __repr__(self) -> str:
        if self.status != "ok":
            return f"<Prediction {self.status}: {self.error}>"
        parts = []
        for name, (low, high) in self.intervals.items():
            parts.append(f"{name}={self.metrics[name]:.5g} [{low:.5g}, {high:.5g}]")
        return f"<Prediction {' '.join(parts)}>"

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The interval of throughput, TPOT, ITL and TTFT, where they exist."""
        return {name: self.interval(name) for name in INTERVAL_METRICS if name in self._laws}

    def interval(self, metric: str, level: float | None = None) -> tuple[float, float]:
        """The central interval of a metric (of any positive one in `metrics`).

        Raises
        ------
        PytwinError: a metric without a law (unknown, or never positive), or a bad level.
        """
        share = self.level if level is None else checked_level(level)
        return self._law(metric).interval(share)

    def probability_above(self, metric: str, line: float) -> float:
        """Probability that a run's metric comes out above `line`."""
        return self._law(metric).above(line)

    @cached_property
    def adapters(self) -> pl.DataFrame:
        """One row per adapter: what it can expect, and how likely it misses an objective.

        adapter (its number; 0 is the base model, if it got requests), rank, rate_rps, mean_ttft_ms
        and mean_tpot_ms with their intervals (..._low, ..._high), ttft_miss, tpot_miss and miss
        (the probabilities that the adapter's mean TTFT, mean TPOT, or one of them is above the
        objective in a run), request_miss (the expected share of its judged requests that miss
        one). Named adapters carry a column `name`. Simulates the ensemble again when first asked
        for, this time with the adapters' records.
        """
        return self._frames()

    def to_dict(self) -> dict[str, Any]:
        """Everything but the frame, as JSON takes it."""
        return {
            "backend": "pytwin",
            "model_id": self._server.loaded_profile.model,
            "profile": self._server.loaded_profile.name,
            "engine": self._server.resolved(has_adapters=bool(self._traffic.adapter_ranks)),
            "status": self.status,
            "error": self.error,
            "seeds": self._plan.seeds,
            "first_seed": self._plan.first_seed,
            "draws": self._plan.draws,
            "level": self.level,
            "metrics": self.metrics,
            "intervals": {name: list(pair) for name, pair in self.intervals.items()},
            "starved_probability": self.starved_probability,
            "near_critical": self.near_critical,
            "sensitivity_percent": self.sensitivity,
            "extrapolated": self.extrapolated,
        }

    def _law(self, metric: str) -> Law:
        law = self._laws.get(metric)
        if law is None:
            known = ", ".join(INTERVAL_METRICS)
            raise PytwinError(f"metric ({metric}) has no interval here: there are {known}, ...")
        return law


def predict(
    server: EngineConfig,
    traffic: Workload,
    *,
    seeds: int = 8,
    draws: int = 16,
    level: float = 0.9,
    first_seed: int = 0,
    workers: int | None = None,
    ttft_slo_ms: float = TTFT_SLO_MS,
    tpot_slo_ms: float = TPOT_SLO_MS,
) -> Prediction:
    """Simulate `traffic` on `server` over seeds and over what the profile may have wrong.

    Parameters
    ----------
    server: the profile and vLLM's settings.
    traffic: a `Workload`. Generated traffic is drawn anew for every seed, so that intervals hold
        the noise of arrivals and lengths; `conditioned` or a replay leave it out.
    seeds: simulations whose mean is the estimate.
    draws: simulations with the profile's uncertain factors moved, over the same seeds; 0 for
        intervals from seeds alone.
    level: share of real runs that an interval is to hold, above 0 and below 1.
    first_seed: the seeds are first_seed, first_seed + 1, ...
    workers: threads; default one per core. The result does not depend on it.
    ttft_slo_ms, tpot_slo_ms: the objectives that `Prediction.adapters` is judged by.

    Raises
    ------
    PytwinError: bad input, in one line with the value, the rule and the way out.
    """
    check_nouns(server, traffic)
    plan = Plan(
        seeds=_whole("seeds", seeds, 1),
        draws=_whole("draws", draws, 0),
        nudges=min(seeds, Plan.nudges),
        first_seed=_whole("first_seed", first_seed, 0, 2**63),
    )
    level = checked_level(level)
    threads = usable_cores() if workers is None else _whole("workers", workers, 1)
    profile = server.loaded_profile
    uncertainty = uncertainty_of(profile)
    twin = Twin()
    base = twin.spec(
        server, traffic, ttft_slo_ms=ttft_slo_ms, tpot_slo_ms=tpot_slo_ms, ignore_memory=True
    )
    try:
        memory = _core.memory(twin.library, twin.spec_json(server, traffic, seed=plan.first_seed))
    except ValueError as error:
        raise PytwinError(str(error)) from None
    found, estimates = Outlook(), None
    team = members(profile, plan)
    if memory["status"] == "ok":
        found = outlook(team, _simulate(twin, base, team, threads), uncertainty)
        estimates = found.estimates

    def frames() -> pl.DataFrame:
        import polars as pl

        if memory["status"] != "ok":
            return pl.DataFrame()
        records = _records(twin, base, team, threads)
        return adapter_outlook(
            team,
            records,
            uncertainty,
            level=level,
            ttft_slo_ms=ttft_slo_ms,
            tpot_slo_ms=tpot_slo_ms,
            names=traffic.adapter_names,
        )

    return Prediction(
        found,
        status=memory["status"],
        error=memory["error"],
        server=server,
        traffic=traffic,
        plan=plan,
        level=level,
        extrapolated=_reasons(server, traffic, estimates, uncertainty, plan),
        frames=frames,
    )


def usable_cores() -> int:
    """Cores that this process may use; a container may have fewer than the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _reasons(
    server: EngineConfig,
    traffic: Workload,
    metrics: dict[str, float] | None,
    uncertainty: Uncertainty,
    plan: Plan,
) -> list[str]:
    reasons = extrapolated(server, traffic, metrics)
    if plan.draws and not uncertainty.known:
        name = server.loaded_profile.name
        reasons.append(f"profile {name} states no uncertainty: the intervals hold seeds alone")
    return reasons


def _simulate(
    twin: Twin, base: Mapping[str, Any], team: Sequence[Member], threads: int
) -> list[dict[str, Any]]:
    specs = [member_spec(twin, base, member) for member in team]
    columns = _core.simulate_many(twin.library, specs, threads, None)
    return rows_of(columns)


def rows_of(columns: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """One mapping of metrics per simulation.

    Raises
    ------
    PytwinError: a simulation failed, with its reason.
    """
    for status, error in zip(columns["status"], columns["error"], strict=True):
        if status != "ok":
            raise PytwinError(str(error))
    names = [name for name, _ in _core.metric_columns()]
    return [
        dict(zip(names, row, strict=True))
        for row in zip(*(columns[name] for name in names), strict=True)
    ]


def _records(
    twin: Twin, base: Mapping[str, Any], team: Sequence[Member], threads: int
) -> list[dict[str, Any]]:
    """The adapters' columns (and mean_waiting) of every member that is a seed or a draw."""
    with_frames = {**base, "collect": {**base["collect"], "adapters": True}}

    def one(member: Member) -> dict[str, Any]:
        outcome = _core.simulate(twin.library, member_spec(twin, with_frames, member))
        return {**outcome["adapters"], "mean_waiting": outcome["metrics"]["mean_waiting"]}

    wanted = [member for member in team if member.kind in ("seed", "draw")]
    for member in wanted:  # profiles are held before threads share the library
        twin.hold_profile(member.profile)
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, wanted))


def _whole(name: str, value: object, least: int, most: int = _MOST) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise PytwinError(f"{name} ({value!r}) must be a whole number from {least} to {most}")
    return value
