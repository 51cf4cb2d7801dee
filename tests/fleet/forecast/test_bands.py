"""Conformal bands: their finite-sample quantiles, and what they hold."""

from __future__ import annotations

import numpy as np
import pytest

from pytwin.fleet.forecast import History, forecast, rolling_scores
from pytwin.fleet.forecast.conformal import Scores, band_of, least_scores, poisson_ends
from pytwin.fleet.forecast.methods import Method
from pytwin.fleet.forecast.scores import coverage, mase, naive_scale, pinball, rmsse


def test_ends_are_finite_sample_quantiles():
    """With 19 misses at 90 % the ends are the least and the greatest: (19 + 1) x 0.95 = 19."""
    assert least_scores(0.9) == 19
    misses = np.random.default_rng(0).permutation(np.arange(-9.0, 10.0)).reshape(1, 19, 1)
    band = band_of(np.array([[99.0]]), Scores(misses, misses[:, :, 0]), 0.9)
    assert (band.lower[0, 0], band.upper[0, 0]) == (99.0 - 90.0, 99.0 + 90.0)
    assert band.source[0] == "adapter"


def test_too_few_misses_are_pooled_over_the_fleet_then_left_to_poisson():
    few = np.zeros((2, 10, 1))
    assert set(band_of(np.ones((2, 1)), Scores(few, few[:, :, 0]), 0.9).source) == {"fleet"}
    assert set(band_of(np.ones((2, 1)), Scores(few[:1], few[:1, :, 0]), 0.9).source) == {"poisson"}
    assert set(band_of(np.ones((2, 1)), None, 0.9).source) == {"poisson"}


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_exchangeable_misses_are_held_at_the_level(level):
    """Split conformal's own promise at any n: level <= P(held) <= level + 2/(n + 1)."""
    random = np.random.default_rng(1)
    for n in (40, 99):
        draws = random.standard_cauchy((20_000, n + 1, 1))
        scores = Scores(draws[:, :n], draws[:, :n, 0])
        # A forecast far above 0, so that no end is cut there.
        centre = np.full((20_000, 1), 1e12)
        band = band_of(centre, scores, level)
        truth = centre + draws[:, n] * np.sqrt(centre + 1.0)
        held = ((truth >= band.lower) & (truth <= band.upper)).mean()
        assert level - 0.01 < held < level + 2.0 / (n + 1) + 0.01


@pytest.mark.parametrize("method", ["ewma", "moving-average", "persistence"])
@pytest.mark.parametrize("mean", [0.3, 5.0, 100.0])
def test_steady_traffic_is_held_at_the_level(method, mean):
    held = []
    for seed in range(8):
        counts = np.random.default_rng(seed).poisson(mean, (30, 192)).astype(float)
        band = forecast(History(counts[:, :168], 3600.0), 24, method, 0.9).band
        held.append(coverage(counts[:, 168:], band.lower, band.upper).mean())
    # Small counts are held more often: an end that lies on a count holds all of it.
    most = 0.97 if mean < 1 else 0.95
    assert 0.88 < np.mean(held) < most


def test_the_mean_of_the_horizon_has_a_band_of_its_own_which_is_narrower():
    held, narrower = [], []
    for seed in range(8):
        counts = np.random.default_rng(seed).poisson(20.0, (30, 192)).astype(float)
        band = forecast(History(counts[:, :168], 3600.0), 24, "moving-average", 0.9).band
        truth = counts[:, 168:].mean(axis=1)
        held.append(((truth >= band.mean_lower) & (truth <= band.mean_upper)).mean())
        narrower.append((band.mean_upper - band.mean_lower) / (band.upper - band.lower).mean(1))
    # Misses of overlapping windows: 72 origins of 24 bins tell little more than three alone.
    assert 0.7 < np.mean(held) < 0.97
    assert np.mean(narrower) < 0.5


def test_a_higher_level_is_wider_and_a_burstier_adapter_too():
    random = np.random.default_rng(3)
    calm = random.poisson(20.0, 168)
    wild = random.poisson(random.choice([5.0, 65.0], 168, p=[0.75, 0.25]))
    history = History(np.array([calm, wild], dtype=float), 3600.0)
    at_80, at_95 = (forecast(history, 12, "moving-average", level).band for level in (0.8, 0.95))
    assert (at_95.upper - at_95.lower > at_80.upper - at_80.lower).all()
    assert (at_80.upper[1] - at_80.lower[1] > 2 * (at_80.upper[0] - at_80.lower[0])).all()


def test_bands_move_with_the_level_of_a_sparse_adapter():
    """Misses learnt at 0.2 requests a bin say something at 20: scaled by the square root."""
    misses = np.random.default_rng(0).standard_normal((1, 99, 1))
    scores = Scores(misses, misses[:, :, 0])
    low, high = band_of(np.array([[0.2]]), scores, 0.9), band_of(np.array([[20.0]]), scores, 0.9)
    assert high.upper[0, 0] - 20.0 == pytest.approx((low.upper[0, 0] - 0.2) * np.sqrt(21 / 1.2))
    assert low.lower[0, 0] == 0.0


@pytest.mark.parametrize("mean", [0.2, 2.0, 10.0, 200.0])
def test_poisson_ends_hold_poisson_counts(mean):
    lower, upper = poisson_ends(np.array([mean]), 0.9)
    counts = np.random.default_rng(0).poisson(mean, 20_000)
    held = ((counts >= lower) & (counts <= upper)).mean()
    assert 0.89 < held < (1.0 if mean < 5 else 0.95)


def test_errors_are_what_they_say():
    truth = np.array([[1.0, 3.0, 5.0]])
    told = np.array([[2.0, 3.0, 3.0]])
    scale = naive_scale(np.array([[0.0, 2.0, 4.0]]))
    assert scale.tolist() == [2.0]
    assert mase(truth, told, scale)[0] == pytest.approx(0.5)
    assert rmsse(truth, told, scale)[0] == pytest.approx(np.sqrt(5 / 3) / 2)
    assert coverage(truth, told - 1.0, told + 1.0)[0] == pytest.approx(2 / 3)
    assert pinball(truth, told, 0.9)[0] == pytest.approx((0.1 * 1 + 0.9 * 2) / 3)
    assert np.isnan(naive_scale(np.ones((1, 5)))[0])


def test_pinball_is_least_at_the_quantile():
    draws = np.random.default_rng(0).exponential(size=(1, 20_000))
    losses = {q: pinball(draws, np.full_like(draws, q), 0.9)[0] for q in (1.8, 2.303, 2.8)}
    assert min(losses, key=losses.__getitem__) == 2.303


def test_rolling_scores_judge_bands_on_outcomes_that_they_did_not_see():
    counts = np.random.default_rng(0).poisson(20.0, (40, 168)).astype(float)
    scores = rolling_scores(History(counts, 3600.0), 12, Method.EWMA, 0.9)
    # An ewma of weight 0.3 errs by sqrt(1 + 0.3/1.7) as much as the mean; a step by sqrt(2).
    expected = np.sqrt(1 + 0.3 / 1.7) / np.sqrt(2)
    assert np.mean(scores.mase) == pytest.approx(expected, rel=0.08)
    assert 0.85 < np.mean(scores.coverage) < 0.95
    assert scores.origins > 50


def test_a_short_history_cannot_be_judged():
    scores = rolling_scores(History(np.ones((1, 10)), 3600.0), 24, Method.EWMA, 0.9)
    assert scores.origins == 0
    assert np.isnan(scores.mase[0])
