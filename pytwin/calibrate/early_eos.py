"""How often a request stops before its requested output length, and which requests do.

Servers count requests that finish for another reason than their length: that share is how often.
Which ones do shows in the mean output: if all were as likely to stop, at a uniform position, half
of that share would be missing from the mean output; if long ones stop more often, in proportion to
their length, E[o^2] / E[o]^2 times as much is missing. The law is a mixture of the two,

    chance(o) = probability + per_token * o,   at a uniform position,

fixed by the two measured figures: the share of early ends and the mean output they leave.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from pytwin.catalog import LengthTable

# A queue biases which requests complete within the hour: only runs without one tell.
_UNQUEUED_WAITING_MAX = 5


def fit(runs: pl.DataFrame, timeseries: pl.DataFrame, lengths: LengthTable) -> dict[str, float]:
    """The law of early ends, {"probability", "per_token"}, from unqueued runs of one model.

    runs, timeseries: rows of the traces' tables. ValueError without an unqueued run.
    """
    calm = runs.filter(
        pl.col("family") == "ml_test",
        pl.col("status") == "ok",
        pl.col("ts_waiting_max") < _UNQUEUED_WAITING_MAX,
    )
    if calm.is_empty():
        raise ValueError("no unqueued run: early ends cannot be told from the queue's bias")
    output = lengths.output_tokens.astype(np.float64)
    weight = lengths.weights / lengths.weights.sum()
    mean = float(weight @ output)
    spread = float(weight @ output**2) / mean**2  # 1 if all outputs were alike
    share = _share_of_early_ends(calm, timeseries)
    # missing = (constant part + spread * growing part) / 2, constant + growing = share
    missing = 1.0 - _kept_output(calm, spread)
    growing = (2.0 * missing - share) / (spread - 1.0) if spread > 1.0 else 0.0
    growing = min(max(growing, 0.0), share)
    return {
        "probability": float(f"{share - growing:.3g}"),
        "per_token": float(f"{growing / mean:.3g}"),
    }


def _share_of_early_ends(calm: pl.DataFrame, timeseries: pl.DataFrame) -> float:
    """Requests that the servers counted as stopped, of those that completed."""
    last = (
        timeseries.filter(
            pl.col("run_idx").is_in(calm["run_idx"].implode()),
            pl.col("finished_first_reason").is_not_null(),
        )
        .sort("run_idx", "t_s")
        .group_by("run_idx")
        .agg(pl.col("finished_first_reason").last())
        .join(calm.select("run_idx", "completed"), on="run_idx")
    )
    if last.is_empty():
        return 0.0
    return float(last["finished_first_reason"].sum()) / float(last["completed"].sum())


def _kept_output(calm: pl.DataFrame, length_biased: float) -> float:
    """Completed output over what the pool's mean promised.

    Requests still running at the end are longer than the average: `length_biased` mean outputs.
    """
    completed = calm["completed"].to_numpy().astype(np.float64)
    in_flight = calm["ts_running_mean"].to_numpy()
    pool = calm["pool_mean_output_len"].to_numpy()
    expected = (completed + in_flight - in_flight * length_biased) * pool
    return min(1.0, float(calm["total_output_tokens"].sum() / expected.sum()))
