"""One server under one workload, simulated."""

from __future__ import annotations

import json
import operator
from functools import lru_cache
from typing import Any

from pytwin import _core
from pytwin.catalog import LengthTable, Profile
from pytwin.config import EngineConfig
from pytwin.errors import ConfigError, PytwinError, WorkloadError
from pytwin.results import Run
from pytwin.workload import ReplayWorkload, ResolvedWorkload, Trace, Workload

TTFT_SLO_MS = 3000.0
TPOT_SLO_MS = 200.0
"""The objectives unless others are given: time to first token, and mean time per output token."""

_MAX_SLO_MS = 1e9
_MAX_SEED = 2**64 - 1
_MAX_TRANSIENT = 32  # traces and made-up tables that the shared library holds before it starts anew


class Twin:
    """The core's library of profiles and length tables, filled as configurations need it.

    One `Twin` serves many simulations; it holds no results. `simulate` keeps one of its own, and
    sweeps make one for their thousands of configurations.
    """

    def __init__(self) -> None:
        self.library = _core.Library()
        self._held: set[str] = set()
        self._transient = 0

    @property
    def crowded(self) -> bool:
        """Holds so many one-off tables and traces that a fresh one is due."""
        return self._transient > _MAX_TRANSIENT

    def spec(
        self,
        server: EngineConfig,
        traffic: Workload,
        *,
        seed: int = 0,
        requests: bool = False,
        adapters: bool = False,
        timeseries_s: float | None = None,
        steps: bool = False,
        ignore_memory: bool = False,
        ttft_slo_ms: float = TTFT_SLO_MS,
        tpot_slo_ms: float = TPOT_SLO_MS,
        exact_quantiles: bool = False,
        stop_starving: bool = False,
        stop_tolerance: float | None = None,
    ) -> dict[str, Any]:
        """The core's document for one simulation; what it refers to is put into `library`.

        Options as in `simulate`; `requests` and `adapters` ask for the core's columns of those
        frames.

        Raises
        ------
        ConfigError, WorkloadError: server and traffic do not fit each other, in one line.
        """
        seed = _whole_seed(seed)
        if timeseries_s is not None and not 0.001 <= timeseries_s < float("inf"):
            raise PytwinError(f"timeseries_s ({timeseries_s}) must be >= 0.001, or None")
        for name, value in (("ttft_slo_ms", ttft_slo_ms), ("tpot_slo_ms", tpot_slo_ms)):
            if not 0 < value <= _MAX_SLO_MS:
                raise PytwinError(f"{name} ({value}) must be > 0 and <= 1e9 milliseconds")
        if stop_tolerance is not None and not 0 < stop_tolerance < 1:
            raise PytwinError(f"stop_tolerance ({stop_tolerance}) must be > 0 and < 1, or None")
        if stop_starving or stop_tolerance is not None:
            _check_stoppable(traffic)
        profile = server.loaded_profile
        resolved = traffic.resolve(profile)
        ranks = traffic.adapter_ranks
        engine = server.resolved(has_adapters=bool(ranks))
        _check_fit(engine, ranks)
        self._hold(profile, resolved)
        return {
            "profile": profile.key,
            "seed": seed,
            "engine": engine,
            "ignore_memory": ignore_memory,
            "workload": resolved.document,
            "collect": {
                "requests": requests,
                "adapters": adapters,
                "timeseries_s": timeseries_s,
                "steps": steps,
                "exact_quantiles": exact_quantiles,
            },
            "objectives": {"ttft_ms": ttft_slo_ms, "tpot_ms": tpot_slo_ms},
            "early_stop": {"starving": bool(stop_starving), "tolerance": stop_tolerance},
        }

    def spec_json(self, server: EngineConfig, traffic: Workload, **options: Any) -> str:
        """`spec` as the JSON text that the core takes."""
        return json.dumps(self.spec(server, traffic, **options), allow_nan=False)

    def hold_profile(self, profile: Profile) -> None:
        """Put a profile into `library` under its key, once.

        Raises
        ------
        ConfigError: the core cannot read it, in one line.
        """
        if profile.key in self._held:
            return
        try:
            self.library.add_profile(profile.key, profile.text)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        self._held.add(profile.key)

    def _hold(self, profile: Profile, resolved: ResolvedWorkload) -> None:
        self.hold_profile(profile)
        for table in resolved.tables:
            self._hold_lengths(table)
        if resolved.trace is not None:
            self._hold_trace(resolved.trace)

    def _hold_lengths(self, table: LengthTable) -> None:
        if table.name in self._held:
            return
        self.library.add_lengths(
            table.name, table.prompt_tokens, table.output_tokens, table.weights
        )
        self._held.add(table.name)
        self._transient += 1

    def _hold_trace(self, trace: Trace) -> None:
        if trace.name in self._held:
            return
        self.library.add_trace(
            trace.name, trace.arrival_s, trace.adapter, trace.prompt_tokens, trace.output_tokens
        )
        self._held.add(trace.name)
        self._transient += 1


