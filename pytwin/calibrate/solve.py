"""Weighted nonnegative least squares on relative errors, and its grouped cross-validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    """Observations of a cost: `matrix` @ coefficients ~ `target`.

    matrix: (n, k). target: (n,), positive. weight: (n,), of the relative error of each row.
    group: (n,), rows that share a workload and are held out together. family: (n,), for reports.
    """

    matrix: FloatArray
    target: FloatArray
    weight: FloatArray
    group: npt.NDArray[np.str_]
    family: npt.NDArray[np.str_]

    def columns(self, index: list[int]) -> Problem:
        """The same observations with some columns only."""
        return Problem(self.matrix[:, index], self.target, self.weight, self.group, self.family)


def solve(problem: Problem, rows: npt.NDArray[np.bool_] | None = None) -> FloatArray:
    """Coefficients >= 0 that minimise the weighted squared relative error (on `rows`, or all)."""
    from scipy.optimize import nnls  # slow to import

    keep = slice(None) if rows is None else rows
    relative = problem.matrix[keep] / problem.target[keep, None] * problem.weight[keep, None]
    # Columns differ by six orders of magnitude: without scaling the solver's tolerance is wrong.
    scale = np.linalg.norm(relative, axis=0)
    scale[scale == 0] = 1.0
    solution, _ = nnls(relative / scale, problem.weight[keep], maxiter=20_000)
    return np.asarray(solution / scale, dtype=np.float64)


def relative_errors(problem: Problem, coefficients: FloatArray) -> FloatArray:
    """(fitted - target) / target, per row."""
    return problem.matrix @ coefficients / problem.target - 1.0


def cross_validate(problem: Problem, folds: int) -> FloatArray:
    """Relative errors of all rows, each predicted by a fit that has seen nothing of its group.

    Groups are dealt out to `folds` folds in sorted order.
    """
    names = sorted(set(problem.group.tolist()))
    held_out = np.full(len(problem.target), np.nan)
    for fold in range(min(folds, len(names))):
        out = np.isin(problem.group, names[fold::folds])
        coefficients = solve(problem, ~out)
        held_out[out] = relative_errors(problem, coefficients)[out]
    return held_out


def balance(family: npt.NDArray[np.str_], emphasis: dict[str, float]) -> FloatArray:
    """Weights that let each family count alike whatever its size, times its `emphasis`."""
    weight = np.empty(len(family))
    for name in set(family.tolist()):
        rows = family == name
        weight[rows] = emphasis.get(name, 1.0) / np.sqrt(rows.sum())
    return np.asarray(weight / weight.mean(), dtype=np.float64)
