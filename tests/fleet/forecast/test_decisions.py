"""Replicas planned by a forecast against replicas needed."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from pytwin.errors import DataError, WorkloadError
from pytwin.fleet.forecast import History, forecast_rates, score_decisions


def rates(totals: list[float], upper: list[float] | None = None) -> pl.DataFrame:
    """Two adapters that share each bin's total."""
    bins = list(range(len(totals)))
    half = [total / 2 for total in totals]
    top = [total / 2 for total in (upper or totals)]
    return pl.DataFrame(
        {
            "adapter": ["a"] * len(bins) + ["b"] * len(bins),
            "bin": bins + bins,
            "rate_rps": half + half,
            "upper_rps": top + top,
        }
    )


def test_the_truth_planned_by_is_never_short_nor_idle():
    truth = rates([2.5, 4.0, 1.0])
    scores = score_decisions(truth, truth, 1.0)
    assert (scores.replica_bins, scores.needed_replica_bins) == (3 + 4 + 1, 8)
    assert (scores.short_bins, scores.unserved, scores.idle) == (0.0, 0.0, 0.0)
    assert scores.changes == 1 + 3


def test_shortage_and_idleness_are_counted():
    scores = score_decisions(rates([2.0, 2.0]), rates([3.5, 0.5]), 1.0)
    assert scores.short_bins == 0.5  # 2 planned, 4 needed
    assert scores.unserved == pytest.approx(1.5 / 4.0)
    assert scores.idle == pytest.approx(1 / 4)  # 2 planned, 1 needed
    assert scores.to_dict()["replica_bins"] == 4


def test_one_may_plan_on_the_mean_or_the_upper_end():
    forecast, truth = rates([1.0], upper=[3.0]), rates([2.0])
    assert score_decisions(forecast, truth, 1.0, plan_on="upper").replica_bins == 3
    assert score_decisions(forecast, truth, 1.0, plan_on="mean").short_bins == 1.0


def test_least_replicas_hold_at_night():
    assert score_decisions(rates([0.0]), rates([0.0]), 1.0, least_replicas=2).replica_bins == 2


def test_the_upper_end_of_a_forecast_is_short_less_often_than_its_mean():
    counts = np.random.default_rng(0).poisson(30.0, (10, 192)).astype(float)
    history = History(counts, 3600.0)
    forecast = forecast_rates(history.before(168), 24, "moving-average")
    after = history.after(168)
    truth = pl.DataFrame(
        {
            "adapter": np.repeat(np.array(after.adapters), 24),
            "bin": np.tile(np.arange(24), 10),
            "rate_rps": after.counts.ravel() / 3600.0,
        }
    )
    on_mean = score_decisions(forecast, truth, 0.002, plan_on="mean")
    on_upper = score_decisions(forecast, truth, 0.002, plan_on="upper")
    assert on_upper.short_bins < 0.05 < on_mean.short_bins
    assert on_upper.idle > on_mean.idle


def test_bad_values():
    with pytest.raises(DataError, match=r"forecast \(1 bins\) and truth \(2 bins\) must be of"):
        score_decisions(rates([1.0]), rates([1.0, 2.0]), 1.0)
    with pytest.raises(WorkloadError, match="capacity_rps"):
        score_decisions(rates([1.0]), rates([1.0]), 0.0)
    with pytest.raises(DataError, match="forecast lacks column upper_rps"):
        score_decisions(rates([1.0]).drop("upper_rps"), rates([1.0]), 1.0)