def extrapolated(
    server: EngineConfig,
    traffic: Workload,
    metrics: dict[str, Any] | None = None,
    *,
    served_adapters: int | None = None,
) -> list[str]:
    """Why a result for this server and traffic goes beyond what was measured; empty if it does not.

    Without `metrics` only what is known before the simulation is looked at. `served_adapters`: how
    many of the traffic's adapters the server has, if not all.
    """
    profile = server.loaded_profile
    ranks = traffic.adapter_ranks
    engine = server.resolved(has_adapters=bool(ranks))
    reasons = ["prior, never measured"] if profile.is_prior else []
    if engine["engine_version"] != profile.engine_version:
        reasons.append(
            f"engine_version {engine['engine_version']}, measured on {profile.engine_version}"
        )
    own_blocks = profile.server.get("num_gpu_blocks_override")
    if engine["num_gpu_blocks_override"] not in (None, own_blocks):
        reasons.append("num_gpu_blocks_override set, KV memory not the measured one")
    if engine["enable_prefix_caching"] and profile.server.get("enable_prefix_caching") is False:
        reasons.append("enable_prefix_caching on, measured off")
    rules = server.what_ifs.items() - {("lfu_half_life_s", server.lfu_half_life_s)}
    reasons += [f"{name} {value}, no rule of vLLM's" for name, value in sorted(rules)]
    observed = _observed(server, engine, traffic, metrics)
    if served_adapters is not None:
        observed["served_adapters"] = (served_adapters,)
    for feature, (low, high) in profile.ranges.items():
        reasons += [
            f"{feature} {value:g}, measured {low:g} to {high:g}"
            for value in dict.fromkeys(observed.get(feature, ()))
            if not low <= value <= high
        ]
    return reasons


def simulate(
    server: EngineConfig,
    traffic: Workload,
    *,
    seed: int = 0,
    requests: bool = True,
    timeseries_s: float | None = 2.0,
    steps: bool = False,
    ignore_memory: bool = False,
    ttft_slo_ms: float = TTFT_SLO_MS,
    tpot_slo_ms: float = TPOT_SLO_MS,
    exact_quantiles: bool = False,
    stop_starving: bool = False,
    stop_tolerance: float | None = None,
) -> Run:
    """Simulate `traffic` on `server`.

    Parameters
    ----------
    server: the profile and vLLM's settings.
    traffic: a `Workload`.
    seed: 0 to 2**64 - 1; the same seed, configuration and version give the same bits.
    requests: record one row per request in `Run.requests`; without them (and the time series)
        memory does not grow with the length of the run.
    timeseries_s: period of `Run.timeseries` in seconds, None for none.
    steps: record one row per engine step in `Run.steps`.
    ignore_memory: simulate even a server whose memory model says that it cannot start.
    ttft_slo_ms, tpot_slo_ms: the objectives that `slo_attainment`, `request_goodput`,
        `adapters_missing_slo` and the adapters' `slo_miss` are judged by
        (`vllm bench serve --goodput ttft:... tpot:...`).
    exact_quantiles: keep every latency, so that medians and percentiles are exact at any size;
        otherwise those of more than 1,024 latencies are within 0.1 %.
    stop_starving: end the run once 0.9 of the offered tokens are out of reach.
    stop_tolerance: end the run once throughput, TTFT and TPOT have settled to this relative half
        width, for example 0.02. Of a run that was stopped (`Run.stop_reason`), every figure is
        over the time simulated.

    Returns
    -------
    Run: `status` is "ok", or "infeasible" with the server's own reason in `error` when it could
        not start (an answer, not an exception).

    Raises
    ------
    PytwinError: bad input, in one line with the value, the rule and the way out.
    """
    check_nouns(server, traffic)
    twin = _shared_twin()
    if twin.crowded:
        _shared_twin.cache_clear()
        twin = _shared_twin()
    spec = twin.spec_json(
        server,
        traffic,
        seed=seed,
        requests=requests,
        adapters=True,
        timeseries_s=timeseries_s,
        steps=steps,
        ignore_memory=ignore_memory,
        ttft_slo_ms=ttft_slo_ms,
        tpot_slo_ms=tpot_slo_ms,
        exact_quantiles=exact_quantiles,
        stop_starving=stop_starving,
        stop_tolerance=stop_tolerance,
    )
    try:
        outcome = _core.simulate(twin.library, spec)
    except ValueError as error:
        raise PytwinError(str(error)) from None
    metrics = outcome["metrics"] if outcome["status"] == "ok" else None
    return Run(
        outcome,
        server=server,
        traffic=traffic,
        seed=seed,
        extrapolated=extrapolated(server, traffic, metrics),
    )


