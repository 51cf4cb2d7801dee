"""How far a forecast is off: errors of the mean, of the band's ends, and the share inside."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def naive_scale(counts: Floats) -> Floats:
    """Mean step from bin to bin of each row, (adapters,): what MASE divides by.

    NaN for a row that never changes (or a single bin), for which MASE does not exist.
    """
    import numpy as np

    if counts.shape[1] < 2:
        return np.full(len(counts), np.nan)
    steps = np.abs(np.diff(counts, axis=1)).mean(axis=1)
    return np.where(steps > 0, steps, np.nan)


def mase(truth: Floats, forecast: Floats, scale: Floats) -> Floats:
    """Mean absolute scaled error per adapter (Hyndman and Koehler 2006).

    `truth` and `forecast` are (adapters, ...); below 1 is better than the last bin's count was,
    one bin ahead.
    """
    return _mean(abs(truth - forecast)) / scale


def rmsse(truth: Floats, forecast: Floats, scale: Floats) -> Floats:
    """Root mean squared error per adapter over the same scale: its best forecast is the mean.

    (MASE is least for the median, which for a sparse adapter is 0 however many requests come.)
    """
    import numpy as np

    return np.sqrt(_mean((truth - forecast) ** 2)) / scale


def pinball(truth: Floats, quantile: Floats, share: float) -> Floats:
    """Mean pinball loss per adapter of a forecast of the `share` quantile (0.95: its upper end)."""
    import numpy as np

    miss = truth - quantile
    return _mean(np.maximum(share * miss, (share - 1.0) * miss))


def coverage(truth: Floats, lower: Floats, upper: Floats) -> Floats:
    """Share of outcomes inside [lower, upper], per adapter."""
    # Ends are forecasts plus misses: rounding must not put an outcome outside that lies on one.
    slack = 1e-9 * (1.0 + abs(truth))
    inside = (truth >= lower - slack) & (truth <= upper + slack)
    return _mean(inside.astype(float))


def _mean(values: Floats) -> Floats:
    import numpy as np

    return np.asarray(values.reshape(len(values), -1).mean(axis=1), dtype=np.float64)
