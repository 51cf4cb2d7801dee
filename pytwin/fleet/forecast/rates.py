"""Rates of the bins to come, with bands: quick enough to be asked again and again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytwin.errors import ConfigError
from pytwin.fleet.forecast.bins import History
from pytwin.fleet.forecast.conformal import (
    Band,
    Scores,
    band_of,
    checked_level,
    scores_of,
    shared_steps,
)
from pytwin.fleet.forecast.methods import SLOW, Method, as_method, forecast_at, least_bins
from pytwin.workload.checks import whole

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

MAX_ORIGINS = 96
"""Rolling origins that a band is made from: the newest."""
SLOW_ORIGINS = 6
"""The same for slow methods; then all steps ahead share their misses."""


@dataclass(frozen=True, eq=False)
class RateForecast:
    """Counts of the bins to come, per adapter.

    Attributes
    ----------
    history: what was known.
    mean: (adapters, horizon), requests per bin.
    band: its ends.
    methods: of each adapter.
    level: share of outcomes that the band shall hold.
    """

    history: History
    mean: NDArray[np.float64]
    band: Band
    methods: tuple[str, ...]
    level: float

    def frame(self) -> pl.DataFrame:
        """One row per adapter and bin: adapter, bin, rate_rps, lower_rps, upper_rps.

        Bin 0 is the first after the history; rates are in requests/s.
        """
        import numpy as np
        import polars as pl

        adapters, horizon = self.mean.shape
        per_s = 1.0 / self.history.bin_s
        return pl.DataFrame(
            {
                "adapter": pl.Series(self.history.adapters).gather(
                    np.repeat(np.arange(adapters), horizon)
                ),
                "bin": np.tile(np.arange(horizon), adapters),
                "rate_rps": (self.mean * per_s).ravel(),
                "lower_rps": (self.band.lower * per_s).ravel(),
                "upper_rps": (self.band.upper * per_s).ravel(),
            }
        )

    def adapters(self) -> pl.DataFrame:
        """One row per adapter: adapter, rate_rps, lower_rps, upper_rps, peak_rps.

        The first three are of the mean rate over the horizon; peak_rps is the highest upper end
        of a single bin.
        """
        import polars as pl

        per_s = 1.0 / self.history.bin_s
        return pl.DataFrame(
            {
                "adapter": self.history.adapters,
                "rate_rps": self.mean.mean(axis=1) * per_s,
                "lower_rps": self.band.mean_lower * per_s,
                "upper_rps": self.band.mean_upper * per_s,
                "peak_rps": self.band.upper.max(axis=1) * per_s,
            }
        )


def forecast_rates(
    history: History,
    horizon_bins: int,
    method: str = Method.EWMA,
    level: float = 0.9,
    *,
    truth_rps: NDArray[np.float64] | None = None,
) -> pl.DataFrame:
    """Rate of every adapter in the next bins, with a band.

    Parameters
    ----------
    history: counts per adapter and bin (`bin_counts`, or made from any array of counts).
    horizon_bins: how many bins ahead.
    method: see `Method`; the plain ones (`PLAIN`) take milliseconds.
    level: share of outcomes that the band shall hold.
    truth_rps: for "oracle": the true rates, (adapters, horizon_bins).

    Returns
    -------
    Columns adapter, bin (0 is the first after the history), rate_rps, lower_rps, upper_rps; rates
    and their bands are of single bins: the count to come over bin_s.

    Raises
    ------
    ConfigError, DataError, WorkloadError: one line; for example too short a history.
    """
    return forecast(history, horizon_bins, method, level, truth_rps=truth_rps).frame()


def forecast(
    history: History,
    horizon_bins: int,
    method: str = Method.EWMA,
    level: float = 0.9,
    *,
    truth_rps: NDArray[np.float64] | None = None,
) -> RateForecast:
    """As `forecast_rates`, but an object: its frames, its band's source, the mean's band."""
    horizon = whole("horizon_bins", horizon_bins, least=1, most=1_000_000)
    chosen = as_method(method)
    checked = checked_level(level)
    names = (chosen.value,) * len(history.counts)
    if chosen is Method.ORACLE:
        mean = _truth(history, horizon, truth_rps)
        return RateForecast(history, mean, band_of(mean, None, checked), names, checked)
    season = history.season_bins
    ahead = forecast_at(chosen, history.counts, [history.bins], horizon, season)[:, 0]
    past = past_scores(history, horizon, chosen)
    return RateForecast(history, ahead, band_of(ahead, past, checked), names, checked)


def origins_of(history: History, horizon: int, method: Method) -> list[int]:
    """Past origins whose forecasts can be judged: the newest first bins, oldest first.

    Each has the history that the method needs, at least a quarter of all bins, and the horizon
    after it. Quick methods start at every bin, slow ones at a few that lie evenly.
    """
    first = max(least_bins(method, history.season_bins), history.bins // 4, 1)
    last = history.bins - horizon
    if method in SLOW:
        return spread(first, last, SLOW_ORIGINS)
    return list(range(max(first, last - MAX_ORIGINS + 1), last + 1))


def spread(first: int, last: int, count: int) -> list[int]:
    """At most `count` of first .. last, evenly apart and with the last; none if last < first."""
    room = last - first
    if room < 0:
        return []
    step = max(room // max(count - 1, 1), 1)
    return sorted(last - k * step for k in range(min(count, room // step + 1)))


def truth_at(history: History, origins: list[int], horizon: int) -> NDArray[np.float64]:
    """What came after each origin: (adapters, origins, horizon)."""
    import numpy as np

    return history.counts[:, np.asarray(origins)[:, None] + np.arange(horizon)]


def past_scores(history: History, horizon: int, method: Method) -> Scores | None:
    """Normalised misses of the method on the history itself; None where it is too short."""
    origins = origins_of(history, horizon, method)
    if not origins:
        return None
    past = forecast_at(method, history.counts, origins, horizon, history.season_bins)
    scores = scores_of(past, truth_at(history, origins, horizon))
    return shared_steps(scores) if method in SLOW else scores


def _truth(
    history: History, horizon: int, truth_rps: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    import numpy as np

    if truth_rps is None:
        raise ConfigError("method (oracle) needs truth_rps: the true rates, adapters x bins")
    truth = np.asarray(truth_rps, dtype=np.float64)
    wanted = (len(history.counts), horizon)
    if truth.shape != wanted:
        raise ConfigError(f"truth_rps (shape {truth.shape}) must be adapters x bins {wanted}")
    return truth * history.bin_s
