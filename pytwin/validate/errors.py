"""Errors, verdicts and coverage of a group of runs; of rows made by `build_rows`."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

SLOW_TTFT_MS = 3000.0
"""A run whose mean TTFT is above this is slow, starved or not."""

CLEAR_OF_LINE = 0.01
"""Runs whose served ratio is nearer than this to 0.9 could be called either way."""

FLOORED = {
    "throughput": "total_throughput",
    "tpot": "mean_tpot_ms",
    "itl": "mean_itl_ms",
    "ttft": "mean_ttft_ms",
}


def errors(rows: pl.DataFrame, prefix: str) -> dict[str, Any]:
    """Errors in percent; `smape_half` divides by the sum, `smape_full` by the mean of the two."""
    throughput = _pairs(rows, prefix, "total_throughput")
    half = _mean(100 * abs(twin - real) / (abs(twin) + abs(real)) for real, twin in throughput)
    return {
        "throughput_mape": _mape(throughput),
        "throughput_smape_half": half,
        "throughput_smape_full": None if half is None else 2 * half,
        "throughput_bias": _mean(100 * (twin - real) / real for real, twin in throughput),
        "tpot_mape": _mape(_pairs(rows, prefix, "mean_tpot_ms")),
        "itl_mape": _mape(_pairs(rows, prefix, "mean_itl_ms")),
        "ttft_median_error": _median_error(_pairs(rows, prefix, "mean_ttft_ms")),
    }


def verdicts(rows: pl.DataFrame, prefix: str) -> dict[str, Any]:
    """Runs called right, in percent: starved or not, and mean TTFT above 3 s or not.

    `clear_runs` and `starved_right_clear` leave out the runs within 0.01 of the 0.9 line.
    """
    import polars as pl

    clear = rows.filter((pl.col("real_served_ratio") - 0.9).abs() > CLEAR_OF_LINE)
    ttft = rows.select("real_mean_ttft_ms", f"{prefix}_mean_ttft_ms").drop_nulls().rows()
    slow = [(real > SLOW_TTFT_MS, twin > SLOW_TTFT_MS) for real, twin in ttft]
    return {
        "starved_right": _agreement(_starved(rows, prefix)),
        "clear_runs": clear.height,
        "starved_right_clear": _agreement(_starved(clear, prefix)),
        "slow_right": _agreement(slow),
    }


def floors(rows: pl.DataFrame, prefix: str) -> dict[str, Any]:
    """Each error beside its floor: what a prediction of one run must err, in percent.

    The floor of a run is the mean absolute difference between a seed and the mean of the others;
    means over the runs, but the median for mean TTFT, as for the errors themselves.
    """
    found = errors(rows, prefix)
    table = {}
    for label, name in FLOORED.items():
        known = rows[f"{prefix}_{name}_floor"].drop_nulls().to_list()
        error = "ttft_median_error" if label == "ttft" else f"{label}_mape"
        average = statistics.median if label == "ttft" else statistics.fmean
        table[label] = found[error]
        table[f"{label}_floor"] = average(known) if known else None
    return table


def coverage(rows: pl.DataFrame, prefix: str, metric: str) -> dict[str, Any] | None:
    """Real runs inside their interval, in percent, and its median width; None without intervals."""
    import polars as pl

    real, low, high = (
        pl.col(f"real_{metric}"),
        pl.col(f"{prefix}_{metric}_low"),
        pl.col(f"{prefix}_{metric}_high"),
    )
    judged = rows.filter(real.is_not_null() & low.is_not_null() & high.is_not_null())
    if judged.is_empty():
        return None
    shares = judged.select(
        covered=100.0 * real.is_between(low, high).mean(),
        below=100.0 * (real < low).mean(),
        above=100.0 * (real > high).mean(),
        median_width=100.0 * ((high - low) / pl.col(f"{prefix}_{metric}")).median(),
    )
    return {"metric": metric, "runs": judged.height} | shares.row(0, named=True)


def _starved(rows: pl.DataFrame, prefix: str) -> Sequence[tuple[Any, ...]]:
    return rows.select("real_starved", f"{prefix}_starved").drop_nulls().rows()


def _pairs(rows: pl.DataFrame, prefix: str, name: str) -> list[tuple[float, float]]:
    """(real, twin) where both exist and the real one is positive."""
    pairs = rows.select(f"real_{name}", f"{prefix}_{name}").drop_nulls().iter_rows()
    return [(real, twin) for real, twin in pairs if real > 0]


def _mape(pairs: Sequence[tuple[float, float]]) -> float | None:
    return _mean(100 * abs(twin - real) / real for real, twin in pairs)


def _median_error(pairs: Sequence[tuple[float, float]]) -> float | None:
    found = [100 * abs(twin - real) / real for real, twin in pairs]
    return statistics.median(found) if found else None


def _mean(values: Iterable[float]) -> float | None:
    kept = list(values)
    return statistics.fmean(kept) if kept else None


def _agreement(pairs: Sequence[tuple[Any, ...]]) -> float | None:
    return _mean(100.0 * (real == twin) for real, twin in pairs)
