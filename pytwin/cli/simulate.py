"""`pytwin simulate`: one server, one workload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from pytwin.cli.flags import EngineFlags, Format, TrafficFlags
from pytwin.cli.interval import check_targets, print_prediction
from pytwin.cli.output import (
    check_writable,
    note,
    print_csv,
    print_json,
    print_table,
    write_frame,
)
from pytwin.errors import PytwinError
from pytwin.simulation import TPOT_SLO_MS, TTFT_SLO_MS
from pytwin.simulation import simulate as run_simulation
from pytwin.uncertainty import predict

if TYPE_CHECKING:
    from pytwin.results import Run

# The figures of the table, in the order in which a person asks for them.
_SHOWN = (
    "starved", "arrived", "completed", "refused", "unfinished_running", "unfinished_waiting",
    "request_throughput", "total_throughput", "offered_token_throughput", "served_ratio",
    "mean_ttft_ms", "median_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "p99_tpot_ms",
    "mean_itl_ms", "p99_itl_ms", "mean_running", "max_running", "mean_waiting", "max_waiting",
    "mean_kv_usage", "max_kv_usage", "kv_tokens", "preemptions", "lora_loads_disk",
    "lora_loads_memory", "lora_load_time_s", "steps",
)  # fmt: skip


@Parameter(name="*", group="Output")
@dataclass(kw_only=True)
class SaveFlags:
    """What to write to files; .parquet or .csv."""

    save_requests: str | None = None
    """File for one row per request."""
    save_adapters: str | None = None
    """File for one row per adapter."""
    save_timeseries: str | None = None
    """File for the time series."""
    save_steps: str | None = None
    """File for one row per engine step."""
    timeseries_s: float = 2.0
    """Period of the time series in seconds."""
    exact_quantiles: bool = False
    """Keep every latency: medians and percentiles are then exact at any size, else within 0.1 %."""

    def check(self) -> None:
        """Refuse bad targets before the simulation."""
        for path in self.targets().values():
            check_writable(path)

    def targets(self) -> dict[str, str]:
        """Frame name -> file."""
        names = ("requests", "adapters", "timeseries", "steps")
        paths = {name: getattr(self, f"save_{name}") for name in names}
        return {name: path for name, path in paths.items() if path is not None}


@Parameter(name="*", group="Early stop")
@dataclass(kw_only=True)
class StopFlags:
    """End a simulation once its answer is known."""

    stop_starving: bool = False
    """Stop once 0.9 of the offered tokens are out of reach."""
    stop_tolerance: float | None = None
    """Stop once throughput, TTFT and TPOT have settled to this relative half width."""


@Parameter(name="*", group="Uncertainty")
@dataclass(kw_only=True)
class IntervalFlags:
    """Prediction intervals, from many simulations instead of one."""

    interval: float | None = None
    """Share of real runs that the intervals are to hold, as in 0.9."""
    seeds: int = 8
    """Simulations whose mean is the estimate, from seed on; with --interval."""
    draws: int = 16
    """Simulations with the profile's uncertain factors moved; with --interval."""


def simulate(
    *,
    profile: str,
    engine: EngineFlags | None = None,
    traffic: TrafficFlags | None = None,
    seed: int = 0,
    ttft_slo_ms: float = TTFT_SLO_MS,
    tpot_slo_ms: float = TPOT_SLO_MS,
    stop: StopFlags | None = None,
    uncertainty: IntervalFlags | None = None,
    save: SaveFlags | None = None,
    format: Annotated[Format, Parameter(name="--format", group="Output")] = "table",  # noqa: A002
) -> int:
    """Simulate one server under one workload.

    With `--format json` the result has the form of `vllm bench serve --save-result`. A server
    that cannot start is an answer: `status` infeasible, exit code 0. With `--interval 0.9` it is a
    prediction: estimates over several seeds, their intervals, the probability of starvation, and
    whether the configuration is near-critical.

    Parameters
    ----------
    profile
        A shipped profile (see `pytwin profiles`), or the path of a profile JSON.
    seed
        Seed of the random streams.
    ttft_slo_ms
        Objective for the time to first token.
    tpot_slo_ms
        Objective for a request's mean time per output token.
    """
    save = save or SaveFlags()
    save.check()
    server = (engine or EngineFlags()).engine_config(profile)
    workload = (traffic or TrafficFlags()).workload()
    targets = save.targets()
    sure, until = uncertainty or IntervalFlags(), stop or StopFlags()
    if sure.interval is not None:
        check_targets(targets)
        if until != StopFlags():
            raise PytwinError(
                "stop_starving and stop_tolerance have no meaning with interval: leave them out"
            )
        prediction = predict(
            server,
            workload,
            seeds=sure.seeds,
            draws=sure.draws,
            level=sure.interval,
            first_seed=seed,
            ttft_slo_ms=ttft_slo_ms,
            tpot_slo_ms=tpot_slo_ms,
        )
        print_prediction(prediction, format)
        if prediction.status == "ok" and "adapters" in targets:
            write_frame(prediction.adapters, targets["adapters"])
        return 0
    if sure != IntervalFlags():
        raise PytwinError("seeds and draws are of a prediction: add interval, as in 0.9")
    run = run_simulation(
        server,
        workload,
        seed=seed,
        ttft_slo_ms=ttft_slo_ms,
        tpot_slo_ms=tpot_slo_ms,
        requests="requests" in targets,
        timeseries_s=save.timeseries_s if "timeseries" in targets else None,
        steps="steps" in targets,
        exact_quantiles=save.exact_quantiles,
        stop_starving=until.stop_starving,
        stop_tolerance=until.stop_tolerance,
    )
    for reason in run.extrapolated:
        note(f"extrapolated: {reason}")
    _print(run, format)
    if run.status == "ok":
        for name, path in targets.items():
            write_frame(getattr(run, name), path)
    return 0


def _print(run: Run, format: Format) -> None:  # noqa: A002
    result = run.to_dict()
    if format == "json":
        print_json(result)
    elif format == "csv":
        print_csv([result])
    elif run.status != "ok":
        print_table([{"status": run.status, "why": run.error}])
    else:
        starved = {"starved": bool(result["starved"])}
        rows = [
            {"metric": name, "value": (result | starved)[name]} for name in _SHOWN if name in result
        ]
        print_table(rows, title=f"{result['profile']}, seed {run.seed}")
