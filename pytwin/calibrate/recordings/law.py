"""Nonnegative, robust least squares over candidate terms, chosen by held-out error.

The spread of a step's duration grows with the duration, so squared residuals are weighed by the
fitted duration. What lies off (a page fault, another process, a compilation) is taken down to one
spread, as Huber does, so that the *form* of the law is that of undisturbed steps. What recurs all
the time belongs into the mean nevertheless: `tail` measures it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pytwin.calibrate.terms import Component, design, to_terms

FloatArray = npt.NDArray[np.float64]
Rows = npt.NDArray[np.bool_]

_HUBER = 1.0
_ROUNDS = 12
_NEGLIGIBLE = 1e-6
# Held-out errors (as a share of the target) that differ by less are equal.
_SAME = 1e-7
# A step that took longer than this times the law is an accident: it counts as this much.
_ACCIDENT = 4.0
# Dropping a term may raise the held-out error by this share.
WORTH = 0.002


@dataclass(frozen=True)
class Data:
    """Rows of one cost.

    matrix: (n, k) of the candidates; target: (n,) in ms; fold: (n,) whole stretches of time (or
    whole runs) that are held out together when terms are chosen.
    """

    components: tuple[Component, ...]
    matrix: FloatArray
    target: FloatArray
    fold: npt.NDArray[np.int64]

    def columns(self, index: Sequence[int]) -> Data:
        """With some of the components."""
        chosen = tuple(self.components[i] for i in index)
        return Data(chosen, self.matrix[:, list(index)], self.target, self.fold)

    def rows(self, keep: Rows) -> Data:
        """With some of the rows."""
        return Data(self.components, self.matrix[keep], self.target[keep], self.fold[keep])


@dataclass(frozen=True)
class Fitted:
    """A law: components with nonnegative coefficients in ms."""

    components: tuple[Component, ...]
    coefficients: FloatArray
    dropped: tuple[str, ...]

    def predict(self, features: dict[str, FloatArray]) -> FloatArray:
        """Cost in ms."""
        if not self.components:
            return np.zeros(len(next(iter(features.values()))))
        return np.asarray(design(self.components, features) @ self.coefficients, dtype=np.float64)

    def terms(self) -> list[dict[str, object]]:
        """As terms of a profile, in microseconds."""
        return to_terms(self.components, self.coefficients, 1000.0)


def data_of(
    components: Sequence[Component],
    features: dict[str, FloatArray],
    target: FloatArray,
    fold: npt.NDArray[np.int64],
) -> Data:
    """The rows of these components on these features."""
    return Data(tuple(components), design(components, features), target, fold)


def fit(data: Data, *, choose: bool = True) -> Fitted:
    """A law for the rows; with `choose`, terms that do not lower the held-out error are dropped."""
    everything = list(range(len(data.components)))
    kept = _chosen(data) if choose and len(set(data.fold.tolist())) > 1 else everything
    chosen = data.columns(kept)
    coefficients, _, _ = _robust(chosen)
    # What is left of a term after rounding errors is no term.
    share = coefficients * np.abs(chosen.matrix).mean(axis=0) / max(chosen.target.mean(), 1e-12)
    alive = [place for place, part in enumerate(share) if part > _NEGLIGIBLE]
    names = {chosen.components[place].name for place in alive}
    return Fitted(
        components=tuple(chosen.components[place] for place in alive),
        coefficients=coefficients[alive],
        dropped=tuple(c.name for c in data.components if c.name not in names),
    )


@dataclass(frozen=True)
class Tail:
    """What steps take beyond a robust law.

    factor: measured over fitted time in the middle one of the stretches, where no step counts for
        more than four times its fitted time: what disturbs steps all the time is in it, what froze
        the machine once is not.
    accident_share: of all measured time, what lies beyond those four times.
    """

    factor: float
    accident_share: float


def tail(predicted: FloatArray, measured: FloatArray, fold: npt.NDArray[np.int64]) -> Tail:
    """The tail of steps with these predicted and measured durations, by stretches of time."""
    counted = np.minimum(measured, _ACCIDENT * predicted)
    ratios = [
        counted[fold == f].sum() / predicted[fold == f].sum() for f in sorted(set(fold.tolist()))
    ]
    share = float((measured - counted).sum() / measured.sum())
    return Tail(factor=float(np.median(ratios)), accident_share=share)


def _nnls(matrix: FloatArray, target: FloatArray) -> FloatArray:
    from scipy.optimize import nnls

    # Columns differ by orders of magnitude: without scaling the solver's tolerance is wrong.
    scale = np.linalg.norm(matrix, axis=0)
    scale[scale == 0] = 1.0
    solution, _ = nnls(matrix / scale, target, maxiter=20_000)
    return np.asarray(solution / scale, dtype=np.float64)


def _robust(data: Data) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Coefficients, fitted values and robust weights (1: counted in full)."""
    target = data.target
    fitted = np.full(len(target), float(np.median(target)))
    # A step never costs nothing: bounds the weight of rows that the law has near zero.
    least = 0.05 * float(np.median(target)) + 1e-9
    weight = np.ones(len(target))
    coefficients = np.zeros(data.matrix.shape[1])
    for _ in range(_ROUNDS):
        root = np.sqrt(weight / np.maximum(fitted, least))
        coefficients = _nnls(data.matrix * root[:, None], target * root)
        fitted = data.matrix @ coefficients
        off = np.abs(target - fitted) / np.maximum(fitted, least)
        spread = 1.4826 * float(np.median(off)) + 1e-9
        weight = np.minimum(1.0, _HUBER * spread / np.maximum(off, 1e-12))
    return coefficients, fitted, weight


