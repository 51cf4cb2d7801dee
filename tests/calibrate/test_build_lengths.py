"""Length tables: the KV tokens of a running request, counted; weights that meet given averages."""

import numpy as np
import pytest

from calibration import build_lengths


@pytest.mark.parametrize(("prompt", "output"), [(1, 1), (16, 2), (17, 40), (100, 333)])
def test_kv_tokens_are_those_of_whole_blocks_between_steps(prompt, output):
    """Seen after each token but the last: the blocks of the tokens computed by then."""
    counted = sum(16 * -(-(prompt + k) // 16) for k in range(output - 1))
    held = build_lengths.kv_token_steps(np.array([float(prompt)]), np.array([float(output)]))
    assert held[0] == counted


def test_early_ends_hold_less():
    prompt, output = np.array([50.0, 10.0]), np.array([200.0, 900.0])
    whole = build_lengths.held_and_seen(prompt, output, {"probability": 0.0, "per_token": 0.0})
    early = build_lengths.held_and_seen(prompt, output, {"probability": 0.1, "per_token": 1e-3})
    assert (early[0] < whole[0]).all()
    assert (early[1] < whole[1]).all()
    assert early[1][1] == pytest.approx(0.5 * whole[1][1], rel=0.01)  # all end, uniformly


def test_weights_meet_the_averages_and_stay_near():
    rng = np.random.default_rng(1)
    statistics = rng.normal(size=(3, 2000)) + np.array([[0.1], [-0.2], [0.05]])
    weights = build_lengths.reweigh(statistics, np.ones(2000))
    assert statistics @ weights == pytest.approx(np.zeros(3), abs=1e-9)
    assert weights.min() > 0
    untouched = build_lengths.reweigh(statistics - statistics.mean(axis=1)[:, None], np.ones(2000))
    assert untouched == pytest.approx(np.full(2000, 1 / 2000))


def test_averages_out_of_reach_are_an_error():
    with pytest.raises(ValueError, match="no weights"):
        build_lengths.reweigh(np.ones((1, 10)) + np.arange(10) / 10, np.ones(10))