def check_nouns(server: object, traffic: object) -> None:
    """Refuse what is no server or no traffic, in one line.

    Raises
    ------
    ConfigError, WorkloadError
    """
    if not isinstance(server, EngineConfig):
        raise ConfigError(f"server ({server!r}) must be a pt.EngineConfig")
    if not isinstance(traffic, Workload):
        raise WorkloadError(f"traffic ({traffic!r}) must be a pt.Workload")


@lru_cache(maxsize=1)
def _shared_twin() -> Twin:
    return Twin()


def _whole_seed(seed: object) -> int:
    try:
        whole = -1 if isinstance(seed, bool) else operator.index(seed)  # type: ignore[arg-type]
    except TypeError:
        whole = -1
    if not 0 <= whole <= _MAX_SEED:
        raise PytwinError(f"seed ({seed!r}) must be a whole number from 0 to 2**64 - 1")
    return whole


def _check_stoppable(traffic: Workload) -> None:
    """Rules of the core, told in this interface's terms."""
    if isinstance(traffic, ReplayWorkload):
        raise WorkloadError(
            "a replayed trace runs to its end: leave out stop_starving and stop_tolerance"
        )
    if getattr(traffic, "drain", False):
        raise WorkloadError(
            "drain (True) must be False for a run that may stop early: leave out stop_starving "
            "and stop_tolerance"
        )


def _check_fit(engine: dict[str, Any], ranks: list[int]) -> None:
    if not ranks:
        return
    if engine["max_loras"] == 0:
        raise ConfigError(
            f"max_loras (0) must be >= 1 for traffic with {len(ranks)} adapters: 0 turns LoRA off"
        )
    highest = max(ranks)
    if highest > engine["max_lora_rank"]:
        adapter = ranks.index(highest) + 1
        raise ConfigError(
            f"rank ({highest}) of adapter {adapter} must be <= max_lora_rank "
            f"({engine['max_lora_rank']}): raise max_lora_rank"
        )


def _observed(
    server: EngineConfig,
    engine: dict[str, Any],
    traffic: Workload,
    metrics: dict[str, Any] | None,
) -> dict[str, tuple[float, ...]]:
    """Values of the features that profiles give ranges for."""
    ranks = traffic.adapter_ranks
    observed: dict[str, tuple[float, ...]] = {
        "served_adapters": (len(ranks),),
        "max_num_batched_tokens": (engine["max_num_batched_tokens"],),
        "block_size": (engine["block_size"],),
    }
    if engine["max_loras"]:
        observed["max_loras"] = (engine["max_loras"],)
        observed["max_cpu_loras"] = (engine["max_cpu_loras"],)
        observed["max_lora_rank"] = (engine["max_lora_rank"],)
    if ranks:
        observed["rank"] = (min(ranks), max(ranks))
    resolved = traffic.resolve(server.loaded_profile)
    for name, ranges in (
        ("prompt_tokens", resolved.prompt_ranges),
        ("output_tokens", resolved.output_ranges),
    ):
        observed[name] = (min(low for low, _ in ranges), max(high for _, high in ranges))
    if metrics:
        if metrics["max_running"]:  # nothing ran: nothing was beyond what was measured
            observed["seqs"] = (metrics["max_running"],)
        observed["waiting"] = (metrics["max_waiting"],)
        observed["adapters"] = (metrics["mean_batch_adapters"],)
    return observed
