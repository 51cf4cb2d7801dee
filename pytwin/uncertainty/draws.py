"""Draws of the scale factors: few, spread evenly, the same in every process."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from pytwin.uncertainty.factors import FACTORS

FloatArray = npt.NDArray[np.float64]


def scale_draws(spreads: Mapping[str, float], draws: int) -> list[dict[str, float]]:
    """`draws` settings of the uncertain factors; none where nothing is uncertain.

    Each factor is log-normal with median 1 and the given relative standard deviation. The points
    are not random but a low-discrepancy sequence, so that 16 of them already have the right
    spread; they depend on nothing but the spreads' names and values and on `draws`.
    """
    uncertain = [name for name in FACTORS if spreads.get(name, 0.0) > 0]
    if not uncertain or draws <= 0:
        return []
    points = _points(len(uncertain), draws).tolist()
    return [
        {name: math.exp(spreads[name] * z) for name, z in zip(uncertain, point, strict=True)}
        for point in points
    ]


def _points(dimensions: int, count: int) -> FloatArray:
    """Standard normal points, (count, dimensions): mean 0, variance 1, uncorrelated.

    A Kronecker sequence (the generator is the root of x**(d + 1) = x + 1; M. Roberts, 2018), each
    coordinate ranked into equal strata of the normal law, then made uncorrelated: with so few
    points the factors would otherwise be confounded.
    """
    root = 1.5
    for _ in range(64):
        root = (1 + root) ** (1 / (dimensions + 1))
    steps = np.array([root ** -(k + 1) for k in range(dimensions)])
    raw = (0.5 + np.outer(np.arange(1, count + 1), steps)) % 1.0
    normal = NormalDist()
    scores = np.array([normal.inv_cdf((n + 0.5) / count) for n in range(count)])
    points = scores[raw.argsort(axis=0).argsort(axis=0)]
    if count > dimensions + 1:
        values, vectors = np.linalg.eigh(points.T @ points / count)
        points = points @ (vectors / np.sqrt(values)) @ vectors.T
    # Rounded, so that the last bits of a linear-algebra library change no simulation.
    return np.asarray(points.round(6), dtype=np.float64)
