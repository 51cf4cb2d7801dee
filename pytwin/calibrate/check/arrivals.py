"""What was measured end to end, and the same arrivals simulated.

Both sides are counted by the same formulas from rows of single requests, so that a difference is
the twin's and not a definition's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pytwin.config import EngineConfig
from pytwin.errors import PytwinError
from pytwin.results import Run
from pytwin.simulation import simulate
from pytwin.workload import Workload

FloatArray = npt.NDArray[np.float64]

# The twin visits the adapters of a step in a random order, as vLLM's does: averaged over this many.
SEEDS = 4
QUANTILES = (("median", 0.5), ("p99", 0.99))
_OWN_KV = "num_gpu_blocks_override"


@dataclass(frozen=True)
class Measured:
    """A measured run.

    requests: one row per request that was sent and not refused, in order of arrival: arrival_s
        (from the first one), adapter (0: base model), rank (null: unknown), prompt_tokens,
        output_tokens, ttft_ms, tpot_ms, e2el_ms (null where there is none).
    itl_ms: all gaps between tokens.
    gauges: mean_running and so on, where the run tells them.
    remarks: what a reader must know of how it was measured.
    """

    name: str
    requests: pl.DataFrame
    itl_ms: FloatArray
    duration_s: float
    complete: bool
    gauges: Mapping[str, float] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Rows of (metric, measured, simulated, error_percent), paired errors, and reservations."""

    rows: list[dict[str, Any]]
    requests: dict[str, Any]
    extrapolated: list[str]
    remarks: tuple[str, ...]


def trace_of(measured: Measured, max_lora_rank: int) -> pl.DataFrame:
    """The arrivals as a trace to play back."""
    adapter = pl.col("adapter")
    return measured.requests.select(
        "arrival_s",
        pl.when(adapter > 0).then(adapter.cast(pl.String)).otherwise(pl.lit("")).alias("adapter"),
        "prompt_tokens",
        pl.col("output_tokens").clip(1),
        pl.col("rank").fill_null(max_lora_rank),
    )


def compare(
    server: EngineConfig,
    measured: Measured,
    *,
    traces: Sequence[pl.DataFrame] | None = None,
    stated: Mapping[str, float] | None = None,
    own_kv: bool = False,
) -> Comparison:
    """Simulate the measured arrivals on `server` and compare what came out.

    Parameters
    ----------
    traces: the arrivals to play back, averaged over; the measured ones if left out.
    stated: the measured figures where the single requests are not known.
    own_kv: num_gpu_blocks_override is what the measured server had, no reservation.

    Raises
    ------
    PytwinError: the server cannot start by the profile's memory model, or nothing finished.
    """
    played = list(traces) if traces else [trace_of(measured, server.max_lora_rank)] * SEEDS
    runs = [_run(server, trace, measured, seed) for seed, trace in enumerate(played)]
    ours = [_figures(_simulated(run, measured)) | _gauges(run) for run in runs]
    theirs = dict(stated) if stated else _figures(measured) | dict(measured.gauges)
    rows = []
    for name, value in theirs.items():
        known = [figures[name] for figures in ours if figures.get(name) is not None]
        mean = float(np.mean(known)) if known else None
        rows.append({
            "metric": name,
            "measured": value,
            "simulated": mean,
            "error_percent": _error(mean, value),
        })  # fmt: skip
    reasons = sorted({
        reason
        for run in runs
        for reason in run.extrapolated
        if not (own_kv and reason.startswith(_OWN_KV))
    })  # fmt: skip
    paired = {} if stated else _paired(runs, measured)
    return Comparison(rows, paired, reasons, measured.remarks)


def _run(server: EngineConfig, trace: pl.DataFrame, measured: Measured, seed: int) -> Run:
    traffic = Workload.replay(
        trace,
        duration_s=None if measured.complete else measured.duration_s,
        drain=measured.complete,
    )
    run = simulate(server, traffic, seed=seed, timeseries_s=None)
    if run.status != "ok":
        raise PytwinError(f"the profile says that this server cannot start: {run.error}")
    return run


def _simulated(run: Run, measured: Measured) -> Measured:
    requests = run.requests
    finished = requests.filter(pl.col("status") == "finished")
    ends = (finished["arrival_s"] + finished["e2el_ms"] / 1e3).to_numpy()
    duration = float(ends.max()) if measured.complete and len(ends) else measured.duration_s
    times = pl.col("ttft_ms", "tpot_ms", "e2el_ms")
    done = pl.col("status") == "finished"
    rows = requests.with_columns(
        pl.when(done).then(times),
    ).select("arrival_s", "prompt_tokens", "output_tokens", "ttft_ms", "tpot_ms", "e2el_ms")
    return Measured("twin", rows, np.array([]), duration, measured.complete)


def _gauges(run: Run) -> dict[str, float]:
    """What the core counts itself."""
    names = (
        "mean_running", "max_running", "mean_waiting", "max_waiting", "preemptions",
        "lora_loads_disk", "lora_loads_memory", "mean_itl_ms", "median_itl_ms", "p99_itl_ms",
    )  # fmt: skip
    return {name: float(run.metrics[name]) for name in names if name in run.metrics}


def _figures(measured: Measured) -> dict[str, float]:
    """The metrics of a run, under vllm bench serve's names."""
    rows = measured.requests
    done = rows.filter(pl.col("e2el_ms").is_not_null())
    if done.is_empty():
        raise PytwinError(f"{measured.name}: no request finished, so nothing can be compared")
    prompts, outputs = float(done["prompt_tokens"].sum()), float(done["output_tokens"].sum())
    found: dict[str, float] = {
        "completed": float(done.height),
        "duration": measured.duration_s,
        "request_throughput": done.height / measured.duration_s,
        "output_throughput": outputs / measured.duration_s,
        "total_token_throughput": (prompts + outputs) / measured.duration_s,
    }
    for column in ("ttft_ms", "tpot_ms", "e2el_ms"):
        values = done[column].drop_nulls().drop_nans().to_numpy()
        found |= _statistics(column, np.asarray(values, dtype=np.float64))
    return found | _statistics("itl_ms", measured.itl_ms)


def _statistics(name: str, values: FloatArray) -> dict[str, float]:
    if not len(values):
        return {}
    return {f"mean_{name}": float(values.mean())} | {
        f"{label}_{name}": float(np.quantile(values, level)) for label, level in QUANTILES
    }


def _error(simulated: float | None, measured: float) -> float | None:
    if simulated is None or not measured:
        return None if simulated is None or simulated != measured else 0.0
    return round(100 * (simulated / measured - 1), 2)


def _paired(runs: Sequence[Run], measured: Measured) -> dict[str, Any]:
    """Errors request by request: the same arrivals stand in the same order."""
    report: dict[str, Any] = {}
    for column in ("ttft_ms", "tpot_ms", "e2el_ms"):
        real = measured.requests[column].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        ours = np.mean(
            [
                run.requests[column].cast(pl.Float64).fill_null(float("nan")).to_numpy()
                for run in runs
            ],
            axis=0,
        )
        both = ~np.isnan(real) & ~np.isnan(ours) & (real > 0)
        if both.any():
            off = 100 * (ours[both] / real[both] - 1)
            report[column] = {
                "requests": int(both.sum()),
                "median_error_percent": round(float(np.median(np.abs(off))), 2),
                "median_bias_percent": round(float(np.median(off)), 2),
            }
    return report
