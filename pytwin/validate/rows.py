"""One row per real run: what came out, and what the twin said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytwin.uncertainty import INTERVAL_METRICS
from pytwin.validate.predict import RunPrediction
from pytwin.validate.read import RealRuns

if TYPE_CHECKING:
    import polars as pl

METRICS = (
    "total_throughput", "request_throughput", "mean_tpot_ms", "mean_itl_ms", "mean_ttft_ms",
    "median_ttft_ms", "p99_ttft_ms", "completed",
)  # fmt: skip
"""Figures compared, under the names that the real client gave them."""

STARVED_RATIO = 0.9

LESS_KV_MEMORY = 1.06
"""A real run whose running requests hold more than this much more of the KV cache, each, than the
twin's, had a smaller cache than its configuration gives: lengths do not differ by so much."""
_FEW_RUNNING = 5.0


def build_rows(
    runs: RealRuns,
    predictions: Sequence[RunPrediction],
    *,
    blind: Sequence[RunPrediction] | None = None,
) -> pl.DataFrame:
    """One row per real run: identity, the twin's status, real_X and twin_X for X in `METRICS`.

    With `blind`, `predictions` are conditioned on the arrival count and blind_X stands beside
    them. For X in `INTERVAL_METRICS` also twin_X_low and twin_X_high (null without intervals) and
    twin_X_floor (percent that a prediction must err, see `RunPrediction`). `less_kv_memory` is
    said of the real run after the fact: it held less KV cache than its configuration gives (null
    where usage was not measured). Times in ms, throughputs in tokens or requests per second.
    """
    import polars as pl

    rows = []
    for k, (config, prediction, outcome) in enumerate(
        zip(runs.configs, predictions, runs.outcomes.iter_rows(named=True), strict=True)
    ):
        ratio = _served_ratio(runs, k, outcome)
        critical = prediction.near_critical
        row: dict[str, Any] = {
            "run_idx": config.run_idx,
            "run_id": config.run_id,
            "family": config.family,
            "model": config.model,
            "real_status": outcome["status"],
            "real_error": outcome["error_class"],
            "twin_status": prediction.status,
            "twin_error": prediction.error,
            "extrapolated": bool(prediction.extrapolated),
            "extrapolated_why": "; ".join(prediction.extrapolated) or None,
            "near_critical": None if critical is None else bool(critical),
            "near_critical_why": "; ".join(critical or []) or None,
            "conditioned": config.conditioned if blind is not None else "none",
            "excluded": config.excluded,
            "real_served_ratio": ratio,
            "real_starved": _real_starved(ratio, outcome),
            "less_kv_memory": _less_kv_memory(outcome, prediction),
        }
        row |= _said("twin", prediction)
        if blind is not None:
            row |= _said("blind", blind[k])
        row |= {f"real_{name}": _float(outcome[name]) for name in METRICS}
        rows.append(row)
    return pl.DataFrame(rows, schema_overrides=_schema(rows[0]))


def _schema(row: dict[str, Any]) -> dict[str, pl.DataType | type[pl.DataType]]:
    """Types that do not depend on which values are null."""
    import polars as pl

    schema: dict[str, pl.DataType | type[pl.DataType]] = {
        name: pl.Float64 for name in row if name.startswith(("real_", "twin_", "blind_"))
    }
    text = ("real_status", "real_error", "twin_status", "twin_error", "excluded")
    schema |= dict.fromkeys((*text, "extrapolated_why", "near_critical_why"), pl.String)
    flags = ("real_starved", "twin_starved", "blind_starved", "near_critical", "less_kv_memory")
    return schema | {name: pl.Boolean for name in flags if name in row}


def _said(prefix: str, prediction: RunPrediction) -> dict[str, Any]:
    said: dict[str, Any] = {
        f"{prefix}_starved": _twin_starved(prediction),
        f"{prefix}_starved_probability": prediction.starved,
    }
    said |= {f"{prefix}_{name}": prediction.metrics.get(name) for name in METRICS}
    for name in INTERVAL_METRICS:
        low, high = prediction.intervals.get(name, (None, None))
        said[f"{prefix}_{name}_low"], said[f"{prefix}_{name}_high"] = low, high
        said[f"{prefix}_{name}_floor"] = prediction.floor.get(name)
    return said


def _served_ratio(runs: RealRuns, k: int, outcome: dict[str, Any]) -> float | None:
    """The traces' own ratio, else throughput over what was offered."""
    if outcome["served_ratio"] is not None:
        return float(outcome["served_ratio"])
    config = runs.configs[k]
    throughput = outcome["total_throughput"]
    if throughput is None or config.mean_lengths is None or not config.duration_s:
        return None
    arrivals = config.arrivals or sum(config.rates_rps) * config.duration_s
    offered = arrivals * sum(config.mean_lengths) / config.duration_s
    return float(throughput / offered) if offered > 0 else None


def _real_starved(ratio: float | None, outcome: dict[str, Any]) -> bool | None:
    """The traces' own flag, else the rule: throughput <= 0.9 of what was offered."""
    if outcome["starved"] is not None:
        return bool(outcome["starved"])
    return None if ratio is None else ratio <= STARVED_RATIO


def _less_kv_memory(outcome: dict[str, Any], prediction: RunPrediction) -> bool | None:
    """KV usage per running request, real over twin, says whether the cache was smaller."""
    usage, running = outcome["ts_kv_usage_mean"], outcome["ts_running_mean"]
    twin_usage = prediction.metrics.get("mean_kv_usage")
    twin_running = prediction.metrics.get("mean_running")
    if not usage or not running or running < _FEW_RUNNING or not twin_usage or not twin_running:
        return None
    return bool(usage / running > LESS_KV_MEMORY * twin_usage / twin_running)


def _twin_starved(prediction: RunPrediction) -> bool | None:
    offered = prediction.metrics.get("offered_token_throughput")
    served = prediction.metrics.get("total_throughput")
    if offered is None or served is None:
        return None
    return served <= STARVED_RATIO * offered


def _float(value: Any) -> float | None:
    return None if value is None else float(value)
