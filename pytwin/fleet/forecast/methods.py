"""Ways to forecast counts; each gives forecasts from many origins at once.

An origin `o` stands before bin o: its forecast of bins o .. o + horizon - 1 knows bins < o only.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from pytwin.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

EWMA_ALPHA = 0.3
"""Weight of the newest bin: half of all weight lies on the last two bins."""
MOVING_BINS = 24
"""Bins of the moving average (fewer where the history is shorter)."""
SHAPE_DAYS = 7
"""Days whose shape `daily-shape` takes the median of (fewer where the history is shorter)."""
SHAPE_ALPHA, SHAPE_BINS = 0.5, 8
"""Weight of the newest bin in the level of `daily-shape`, and the bins that it looks back on."""
SHAPE_KEPT_DAYS = 0.25
"""Time in which half of the difference between the level now and the last day's is gone."""
_SHAPELESS = 4.0  # requests a bin at which a shape counts half: fewer are mostly chance
_FLATTEST = 0.1  # no bin counts as less than this share of the day's mean


class Method(StrEnum):
    """How the mean of future bins is estimated."""

    PERSISTENCE = "persistence"  # the last bin
    EWMA = "ewma"  # exponentially weighted mean, weight EWMA_ALPHA
    MOVING_AVERAGE = "moving-average"  # mean of the last MOVING_BINS bins
    SEASONAL_NAIVE = "seasonal-naive"  # the same bin of the last day
    DAILY_SHAPE = "daily-shape"  # the shape of past days at the level of the last bins
    SES = "ses"  # exponential smoothing, weight fitted
    HOLT_WINTERS = "holt-winters"  # additive trend and day
    CROSTON = "croston"  # intermittent: size over interval
    TSB = "tsb"  # intermittent: probability times size (Teunter, Syntetos, Babai)
    AUTO_ETS = "auto-ets"  # exponential smoothing, its form chosen by AICc
    ORACLE = "oracle"  # the true rates, where they are known: for scores only


PLAIN = (
    Method.PERSISTENCE, Method.EWMA, Method.MOVING_AVERAGE, Method.SEASONAL_NAIVE,
    Method.DAILY_SHAPE,
)  # fmt: skip
"""Those that need nothing but numpy, and next to no time."""
SEASONAL = (Method.SEASONAL_NAIVE, Method.DAILY_SHAPE, Method.HOLT_WINTERS)
"""Those that need at least one day before them."""
SLOW = (Method.HOLT_WINTERS, Method.AUTO_ETS)
"""Those that take 10 to 200 ms per adapter and origin."""


def as_method(method: str) -> Method:
    """The method of this name.

    Raises
    ------
    ConfigError: no such method.
    """
    try:
        return Method(method)
    except ValueError:
        names = ", ".join(name.value for name in Method)
        raise ConfigError(f"method ({method}) must be one of {names}") from None


def least_bins(method: Method, season_bins: int) -> int:
    """Bins that the method needs before an origin.

    Raises
    ------
    ConfigError: a method with a day where bins do not divide the day.
    """
    if method in SEASONAL:
        if not season_bins:
            raise ConfigError(
                f"method ({method.value}) repeats days: bin_s must divide 86400 s at least twice"
            )
        return season_bins * (2 if method is Method.HOLT_WINTERS else 1)
    return 10 if method is Method.AUTO_ETS else 1


