"""A method per adapter: chosen where it errs least, by class, and quickly enough."""

from __future__ import annotations

import numpy as np
import pytest

from pytwin.fleet.forecast import (
    History,
    Method,
    forecast,
    forecast_selected,
    select,
    selected_scores,
)
from pytwin.fleet.forecast.methods import PLAIN, SLOW
from pytwin.fleet.forecast.selection import kinds_of

QUICK = [method for method in Method if method not in SLOW]


def daily(adapters: int, bins: int, low: float, high: float) -> np.ndarray:
    hours = np.arange(bins)
    means = (low + high) / 2 + (high - low) / 2 * np.sin(2 * np.pi * hours / 24)
    return np.random.default_rng(0).poisson(np.tile(means, (adapters, 1))).astype(float)


def test_days_choose_a_method_that_knows_days():
    history = History(daily(4, 168, 5.0, 200.0), 3600.0)
    assert set(select(history, 24, PLAIN).methods) <= {Method.SEASONAL_NAIVE, Method.DAILY_SHAPE}


def test_days_at_a_new_level_choose_the_shape_of_days():
    """Busier by a third from day to day: the same bin of the last day says too little."""
    growth = 1.3 ** (np.arange(168) / 24)
    history = History((daily(4, 168, 20.0, 200.0) * growth).round(), 3600.0)
    assert set(select(history, 2, PLAIN).methods) == {Method.DAILY_SHAPE}


def test_steady_rates_choose_the_longest_mean():
    counts = np.random.default_rng(0).poisson(20.0, (20, 168)).astype(float)
    methods = select(History(counts, 3600.0), 24, PLAIN).methods
    assert methods.count(Method.MOVING_AVERAGE) >= 18


def test_random_walks_choose_the_last_bin():
    steps = np.random.default_rng(0).normal(0.0, 40.0, (8, 168))
    counts = np.maximum(np.rint(5000.0 + steps.cumsum(axis=1)), 0)
    methods = select(History(counts, 3600.0), 1, PLAIN).methods
    assert methods.count(Method.PERSISTENCE) >= 7


def test_the_chosen_methods_err_less_than_any_one_for_all():
    """On outcomes after the history that they were chosen on; one that knows days and means is as
    good for both kinds here."""
    calm = np.random.default_rng(1).poisson(20.0, (10, 192))
    counts = np.concatenate([daily(10, 192, 5.0, 200.0), calm]).astype(float)
    history, truth = History(counts[:, :168], 3600.0), counts[:, 168:]
    selection = select(history, 24, PLAIN)

    def error(mean: np.ndarray) -> float:
        return float((((mean - truth) ** 2).mean(axis=1) / truth.mean(axis=1)).mean())

    alone = {method: error(forecast(history, 24, method).mean) for method in PLAIN}
    chosen = error(forecast_selected(history, 24, selection).mean)
    assert chosen < 1.02 * alone.pop(Method.DAILY_SHAPE)
    assert chosen < min(alone.values())


def test_sparse_adapters_share_one_method():
    counts = np.random.default_rng(0).poisson(0.2, (30, 168)).astype(float)
    history = History(counts, 3600.0)
    assert set(kinds_of(history)) == {"sparse"}
    methods = select(history, 24, QUICK).methods
    assert len(set(methods)) == 1
    # Of steady sparse traffic the last bin says least: its squared error is twice the mean's.
    assert methods[0] is not Method.PERSISTENCE


def test_slow_methods_are_for_the_busiest_alone(monkeypatch):
    pytest.importorskip("statsforecast", reason="the methods that are slow are statsforecast's")
    rates = np.repeat([[40.0], [400.0]], 2, axis=0)
    hours = np.arange(96)
    means = rates * (1 + 0.9 * np.sin(2 * np.pi * hours / 24) + hours / 96)
    counts = np.random.default_rng(0).poisson(means).astype(float)
    monkeypatch.setattr("pytwin.fleet.forecast.selection.SLOW_ADAPTERS", 2)
    some = (*PLAIN, Method.HOLT_WINTERS)
    methods = select(History(counts, 3600.0), 12, some).methods
    assert Method.HOLT_WINTERS in methods[2:]  # a trend and days: no plain method knows both
    assert Method.HOLT_WINTERS not in methods[:2]


def test_without_the_library_fewer_methods_are_tried_and_it_is_said(monkeypatch):
    monkeypatch.setattr("pytwin.fleet.forecast.selection.installed", lambda: False)
    selection = select(History(daily(3, 168, 5.0, 200.0), 3600.0), 24)
    assert set(selection.methods) <= set(PLAIN)
    assert "pip install 'pytwin[forecast]'" in selection.told[0]


def test_a_history_too_short_to_judge_by_gets_ewma_and_it_is_said():
    selection = select(History(np.ones((2, 12)), 3600.0), 24)
    assert set(selection.methods) == {Method.EWMA}
    assert "too short to judge" in selection.told[-1]


def test_parts_are_put_together_in_the_adapters_order():
    counts = np.concatenate([daily(2, 168, 5.0, 200.0), np.full((2, 168), 7.0)])[[0, 2, 1, 3]]
    history = History(counts, 3600.0, ("a", "b", "c", "d"))
    selection = select(history, 24, PLAIN)
    joined = forecast_selected(history, 24, selection)
    for row, method in enumerate(selection.methods):
        alone = forecast(history, 24, method)
        assert np.array_equal(joined.mean[row], alone.mean[row])
        assert np.array_equal(joined.band.upper[row], alone.band.upper[row])
        assert np.array_equal(joined.band.mean_upper[row], alone.band.mean_upper[row])
    scores = selected_scores(history, 24, selection)
    assert np.isnan(scores["mase"][1])  # it never changes
    assert 0 < scores["mase"][0] < 2
