"""Bands around forecasts: split conformal, from residuals of rolling origins.

The forecast is made from many past origins, and its misses there tell how far off it may be now.
Misses are divided by sqrt(forecast + 1), the spread of a Poisson count of that mean, so that what
was missed at one level says something at another, and what one adapter missed about a sparse one.
Per adapter and step ahead, the band's ends are the finite-sample quantiles of these scores: with n
of them, the ceil((n + 1)(1 - a/2))-th smallest for the upper end and its mirror for the lower,
where a = 1 - level. If the misses are exchangeable with the one to come, the band holds a share of
at least `level` of outcomes (Vovk et al. 2005; Lei et al. 2018). Misses of neighbouring origins
overlap and traffic drifts, so on real logs that is an aim, to be scored, not a promise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from pytwin.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scores:
    """Normalised misses of past forecasts.

    Attributes
    ----------
    steps: (adapters, origins, horizon), of single bins.
    means: (adapters, origins), of the mean over the horizon.
    """

    steps: Floats
    means: Floats


@dataclass(frozen=True, eq=False)
class Band:
    """Lower and upper ends of the count of each bin, and of the mean over the horizon.

    `lower`, `upper`: (adapters, horizon); `mean_lower`, `mean_upper`: (adapters,). `source`
    (adapters,) says where the bins' band comes from: "adapter" (its own misses), "fleet" (those of
    all adapters, as one has too few), or "poisson" (no law but Poisson's, as the history is too
    short for misses).
    """

    lower: Floats
    upper: Floats
    mean_lower: Floats
    mean_upper: Floats
    source: NDArray[np.object_]


def checked_level(level: float) -> float:
    """A level strictly between 0 and 1.

    Raises
    ------
    ConfigError: any other.
    """
    if not isinstance(level, (int, float)) or not 0 < level < 1:
        raise ConfigError(f"level ({level}) must be above 0 and below 1, as in 0.9")
    return float(level)


def least_scores(level: float) -> int:
    """The smallest n for which both finite-sample quantiles exist."""
    return math.ceil(2.0 / (1.0 - level) - 1e-9) - 1


def scores_of(past: Floats, truth: Floats) -> Scores:
    """Normalised misses of forecasts, both (adapters, origins, horizon)."""
    import numpy as np

    means = past.mean(axis=2)
    return Scores(
        (truth - past) / np.sqrt(past + 1.0), (truth.mean(axis=2) - means) / np.sqrt(means + 1.0)
    )


def shared_steps(scores: Scores) -> Scores:
    """The same misses with those of all steps ahead as one: for few origins."""
    import numpy as np

    adapters, origins, horizon = scores.steps.shape
    pooled = scores.steps.reshape(adapters, -1, 1)
    return Scores(np.broadcast_to(pooled, (adapters, origins * horizon, horizon)), scores.means)


def band_of(forecast: Floats, scores: Scores | None, level: float) -> Band:
    """The band around counts (adapters, horizon)."""
    import numpy as np

    checked = checked_level(level)
    lower, upper, source = _around(forecast, None if scores is None else scores.steps, checked)
    # As if all bins missed to one side at once: too wide, for want of misses of the mean.
    mean_lower, mean_upper = lower.mean(axis=1), upper.mean(axis=1)
    if scores is not None and _enough(scores.means, checked):
        mean = forecast.mean(axis=1, keepdims=True)
        low, high, _ = _around(mean, scores.means[:, :, None], checked)
        mean_lower, mean_upper = low[:, 0], high[:, 0]
    told = np.full(len(forecast), source, dtype=object)
    return Band(lower, upper, mean_lower, mean_upper, told)


def _enough(scores: Floats, level: float) -> bool:
    return int(scores.shape[0] * scores.shape[1]) >= least_scores(level)


def _around(forecast: Floats, scores: Floats | None, level: float) -> tuple[Floats, Floats, str]:
    """Ends around forecasts, (adapters, steps), from scores (adapters, n, steps)."""
    import numpy as np

    if scores is None or not _enough(scores, level):
        return *poisson_ends(forecast, level), "poisson"
    source = "adapter"
    if scores.shape[1] < least_scores(level):
        # All adapters' misses, normalised, as if they were one's: (1, adapters x n, steps).
        scores, source = scores.reshape(1, -1, scores.shape[2]), "fleet"
    low, high = _ends(scores, level)
    scale = np.sqrt(forecast + 1.0)
    return (
        np.maximum(forecast + low * scale, 0.0),
        np.maximum(forecast + high * scale, 0.0),
        source,
    )


def _ends(scores: Floats, level: float) -> tuple[Floats, Floats]:
    """Finite-sample quantiles along axis 1."""
    import numpy as np

    count = scores.shape[1]
    # 1e-9: (n + 1)(1 - a/2) may miss a whole number by rounding.
    rank = math.ceil((count + 1) * (1.0 + level) / 2.0 - 1e-9)
    high, low = rank - 1, count - rank
    parted = np.partition(scores, sorted({low, high}), axis=1)
    return parted[:, low], parted[:, high]


def poisson_ends(mean: Floats, level: float) -> tuple[Floats, Floats]:
    """Whole ends of a central interval of Poisson counts, by Anscombe's square root."""
    import numpy as np

    half = NormalDist().inv_cdf((1.0 + level) / 2.0) / 2.0
    root = np.sqrt(mean + 0.375)
    lower = np.floor(np.maximum(root - half, 0.0) ** 2 - 0.375)
    upper = np.ceil((root + half) ** 2 - 0.375)
    # No request can come of a mean of 0.
    return np.maximum(lower, 0.0), np.where(mean > 0, upper, 0.0)
