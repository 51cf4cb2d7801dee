"""From residuals of real runs to spreads: of the scale factors, and of what they leave.

Two steps. The factors' standard deviations maximise the likelihood of the runs' residuals under a
linear model: residual = response to the factors + seed noise + the rest, with Student's t so that a
few strange runs do not widen everything. Then, with draws of exactly these factors simulated, the
rest's spread is taken per metric and regime such that intervals hold their share of the runs:
judged on whole workloads that it was not taken from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pytwin.uncertainty import law_of

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_DEGREES = 4.0  # of Student's t
_GREATEST_GAIN = 6.0  # near-critical runs say little by a linear response
_TYPICAL = 0.02  # a factor that nothing identifies stays near this
_FREEDOM = 2.0  # standard deviation of its logarithm around it
_LEAST, _MOST = 1e-4, 1.0


def factor_spreads(
    residuals: FloatArray, gains: FloatArray, seed_spread: FloatArray, queued: IntArray
) -> FloatArray:
    """Standard deviation of each factor's logarithm, by maximum likelihood.

    Parameters
    ----------
    residuals: log(real / twin), (runs, metrics).
    gains: change of log metric per change of log factor, (runs, metrics, factors).
    seed_spread: standard deviation of log metric from seed to seed, (runs, metrics).
    queued: 1 where requests queue, else 0: the rest's spread is one for each.
    """
    from scipy.optimize import minimize

    metrics, factors = gains.shape[1:]
    clipped = np.clip(gains, -_GREATEST_GAIN, _GREATEST_GAIN)

    def cost(logs: FloatArray) -> float:
        spreads = np.exp(logs[:factors])
        rest = np.exp(logs[factors:]).reshape(2, metrics)
        covariance = np.einsum("nmf,f,nkf->nmk", clipped, spreads**2, clipped)
        diagonal = np.arange(metrics)
        covariance[:, diagonal, diagonal] += rest[queued] ** 2 + seed_spread**2
        root = np.linalg.cholesky(covariance)
        scaled = np.linalg.solve(root, residuals[:, :, None])[:, :, 0]
        distance = (scaled**2).sum(axis=1)
        logdet = 2 * np.log(np.diagonal(root, axis1=1, axis2=2)).sum(axis=1)
        student = (_DEGREES + metrics) * np.log1p(distance / _DEGREES)
        prior = ((logs[:factors] - np.log(_TYPICAL)) / _FREEDOM) ** 2
        return float(0.5 * (logdet.sum() + student.sum() + prior.sum()))

    # A factor's spread and the rest explain much the same; two starts find the better hill.
    starts = [(_TYPICAL, 0.01), (0.1, 0.003)]
    limits = [(np.log(_LEAST), np.log(_MOST))] * (factors + 2 * metrics)
    solution = min(
        (
            minimize(
                cost,
                np.log(np.r_[np.full(factors, factor), np.full(2 * metrics, rest)]),
                method="L-BFGS-B",
                bounds=limits,
            )
            for factor, rest in starts
        ),
        key=lambda found: float(found.fun),
    )
    return np.asarray(np.exp(solution.x[:factors]), dtype=np.float64)


@dataclass(frozen=True)
class Rest:
    """What the factors leave of one metric in one regime.

    Attributes
    ----------
    spread: standard deviation of the logarithm.
    aimed: share of the runs that it was taken to hold, so that workloads left out hold `level`.
    covered: share of the runs held, each with the spread taken from the other workloads.
    runs: how many.
    """

    spread: float
    aimed: float
    covered: float
    runs: int


def rest_spread(
    values: Sequence[Sequence[float]],
    real: FloatArray,
    workloads: Sequence[str],
    level: float,
) -> Rest:
    """The spread with which central intervals of `level` hold that share of left-out runs.

    Parameters
    ----------
    values: per run the simulated values of the draws.
    real: per run what was measured.
    workloads: per run its workload; each is left out in turn.
    """
    grid = np.concatenate([[0.0], np.geomspace(5e-4, 0.6, 80)])
    inside = np.array(
        [
            [_holds(draws, measured, spread, level) for spread in grid]
            for draws, measured in zip(values, real, strict=True)
        ]
    )
    groups = np.array(workloads)

    def taken(rows: npt.NDArray[np.bool_], share: float) -> int:
        """Least spread from which on the share is held."""
        enough = inside[rows].mean(axis=0) >= share
        return int(np.argmax(enough)) if enough.any() else len(grid) - 1

    everyone = np.ones(len(real), dtype=bool)
    best = (0, level, 0.0)
    for share in (*np.arange(level, min(level + 0.045, 0.995), 0.005),):
        kept = np.zeros(len(real), dtype=bool)
        for group in np.unique(groups):
            own = groups == group
            others = ~own if (~own).any() else everyone
            kept[own] = inside[own, taken(others, float(share))]
        best = (taken(everyone, float(share)), float(share), float(kept.mean()))
        if kept.mean() >= level:
            break
    index, share, covered = best
    return Rest(float(grid[index]), share, covered, len(real))


def _holds(draws: Sequence[float], measured: float, spread: float, level: float) -> bool:
    law = law_of(draws, spread)
    return law is not None and abs(law.below(measured) - 0.5) <= level / 2
