"""`pt.what_if`: what a change does, from pairs of simulations under the same traffic.

Both sides of a pair share their seed, and with it every random stream that the change does not
touch (common random numbers). The noise of arrivals and lengths cancels in the difference, so that
a few seeds show effects that independent runs would hide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytwin import _core
from pytwin.config import EngineConfig
from pytwin.errors import ConfigError, PytwinError, WorkloadError
from pytwin.learn.paired import Difference, paired
from pytwin.simulation import TPOT_SLO_MS, TTFT_SLO_MS, Twin, check_nouns, extrapolated
from pytwin.uncertainty import Member, checked_level, outlook, uncertainty_of, usable_cores
from pytwin.workload import Workload
from pytwin.workload.checks import whole

if TYPE_CHECKING:
    import polars as pl

Change = (
    Mapping[str, Any] | EngineConfig | Workload | Callable[[Workload], Workload] | Sequence[Any]
)

SHOWN = (
    "arrived", "total_throughput", "served_ratio", "mean_tpot_ms", "mean_ttft_ms", "p99_ttft_ms",
    "worst_adapter_mean_ttft_ms", "adapters_missing_slo",
)  # fmt: skip
"""Metrics of the summary; `WhatIf.differences` has all of them."""

_PER_ADAPTER = ("mean_ttft_ms", "mean_tpot_ms", "slo_miss")
_MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Side:
    """The world before, or after the change.

    Attributes
    ----------
    status, error: "ok", or "infeasible" with the server's reason why it cannot start.
    metrics: mean over the seeds of every metric; empty if infeasible.
    starved_probability: that at most 0.9 of the offered tokens are served in a run: from the
        seeds, and what the profile states as unexplained; None if infeasible.
    extrapolated: why the result goes beyond what the profile was measured on.
    runs: the core's metrics and adapters' columns of each seed.
    """

    server: EngineConfig
    traffic: Workload
    status: str = "ok"
    error: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    starved_probability: float | None = None
    extrapolated: tuple[str, ...] = ()
    runs: tuple[dict[str, Any], ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class WhatIf:
    """What a change does; made by `what_if`.

    Attributes
    ----------
    before, after: both worlds.
    differences: metric -> `Difference` (before, after, change, low, high): means over the seeds,
        the mean change, and its interval; empty if one side is infeasible.
    seeds: pairs of simulations.
    level: of the intervals.
    """

    before: Side
    after: Side
    seeds: int
    level: float

    @property
    def feasible(self) -> bool:
        """Whether both servers can start."""
        return self.before.status == self.after.status == "ok"

    @cached_property
    def differences(self) -> dict[str, Difference]:
        """Every metric that exists on both sides."""
        if not self.feasible:
            return {}
        pairs = {}
        for name in self.before.metrics:
            found = paired(
                [run["metrics"][name] for run in self.before.runs],
                [run["metrics"][name] for run in self.after.runs],
                self.level,
            )
            if found is not None:
                pairs[name] = found
        return pairs

    @cached_property
    def adapters(self) -> pl.DataFrame:
        """One row per adapter that both sides have, those hit worst first.

        adapter (its number; 0 is the base model), name (where adapters have names), and of
        mean_ttft_ms, mean_tpot_ms and slo_miss (share of judged requests that miss an objective):
        before, after, change and its interval (low, high); null where nothing completed.
        """
        import polars as pl

        if not self.feasible:
            return pl.DataFrame()
        old, new = self.before.runs[0]["adapters"], self.after.runs[0]["adapters"]
        position = {int(number): k for k, number in enumerate(new["adapter"])}
        rows = []
        for k, number in enumerate(old["adapter"]):
            if int(number) not in position or not any(
                run["adapters"]["arrived"][k] for run in self.before.runs
            ):
                continue
            rows.append({"adapter": int(number)} | self._adapter_row(k, position[int(number)]))
        if not rows:
            return pl.DataFrame()
        frame = pl.DataFrame(rows, infer_schema_length=None)
        names = self.before.traffic.adapter_names
        if names is not None:
            labels = pl.Series("name", ["", *names], dtype=pl.String)
            frame = frame.insert_column(1, labels.gather(frame["adapter"]).alias("name"))
        return frame.sort(
            "slo_miss_change", "mean_ttft_ms_change", descending=True, nulls_last=True,
            maintain_order=True,
        )  # fmt: skip

    def _adapter_row(self, old: int, new: int) -> dict[str, float | None]:
        row: dict[str, float | None] = {}
        for name in _PER_ADAPTER:
            found = paired(
                [run["adapters"][name][old] for run in self.before.runs],
                [run["adapters"][name][new] for run in self.after.runs],
                self.level,
            )
            for part in ("before", "after", "change", "low", "high"):
                row[f"{name}_{part}"] = None if found is None else getattr(found, part)
        return row

    def to_dict(self) -> dict[str, Any]:
        """Everything but the frame, as JSON takes it."""
        sides = {
            name: {
                "status": side.status,
                "error": side.error,
                "metrics": side.metrics,
                "starved_probability": side.starved_probability,
                "extrapolated": list(side.extrapolated),
            }
            for name, side in (("before", self.before), ("after", self.after))
        }
        return sides | {
            "seeds": self.seeds,
            "level": self.level,
            "differences": {name: item.to_dict() for name, item in self.differences.items()},
        }

    def __repr__(self) -> str:
        return f"<WhatIf {self.before.status} -> {self.after.status}, {self.seeds} seeds>"

    def __str__(self) -> str:
        """The main figures, one a line."""
        for label, side in (("before", self.before), ("after", self.after)):
            if side.status != "ok":
                return f"{label} the change the server cannot start: {side.error}"
        lines = [f"{name:28}{self.differences[name]}" for name in SHOWN if name in self.differences]
        before, after = self.before.starved_probability, self.after.starved_probability
        if before is not None and after is not None:
            lines.append(f"{'probability of starvation':28}{before:10.2f} -> {after:10.2f}")
        return "\n".join(lines)


def what_if(
    server: EngineConfig,
    traffic: Workload,
    *,
    change: Change,
    seeds: int = 8,
    level: float = 0.9,
    first_seed: int = 0,
    workers: int | None = None,
    ttft_slo_ms: float = TTFT_SLO_MS,
    tpot_slo_ms: float = TPOT_SLO_MS,
) -> WhatIf:
    """Simulate a server before and after a change, pair by pair under the same traffic.

    Parameters
    ----------
    server, traffic: the world before.
    change: settings of the server ({"max_loras": 64}, {"profile": ...}), another server, a change
        of traffic (`pt.more_adapters`, `pt.viral`, `pt.new_rank`, `pt.busier`, or any function of
        a workload), another workload, or a list of these, applied in turn.
    seeds: pairs of simulations, at least 2; they are seeds first_seed, first_seed + 1, ...
    level: of the intervals of the mean change (Student's t over the pairs), above 0 and below 1.
    workers: threads; default one per core. The result does not depend on it.
    ttft_slo_ms, tpot_slo_ms: the objectives of adapters_missing_slo and slo_miss.

    Raises
    ------
    PytwinError: bad input, in one line with the value, the rule and the way out.
    """
    check_nouns(server, traffic)
    pairs = whole("seeds", seeds, least=2, most=_MOST_SEEDS)
    first = whole("first_seed", first_seed, least=0, most=2**63)
    threads = usable_cores() if workers is None else whole("workers", workers, least=1)
    share = checked_level(level)
    changed_server, changed_traffic = apply(change, server, traffic)
    slos = {"ttft_slo_ms": ttft_slo_ms, "tpot_slo_ms": tpot_slo_ms}
    numbers = range(first, first + pairs)
    twin = Twin()
    sides = [
        _side(twin, one_server, one_traffic, numbers, threads, slos)
        for one_server, one_traffic in ((server, traffic), (changed_server, changed_traffic))
    ]
    return WhatIf(sides[0], sides[1], pairs, share)


def apply(change: object, server: EngineConfig, traffic: Workload) -> tuple[EngineConfig, Workload]:
    """Server and traffic after a change.

    Raises
    ------
    PytwinError: a setting that does not exist, a value out of its range, no change at all.
    """
    if isinstance(change, EngineConfig):
        return change, traffic
    if isinstance(change, Workload):
        return server, change
    if isinstance(change, Mapping):
        return _replaced(server, change), traffic
    if callable(change):
        changed = change(traffic)
        if not isinstance(changed, Workload):
            raise WorkloadError(f"change ({change!r}) must return a pt.Workload, not {changed!r}")
        return server, changed
    if isinstance(change, (list, tuple)):
        for part in change:
            server, traffic = apply(part, server, traffic)
        return server, traffic
    raise ConfigError(
        f"change ({change!r}) must be settings such as {{'max_loras': 64}}, a server, a workload, "
        "a change of traffic such as pt.viral(1, 10), or a list of these"
    )


def _replaced(server: EngineConfig, settings: Mapping[str, Any]) -> EngineConfig:
    """The server with other settings."""
    known = EngineConfig.model_fields
    for name in settings:
        if name not in known:
            raise ConfigError(f"change ({name}) must be a setting of pt.EngineConfig, as max_loras")
    return server.replace(**settings)


def _side(
    twin: Twin,
    server: EngineConfig,
    traffic: Workload,
    seeds: Sequence[int],
    threads: int,
    slos: Mapping[str, float],
) -> Side:
    specs = [twin.spec_json(server, traffic, seed=seed, adapters=True, **slos) for seed in seeds]
    try:
        memory = _core.memory(twin.library, specs[0])
        if memory["status"] != "ok":
            return Side(
                server, traffic, memory["status"], memory["error"],
                extrapolated=tuple(extrapolated(server, traffic)),
            )  # fmt: skip
        with ThreadPoolExecutor(threads) as pool:
            runs = list(pool.map(lambda spec: _core.simulate(twin.library, spec), specs))
    except ValueError as error:
        raise PytwinError(str(error)) from None
    profile = server.loaded_profile
    found = outlook(
        [Member("seed", seed, profile) for seed in seeds],
        [run["metrics"] for run in runs],
        uncertainty_of(profile),
    )
    return Side(
        server,
        traffic,
        metrics=found.estimates,
        starved_probability=found.starved,
        extrapolated=tuple(extrapolated(server, traffic, found.estimates)),
        runs=tuple({"metrics": run["metrics"], "adapters": run["adapters"]} for run in runs),
    )
