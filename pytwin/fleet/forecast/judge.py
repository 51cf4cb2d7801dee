"""Methods judged on the history itself, from rolling origins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytwin.fleet.forecast.bins import History
from pytwin.fleet.forecast.conformal import band_of, checked_level, scores_of, shared_steps
from pytwin.fleet.forecast.methods import SLOW, Method, forecast_at
from pytwin.fleet.forecast.rates import origins_of, truth_at
from pytwin.fleet.forecast.scores import coverage, mase, naive_scale, pinball, rmsse

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RollingScores:
    """Of one method, per adapter: arrays (adapters,).

    `mase`, `rmsse`: over all origins and steps ahead. `pinball` (mean of both ends, in requests a
    bin) and `coverage`: of bands made from the misses of the older half of the origins, on
    outcomes that begin after those of the older half end.
    NaN where there is nothing to judge by.
    """

    method: Method
    origins: int
    mase: Floats
    rmsse: Floats
    pinball: Floats
    coverage: Floats


def rolling_scores(
    history: History, horizon: int, method: Method, level: float, *, bands: bool = True
) -> RollingScores:
    """Judge the method's forecasts of `horizon` bins on the history."""
    import numpy as np

    checked = checked_level(level)
    none = np.full(len(history.counts), np.nan)
    origins = origins_of(history, horizon, method)
    if not origins:
        return RollingScores(method, 0, none, none, none, none)
    past = forecast_at(method, history.counts, origins, horizon, history.season_bins)
    truth = truth_at(history, origins, horizon)
    scale = naive_scale(history.counts[:, : origins[0]])
    loss, inside = none, none
    if bands:
        loss, inside = _bands(past, truth, origins, method, checked)
    return RollingScores(
        method, len(origins), mase(truth, past, scale), rmsse(truth, past, scale), loss, inside
    )


def _bands(
    past: Floats, truth: Floats, origins: list[int], method: Method, level: float
) -> tuple[Floats, Floats]:
    import numpy as np

    horizon = past.shape[2]
    none = np.full(len(past), np.nan)
    half = len(origins) // 2
    # What is judged must not share outcomes with what the band was made from.
    later = [k for k, origin in enumerate(origins) if origin >= origins[half - 1] + horizon]
    if half < 1 or not later:
        return none, none
    older = scores_of(past[:, :half], truth[:, :half])
    if method in SLOW:
        older = shared_steps(older)
    ends = [band_of(past[:, k], older, level) for k in later]
    lower = np.stack([band.lower for band in ends], axis=1)
    upper = np.stack([band.upper for band in ends], axis=1)
    told = truth[:, later]
    tail = (1.0 - level) / 2.0
    loss = (pinball(told, lower, tail) + pinball(told, upper, 1.0 - tail)) / 2.0
    return loss, coverage(told, lower, upper)
