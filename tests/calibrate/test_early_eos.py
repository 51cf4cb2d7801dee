"""The law of early ends is found again from the counters of made-up runs."""

import numpy as np
import polars as pl
import pytest

from pytwin.calibrate import early_eos
from pytwin.catalog import LengthTable

OUTPUT = np.array([20, 60, 150, 400, 900], dtype=np.uint32)
TABLE = LengthTable("made-up", np.full(5, 100, dtype=np.uint32), OUTPUT, np.ones(5))


def counters(probability: float, per_token: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What servers of a million requests each would have counted, by expectation."""
    chance = probability + per_token * OUTPUT.astype(float)
    kept = (OUTPUT * (1 - chance / 2)).mean()
    completed = 1_000_000
    runs = pl.DataFrame(
        {
            "run_idx": [1, 2],
            "family": "ml_test",
            "status": "ok",
            "ts_waiting_max": [0, 900],  # the second one queued: it must not count
            "completed": completed,
            "ts_running_mean": 0.0,
            "pool_mean_output_len": float(OUTPUT.mean()),
            "total_output_tokens": [round(completed * kept), 1],
        }
    )
    early = round(completed * chance.mean())
    timeseries = pl.DataFrame(
        {
            "run_idx": [1, 1, 1, 2],
            "t_s": [0.0, 10.0, 20.0, 10.0],
            "finished_first_reason": [0, early // 2, early, 7],
        }
    )
    return runs, timeseries


@pytest.mark.parametrize("law", [(0.02, 0.0), (0.0, 1e-4), (0.03, 5e-5)])
def test_the_law_is_found_again(law):
    found = early_eos.fit(*counters(*law), TABLE)
    assert found["probability"] == pytest.approx(law[0], abs=2e-4)
    assert found["per_token"] == pytest.approx(law[1], abs=1e-6)


def test_without_an_unqueued_run_there_is_no_law():
    runs, timeseries = counters(0.02, 0.0)
    with pytest.raises(ValueError, match="no unqueued run"):
        early_eos.fit(runs.filter(pl.col("run_idx") == 2), timeseries, TABLE)
