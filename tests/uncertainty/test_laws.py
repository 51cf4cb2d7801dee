"""Draws, laws and intervals: their statistics, without any simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytwin.uncertainty import FACTORS, law_of
from pytwin.uncertainty.draws import scale_draws

VALUES = st.lists(st.floats(0.1, 1e6), min_size=2, max_size=24)


@pytest.mark.parametrize("count", [12, 16, 33, 64])
def test_draws_have_the_stated_spread_and_are_uncorrelated(count):
    spreads = {name: 0.01 * (k + 1) for k, name in enumerate(FACTORS)}
    logs = np.log([[draw[name] for name in FACTORS] for draw in scale_draws(spreads, count)])
    scaled = logs / np.array(list(spreads.values()))
    assert np.abs(scaled.mean(axis=0)).max() < 0.2
    assert np.abs(scaled.T @ scaled / count - np.eye(len(FACTORS))).max() < 1e-4


def test_draws_are_of_the_uncertain_factors_alone():
    assert scale_draws({"step_time": 0.02, "polls": 0.0}, 4)[0].keys() == {"step_time"}
    assert scale_draws(dict.fromkeys(FACTORS, 0.0), 16) == []
    assert scale_draws({"step_time": 0.02}, 0) == []
    assert scale_draws({"step_time": 0.02}, 8) == scale_draws({"step_time": 0.02}, 8)


@given(VALUES, st.floats(0.0, 0.5), st.floats(0.01, 0.5))
def test_more_unexplained_spread_widens_an_interval(values, spread, more):
    narrow, wide = law_of(values, spread), law_of(values, spread + more)
    low, high = narrow.interval(0.9)
    wider_low, wider_high = wide.interval(0.9)
    assert math.log(wider_high / wider_low) >= math.log(high / low) - 1e-9


@given(VALUES, st.floats(0.001, 0.5))
def test_quantiles_and_probabilities_are_inverse(values, spread):
    law = law_of(values, spread)
    for share in (0.05, 0.5, 0.95):
        assert law.below(law.quantile(share)) == pytest.approx(share, abs=1e-6)
    low, high = law.interval(0.5)
    wider_low, wider_high = law.interval(0.9)
    assert wider_low < low < high < wider_high
    assert law.above(low) == pytest.approx(0.75, abs=1e-6)


def test_one_value_without_spread_is_a_point():
    law = law_of([7.0])
    assert law.interval(0.9) == pytest.approx((7.0, 7.0))
    assert (law.below(6.9), law.below(7.1)) == (0.0, 1.0)


def test_values_that_do_not_exist_are_left_out():
    assert law_of([math.nan, 0.0, -1.0]) is None
    assert law_of([math.nan, 5.0]).interval(0.9) == pytest.approx((5.0, 5.0))


@pytest.mark.parametrize(("draws", "unexplained"), [(16, 0.0), (16, 0.05), (8, 0.02), (64, 0.0)])
def test_an_interval_holds_its_share_of_new_values(draws, unexplained):
    """A truth that is log-normal: 90 % of fresh values lie in intervals made from few draws."""
    rng = np.random.default_rng(5)
    held = []
    for _ in range(1500):
        law = law_of(np.exp(rng.normal(3.0, 0.05, draws)), unexplained)
        truth = math.exp(rng.normal(3.0, 0.05) + rng.normal(0.0, unexplained))
        held.append(abs(law.below(truth) - 0.5) <= 0.45)
    assert 0.87 <= np.mean(held) <= 0.93