def forecast_at(
    method: Method, counts: Floats, origins: Sequence[int], horizon: int, season_bins: int
) -> Floats:
    """Forecast counts, (adapters, origins, horizon) >= 0, from (adapters, bins).

    Raises
    ------
    DataError: an origin with less history than the method needs, or, for methods of
        statsforecast, that package missing.
    """
    import numpy as np

    least = least_bins(method, season_bins)
    if min(origins) < least:
        raise DataError(
            f"history ({min(origins)} bins) is too short for method {method.value}: it needs "
            f"{least} bins; give a longer log, smaller bins or another method"
        )
    at = np.asarray(origins, dtype=np.int64)
    if method is Method.SEASONAL_NAIVE:
        ahead = np.arange(horizon)
        back = at[:, None] + ahead - season_bins * (1 + ahead // season_bins)
        seasonal: Floats = counts[:, back]
        return seasonal
    if method is Method.DAILY_SHAPE:
        shaped = [_shaped(counts[:, :origin], horizon, season_bins) for origin in origins]
        return np.stack(shaped, axis=1)
    if method in PLAIN:
        level = _levels(method, counts, at)
        flat: Floats = np.repeat(level[:, :, None], horizon, axis=2)
        return flat
    from pytwin.fleet.forecast.library import library_forecast

    return library_forecast(method, counts, at, horizon, season_bins)


def _shaped(counts: Floats, horizon: int, season_bins: int) -> Floats:
    """Of `daily-shape`: (adapters, horizon) from all bins before one origin.

    The shape is the median over days (so that a burst or a viral of one day is not expected the
    next), smoothed over three bins, over its mean; the fewer requests, the flatter it is taken to
    be. The level is what came in the last bins over what the shape has there, newer bins weighing
    more; further ahead it returns to the last day's.
    """
    import numpy as np

    days = min(counts.shape[1] // season_bins, SHAPE_DAYS)
    # The day begins at the origin: its first bin is the first to forecast.
    past = counts[:, -days * season_bins :].reshape(len(counts), days, season_bins)
    day = np.median(past, axis=1)
    smooth = (np.roll(day, 1, axis=1) + day + np.roll(day, -1, axis=1)) / 3.0
    mean = smooth.mean(axis=1, keepdims=True)
    relative = smooth / np.where(mean > 0.0, mean, 1.0)
    shape = np.maximum(1.0 + mean / (mean + _SHAPELESS) * (relative - 1.0), _FLATTEST)
    recent = min(SHAPE_BINS, season_bins)
    weights = (1.0 - SHAPE_ALPHA) ** np.arange(recent - 1, -1, -1.0)
    # Sums row by row: a matrix product's bits depend on how many adapters there are.
    came, expected = (values[:, -recent:] * weights for values in (counts, shape))
    now = came.sum(axis=1) / expected.sum(axis=1)
    day_long = counts[:, -season_bins:].sum(axis=1) / shape.sum(axis=1)
    steps = np.arange(horizon)
    kept = 0.5 ** (steps / (SHAPE_KEPT_DAYS * season_bins))
    level = day_long[:, None] + (now - day_long)[:, None] * kept
    ahead: Floats = level * shape[:, steps % season_bins]
    return ahead


def _levels(method: Method, counts: Floats, origins: NDArray[np.int64]) -> Floats:
    """Of the methods whose forecast is flat: its level at each origin, (adapters, origins)."""
    import numpy as np

    levels: Floats
    if method is Method.PERSISTENCE:
        levels = counts[:, origins - 1]
        return levels
    if method is Method.MOVING_AVERAGE:
        sums = np.concatenate([np.zeros((len(counts), 1)), counts.cumsum(axis=1)], axis=1)
        first = np.maximum(origins - MOVING_BINS, 0)
        levels = (sums[:, origins] - sums[:, first]) / (origins - first)
        return levels
    levels = ewma(counts, EWMA_ALPHA)[:, origins - 1]
    return levels


def ewma(counts: Floats, alpha: float) -> Floats:
    """Level after each bin, (adapters, bins), beginning with the mean so far.

    The newest bin has weight max(alpha, 1/bins so far): at first all bins weigh alike, so that
    the first one is not remembered for long.
    """
    import numpy as np

    levels = np.empty_like(counts)
    level = np.zeros(len(counts))
    for column in range(counts.shape[1]):
        level = level + max(alpha, 1.0 / (column + 1)) * (counts[:, column] - level)
        levels[:, column] = level
    return levels