class _Moments:
    """Per fold, what least squares needs of its rows; so that a trial costs no pass over them."""

    def __init__(self, data: Data) -> None:
        _, fitted, weight = _robust(data)
        least = 0.05 * float(np.median(data.target)) + 1e-9
        root = np.sqrt(weight / np.maximum(fitted, least))
        matrix = data.matrix * root[:, None]
        target = data.target * root
        self.scale = np.linalg.norm(matrix, axis=0)
        self.scale[self.scale == 0] = 1.0
        matrix = matrix / self.scale
        folds = sorted(set(data.fold.tolist()))
        self.gram = np.stack([matrix[data.fold == f].T @ matrix[data.fold == f] for f in folds])
        self.cross = np.stack([matrix[data.fold == f].T @ target[data.fold == f] for f in folds])
        self.square = np.array([(target[data.fold == f] ** 2).sum() for f in folds])

    def score(self, kept: list[int]) -> float:
        """Root mean square held-out error over the weighted size of the target."""
        error = 0.0
        block = np.ix_(kept, kept)
        for fold in range(len(self.square)):
            gram = (self.gram.sum(axis=0) - self.gram[fold])[block]
            cross = (self.cross.sum(axis=0) - self.cross[fold])[kept]
            solution = _nnls_of_moments(gram, cross)
            inside = self.gram[fold][block]
            error += float(
                self.square[fold]
                - 2 * solution @ self.cross[fold][kept]
                + solution @ inside @ solution
            )
        return float(np.sqrt(max(error, 0.0) / self.square.sum()))


def _nnls_of_moments(gram: FloatArray, cross: FloatArray) -> FloatArray:
    jitter = 1e-9 * float(np.trace(gram)) / max(len(gram), 1) + 1e-15
    root = np.asarray(np.linalg.cholesky(gram + jitter * np.eye(len(gram))), dtype=np.float64)
    return _nnls(root.T, np.asarray(np.linalg.solve(root, cross), dtype=np.float64))


def _chosen(data: Data) -> list[int]:
    """Backward elimination by held-out error; the constant (the first component) stays."""
    moments = _Moments(data)
    kept = list(range(len(data.components)))
    best = moments.score(kept)
    while len(kept) > 1:
        trials = {drop: moments.score([k for k in kept if k != drop]) for drop in kept[1:]}
        least = min(trials.values())
        if least > best * (1 + WORTH) + _SAME:
            break
        # Of terms that can go alike, the one that stands last in the library: simple ones first.
        drop = max(k for k, score in trials.items() if score <= least * (1 + WORTH / 4) + _SAME)
        kept.remove(drop)
        best = min(best, trials[drop])
    return kept
