"""Forecasts with a method per adapter."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytwin.fleet.forecast.bins import History
from pytwin.fleet.forecast.conformal import Band
from pytwin.fleet.forecast.judge import RollingScores, rolling_scores
from pytwin.fleet.forecast.methods import Method
from pytwin.fleet.forecast.rates import RateForecast, forecast
from pytwin.fleet.forecast.selection import Selection, rows_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def forecast_selected(
    history: History, horizon_bins: int, selection: Selection, level: float = 0.9
) -> RateForecast:
    """Each adapter by the method chosen for it.

    The band's misses are of the origins that the method was chosen on: it is a little narrower
    than the level says, the more so the more methods were tried.
    """
    import numpy as np

    parts = _by_method(
        history, selection, lambda part, method: forecast(part, horizon_bins, method, level)
    )

    def join(of: Callable[[RateForecast], NDArray[Any]]) -> NDArray[Any]:
        first = of(parts[0][1])
        joined = np.empty((len(history.counts), *first.shape[1:]), dtype=first.dtype)
        for rows, part in parts:
            joined[rows] = of(part)
        return joined

    band = Band(
        join(lambda part: part.band.lower),
        join(lambda part: part.band.upper),
        join(lambda part: part.band.mean_lower),
        join(lambda part: part.band.mean_upper),
        join(lambda part: part.band.source),
    )
    methods = tuple(method.value for method in selection.methods)
    return RateForecast(history, join(lambda part: part.mean), band, methods, level)


def selected_scores(
    history: History, horizon_bins: int, selection: Selection, level: float = 0.9
) -> dict[str, NDArray[np.float64]]:
    """Rolling-origin scores of each adapter's own method: mase, rmsse, pinball, coverage."""
    import numpy as np

    parts: list[tuple[NDArray[np.int64], RollingScores]] = _by_method(
        history, selection, lambda part, method: rolling_scores(part, horizon_bins, method, level)
    )
    joined = {}
    for name in ("mase", "rmsse", "pinball", "coverage"):
        column = np.full(len(history.counts), np.nan)
        for rows, part in parts:
            column[rows] = getattr(part, name)
        joined[name] = column
    return joined


def _by_method(
    history: History, selection: Selection, act: Callable[[History, Method], Any]
) -> list[tuple[NDArray[np.int64], Any]]:
    import numpy as np

    groups: dict[Method, list[int]] = {}
    for row, method in enumerate(selection.methods):
        groups.setdefault(method, []).append(row)
    found = []
    for method, listed in groups.items():
        rows = np.array(listed, dtype=np.int64)
        found.append((rows, act(rows_of(history, rows), method)))
    return found
