"""Bursts: found when they are there, and rarely when they are not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pytwin.errors import ConfigError
from pytwin.fleet.forecast import History, detect_bursts
from pytwin.fleet.forecast.bursts import negative_binomial_tail


def alarms(counts: np.ndarray, false_alarm: float) -> float:
    """Share of bins that alarm, of those that may."""
    found = detect_bursts(History(counts, 60.0, season_bins=0), false_alarm, least_factor=1.0)
    return sum(burst.last_bin - burst.first_bin + 1 for burst in found) / (
        counts.shape[0] * (counts.shape[1] - 5)
    )


@pytest.mark.parametrize("mean", [0.1, 2.0, 20.0, 300.0])
@pytest.mark.parametrize("false_alarm", [0.01, 0.001])
def test_poisson_traffic_alarms_at_most_at_the_stated_rate(mean, false_alarm):
    counts = np.random.default_rng(7).poisson(mean, (60, 1000)).astype(float)
    seen = alarms(counts, false_alarm)
    noise = 4 * math.sqrt(false_alarm / counts.size)
    assert seen < 1.15 * false_alarm + noise
    if mean >= 20.0:  # small counts jump over the probability: then there are fewer
        assert seen > 0.6 * false_alarm - noise


@pytest.mark.parametrize("mean", [2.0, 5.0, 50.0])
def test_a_fivefold_step_is_found_within_two_bins(mean):
    found = 0
    for seed in range(100):
        counts = np.random.default_rng(seed).poisson(mean, (1, 60)).astype(float)
        counts[0, 40:] = np.random.default_rng(1000 + seed).poisson(5 * mean, 20)
        bursts = detect_bursts(History(counts, 3600.0, season_bins=0), 1e-3)
        hits = [burst for burst in bursts if burst.first_bin in (40, 41)]
        found += bool(hits)
        if hits and mean >= 50:
            assert hits[0].factor == pytest.approx(5.0, rel=0.25)
            assert hits[0].onset_s == hits[0].first_bin * 3600.0
            assert hits[0].level_rps == pytest.approx(mean / 3600.0, rel=0.2)
    # At mean 2 nine requests alarm, and P(Poisson(10) >= 9) = 0.67: 0.89 in two bins.
    assert found >= (80 if mean < 5 else 99)


def test_a_lasting_step_becomes_the_level():
    means = np.where(np.arange(120) < 60, 20.0, 120.0)
    counts = np.random.default_rng(0).poisson(means)[None].astype(float)
    (burst,) = detect_bursts(History(counts, 3600.0, season_bins=0))
    assert (burst.first_bin, burst.last_bin, burst.ongoing) == (60, 65, False)


def test_a_burst_that_lasts_to_the_end_is_ongoing():
    counts = np.random.default_rng(0).poisson(20.0, (1, 50)).astype(float)
    counts[0, 48:] = 100
    (burst,) = detect_bursts(History(counts, 3600.0))
    assert burst.ongoing
    assert burst.first_bin == 48


def test_mornings_are_no_bursts_once_a_day_is_known():
    hours = np.arange(24 * 6)
    means = 10.0 + 190.0 * (hours % 24 >= 12)
    counts = np.random.default_rng(0).poisson(means, (5, len(hours))).astype(float)
    found = detect_bursts(History(counts, 3600.0))
    assert {burst.first_bin // 24 for burst in found} == {0}


def test_an_adapter_from_nothing_has_no_factor():
    counts = np.zeros((1, 40))
    counts[0, 30] = 50
    (burst,) = detect_bursts(History(counts, 3600.0, season_bins=0))
    assert burst.factor is None
    assert burst.first_bin == 30


def test_little_more_of_a_busy_adapter_is_no_burst():
    counts = np.full((1, 60), 10_000.0)
    counts[0, 40] = 14_000.0
    history = History(counts, 3600.0, season_bins=0)
    assert not detect_bursts(history)
    assert len(detect_bursts(history, least_factor=1.2)) == 1


@pytest.mark.parametrize(("level", "evidence"), [(0.0, 19.0), (3.0, 19.0), (40.0, 5.0)])
def test_the_tail_is_that_of_gamma_mixed_poisson(level, evidence):
    random = np.random.default_rng(0)
    rates = random.gamma(level * evidence + 0.5, 1 / evidence, 400_000)
    counts = random.poisson(rates)
    for count in (0, int(level) + 1, int(level + 2 * math.sqrt(level + 1))):
        expected = (counts >= count).mean()
        got = negative_binomial_tail(count, level, evidence)
        assert got == pytest.approx(expected, abs=5 * math.sqrt(0.25 / 400_000))


@pytest.mark.parametrize(
    ("given", "message"),
    [({"false_alarm": 0.0}, "false_alarm"), ({"least_factor": 0.5}, "least_factor")],
)
def test_bad_values(given, message):
    with pytest.raises(ConfigError, match=message):
        detect_bursts(History(np.ones((1, 10)), 60.0), **given)
