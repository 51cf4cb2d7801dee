"""Learning spreads from residuals: known ones are found again."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.spreads import factor_spreads, rest_spread

SPREADS = np.array([0.015, 0.04, 0.10])


def residuals(runs: int, seed: int) -> tuple[np.ndarray, ...]:
    """Runs of four metrics that respond to three factors, each in its own way."""
    rng = np.random.default_rng(seed)
    gains = rng.normal(0, 1, (runs, 4, 3))
    seeds = np.full((runs, 4), 0.004)
    queued = rng.integers(0, 2, runs)
    rest = np.where(queued[:, None] == 1, 0.02, 0.005)
    factors = rng.normal(0, SPREADS, (runs, 3))
    found = np.einsum("nmf,nf->nm", gains, factors) + rng.normal(0, 1, (runs, 4)) * np.hypot(
        rest, seeds
    )
    return found, gains, seeds, queued


def test_the_factors_spreads_are_found_again():
    found = factor_spreads(*residuals(250, 1))
    # Student's t sees a normal law a little narrower than it is.
    assert found == pytest.approx(SPREADS, rel=0.3)


def test_a_few_strange_runs_widen_little():
    observed, *others = residuals(250, 1)
    usual = factor_spreads(observed, *others)
    observed[:8] *= 10
    assert factor_spreads(observed, *others) == pytest.approx(usual, rel=0.3)


def test_a_factor_that_nothing_responds_to_stays_typical():
    observed, gains, seeds, queued = residuals(200, 2)
    gains[:, :, 1] = 0.0
    assert factor_spreads(observed, gains, seeds, queued)[1] == pytest.approx(0.02, rel=0.05)


def drawn(runs: int, workloads: int, rest: float, seed: int) -> tuple:
    rng = np.random.default_rng(seed)
    values = np.exp(rng.normal(3.0, 0.02, (runs, 16)))
    real = np.exp(3.0 + rng.normal(0, 0.02, runs) + rng.normal(0, rest, runs))
    return values.tolist(), real, [f"w{k % workloads}" for k in range(runs)]


@pytest.mark.parametrize("rest", [0.03, 0.1])
def test_what_the_draws_leave_is_found_again(rest):
    found = rest_spread(*drawn(400, 5, rest, 3), level=0.9)
    assert found.spread == pytest.approx(rest, rel=0.25)
    assert 0.9 <= found.covered <= 0.94
    assert found.runs == 400


def test_draws_that_hold_everything_leave_nothing():
    values, _, workloads = drawn(60, 3, 0.0, 4)
    centre = np.exp(np.log(values).mean(axis=1))
    assert rest_spread(values, centre, workloads, level=0.9).spread == 0.0


def test_a_workload_of_its_own_kind_raises_the_aim():
    """One of three workloads errs three times as much: spreads from the others hold it badly."""
    rng = np.random.default_rng(5)
    values, real, workloads = drawn(150, 3, 0.02, 5)
    real = real * np.exp([rng.normal(0, 0.06) if w == "w0" else 0.0 for w in workloads])
    found = rest_spread(values, real, workloads, level=0.9)
    assert 0.9 < found.aimed < 0.946
