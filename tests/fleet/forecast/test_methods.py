"""Forecast methods: what they give on series whose answer is known, and that none looks ahead."""

from __future__ import annotations

import numpy as np
import pytest

from pytwin.errors import ConfigError, DataError, WorkloadError
from pytwin.fleet.forecast import PLAIN, History, Method, bin_counts, forecast, forecast_rates
from pytwin.fleet.forecast.library import installed
from pytwin.fleet.forecast.methods import forecast_at
from pytwin.fleet.logs import RequestLog, TrafficLaw, fleet_traffic

needs_library = pytest.mark.skipif(
    not installed(), reason="statsforecast is not installed: pip install 'pytwin[forecast]'"
)
LIBRARY = [method for method in Method if method not in (*PLAIN, Method.ORACLE)]
EVERY = [*PLAIN, *(pytest.param(method, marks=needs_library) for method in LIBRARY)]


def poisson(mean, bins: int, seed: int = 0) -> np.ndarray:
    means = np.atleast_1d(np.asarray(mean, dtype=float))
    return np.random.default_rng(seed).poisson(means[:, None], (len(means), bins)).astype(float)


def test_persistence_is_the_last_bin():
    history = History(np.array([[1.0, 2.0, 7.0]]), 3600.0)
    assert forecast(history, 2, "persistence").mean.tolist() == [[7.0, 7.0]]


def test_moving_average_is_the_mean_of_a_day():
    counts = np.arange(30.0)[None]
    assert forecast(History(counts, 3600.0), 1, "moving-average").mean[0, 0] == counts[0, 6:].mean()


def test_ewma_weighs_alike_at_first_and_then_geometrically():
    counts = np.array([[4.0, 8.0, 3.0, 10.0]])
    # Weights 1, 1/2, 1/3, then 0.3: the mean of the first three is 5.
    assert forecast(History(counts, 3600.0), 1, "ewma").mean[0, 0] == pytest.approx(5 + 0.3 * 5)


def test_seasonal_naive_repeats_the_last_day_beyond_one_day():
    counts = np.arange(8.0)[None]
    history = History(counts, 86_400.0 / 4)
    assert history.season_bins == 4
    assert forecast(history, 6, "seasonal-naive").mean.tolist() == [[4.0, 5.0, 6.0, 7.0, 4.0, 5.0]]


@pytest.mark.parametrize("method", EVERY)
def test_no_method_looks_ahead(method):
    counts = poisson([0.3, 9.0], 80)
    changed = counts.copy()
    changed[:, 60:] += 50
    origins = [50, 60]
    assert np.array_equal(
        forecast_at(method, counts, origins, 4, 24), forecast_at(method, changed, origins, 4, 24)
    )


@pytest.mark.parametrize("method", EVERY)
def test_many_origins_are_as_one_at_a_time(method):
    counts = poisson([0.3, 9.0], 60)
    both = forecast_at(method, counts, [50, 57], 3, 24)
    for column, origin in enumerate([50, 57]):
        alone = forecast_at(method, counts[:, :origin], [origin], 3, 24)
        assert both[:, [column]] == pytest.approx(alone)


@pytest.mark.parametrize("method", EVERY)
def test_a_steady_rate_is_found(method):
    """Of counts of mean 40 the forecast is within five of its own standard errors, at most 1."""
    counts = poisson([40.0], 144, seed=5)
    worst = {Method.PERSISTENCE: 32.0, Method.SEASONAL_NAIVE: 32.0, Method.EWMA: 14.0}
    assert forecast(History(counts, 3600.0), 24, method).mean == pytest.approx(
        40.0, abs=worst.get(method, 12.0)
    )


@pytest.mark.parametrize("method", EVERY)
def test_silence_is_forecast_as_silence(method):
    ahead = forecast(History(np.zeros((2, 96)), 3600.0), 24, method)
    assert not ahead.mean.any()
    assert not ahead.band.upper.any()


@needs_library
@pytest.mark.parametrize("method", [Method.HOLT_WINTERS, Method.AUTO_ETS])
def test_days_are_learnt(method):
    hours = np.arange(24 * 6)
    means = 100.0 + 60.0 * np.sin(2 * np.pi * hours / 24)
    counts = np.random.default_rng(1).poisson(means)[None].astype(float)
    ahead = forecast_at(method, counts[:, :120], [120], 24, 24)[0, 0]
    assert np.abs(ahead - means[120:]).mean() < 10.0  # the mean count alone would miss by 38


