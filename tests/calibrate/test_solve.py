"""The solver finds a known law, and cross-validation holds whole groups out."""

import numpy as np
import pytest

from pytwin.calibrate.solve import Problem, balance, cross_validate, relative_errors, solve


def problem(noise: float = 0.0, seed: int = 3) -> tuple[Problem, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = np.array([12.0, 0.02, 0.0, 3e-4])
    matrix = np.stack(
        [
            np.ones(120),
            random.uniform(1, 900, 120),
            random.uniform(0, 9, 120),
            random.uniform(0, 9e4, 120),
        ],
        axis=1,
    )
    target = matrix @ truth * (1 + noise * random.standard_normal(120))
    group = np.array([f"g{index % 6}" for index in range(120)])
    family = np.array(["a" if index < 100 else "b" for index in range(120)])
    return Problem(matrix, target, balance(family, {"b": 2.0}), group, family), truth


def test_a_law_without_noise_is_found():
    given, truth = problem()
    assert solve(given) == pytest.approx(truth, rel=1e-6, abs=1e-8)


def test_coefficients_are_never_negative():
    given, truth = problem(noise=0.02)
    found = solve(given)
    assert (found >= 0).all()
    assert found[[0, 1, 3]] == pytest.approx(truth[[0, 1, 3]], rel=0.05)


def test_a_group_is_predicted_without_itself():
    given, _ = problem(noise=0.01)
    spoiled = given.target.copy()
    spoiled[given.group == "g2"] *= 1.5
    given = Problem(given.matrix, spoiled, given.weight, given.group, given.family)
    held_out = cross_validate(given, folds=6)
    assert not np.isnan(held_out).any()
    # The fit that predicts g2 has not seen that it is half as long again.
    assert held_out[given.group == "g2"].mean() == pytest.approx(-1 / 3, abs=0.02)
    fitted = relative_errors(given, solve(given))
    assert abs(fitted[given.group == "g2"].mean()) < abs(held_out[given.group == "g2"].mean())


def test_balance_gives_each_family_its_emphasis():
    family = np.array(["a"] * 90 + ["b"] * 10)
    weight = balance(family, {"b": 3.0})
    assert (weight[90:] ** 2).sum() / (weight[:90] ** 2).sum() == pytest.approx(9.0)
