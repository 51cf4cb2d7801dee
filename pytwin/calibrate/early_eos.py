"""How often a request stops before its requested output length, and what that takes off the mean.

Servers count requests that finish for another reason than their length; their share is the
probability of an early end. The model ends such a request at a uniform position. Where real ends
come sooner or later than that, the probability is scaled so that the *mean output* is right, since
it, not the count, sets load and throughput.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from pytwin.catalog import LengthTable

# A queue biases which requests complete within the hour: only runs without one tell.
_UNQUEUED_WAITING_MAX = 5


def fit(runs: pl.DataFrame, lengths: LengthTable) -> float:
    """Effective probability that a request ends early, from unqueued runs of one model.

    Completed requests' mean output against the pool's mean, corrected for the requests still
    running at the end, which are longer than the average.
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
    length_biased = float(weight @ output**2) / float(weight @ output) ** 2  # in mean outputs
    completed = calm["completed"].to_numpy().astype(np.float64)
    in_flight = calm["ts_running_mean"].to_numpy()
    pool = calm["pool_mean_output_len"].to_numpy()
    prompt_share = (
        calm["total_input_tokens"].to_numpy() / completed / calm["pool_mean_input_len"].to_numpy()
    )
    expected = (completed + in_flight - in_flight * length_biased) * pool
    drawn = float((prompt_share * completed).sum() / completed.sum())
    kept = float(calm["total_output_tokens"].sum() / expected.sum())
    # A uniform position takes half of an early request's output. The pool's sampling noise shows
    # in the prompts too, in the other direction where lengths are anticorrelated: left as it is.
    return round(max(0.0, 2 * (1 - kept / max(drawn, kept))), 4)