@needs_library
@pytest.mark.parametrize("method", [Method.CROSTON, Method.TSB])
def test_intermittent_rates_are_found(method):
    counts = poisson([0.15] * 20, 336, seed=2)
    ahead = forecast_at(method, counts, [336], 1, 24)
    assert ahead.mean() == pytest.approx(0.15, abs=0.06)


def test_a_missing_library_is_told_with_the_way_out(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "statsforecast", None)
    with pytest.raises(DataError, match=r"method \(tsb\) needs statsforecast: pip install"):
        forecast_rates(History(poisson(1.0, 60), 3600.0), 1, "tsb")


def test_the_oracle_gives_the_truth():
    truth = np.array([[0.5, 0.25]])
    frame = forecast_rates(History(poisson(1.0, 10), 60.0), 2, "oracle", truth_rps=truth)
    assert frame["rate_rps"].to_list() == [0.5, 0.25]
    assert (frame["lower_rps"] < frame["rate_rps"]).all()
    assert (frame["upper_rps"] > frame["rate_rps"]).all()


def test_the_frame_is_ordered_and_in_requests_per_second():
    history = History(np.array([[6.0] * 30, [12.0] * 30]), 60.0, ("b", "a"))
    frame = forecast_rates(history, 2, "ewma")
    assert frame.columns == ["adapter", "bin", "rate_rps", "lower_rps", "upper_rps"]
    assert frame["adapter"].to_list() == ["b", "b", "a", "a"]
    assert frame["bin"].to_list() == [0, 1, 0, 1]
    assert frame["rate_rps"].to_list() == pytest.approx([0.1, 0.1, 0.2, 0.2])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda h: forecast_rates(h, 1, "prophet"), ConfigError, r"method \(prophet\) must be one"),
        (lambda h: forecast_rates(h, 0), WorkloadError, r"horizon_bins \(0\) must be from 1"),
        (lambda h: forecast_rates(h, 1, level=1.0), ConfigError, r"level \(1.0\) must be above 0"),
        (lambda h: forecast_rates(h, 1, "oracle"), ConfigError, "needs truth_rps"),
        (lambda h: forecast_rates(h, 1, "seasonal-naive"), DataError, r"\(10 bins\) is too short"),
        (
            lambda h: forecast_rates(History(h.counts, 50_000.0), 1, "seasonal-naive"),
            ConfigError,
            "bin_s must divide 86400 s",
        ),
        (lambda h: History(-h.counts - 1, 60.0), WorkloadError, "must be finite and >= 0"),
        (lambda h: History(h.counts[0], 60.0), WorkloadError, "must be adapters x bins"),
    ],
)
def test_bad_values(call, error, message):
    with pytest.raises(error, match=message):
        call(History(poisson(1.0, 10), 3600.0))


def test_bins_hold_every_request_of_every_adapter():
    traffic = fleet_traffic(3, rate_rps=0.05, duration_s=86_400.0, lengths=(9, 9))
    history = bin_counts(traffic.log, 3600.0, end_s=86_400.0)
    assert history.bins == 24
    assert history.counts.sum() == traffic.frame.height
    assert set(history.adapters) == set(traffic.names)
    assert history.before(5).bins == 5
    assert np.array_equal(history.after(5).counts, history.counts[:, 5:])


def test_half_a_bin_at_the_end_is_left_out():
    log = fleet_traffic(1, rate_rps=0.5, duration_s=5400.0, law=TrafficLaw.steady()).log
    assert bin_counts(log, 3600.0).bins == 1
    assert bin_counts(log, 5400.0).bins == 1
    with pytest.raises(DataError, match="before one whole bin"):
        bin_counts(log, 7200.0)


def test_a_log_without_adapters_says_what_to_do():
    frame = fleet_traffic(1, rate_rps=0.5, duration_s=5400.0).frame
    import polars as pl

    with pytest.raises(DataError, match="--deal N"):
        bin_counts(RequestLog(frame.with_columns(pl.lit("").alias("adapter"))), 600.0)
