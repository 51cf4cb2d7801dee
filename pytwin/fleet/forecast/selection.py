"""Which method for which adapter: by squared error from rolling origins.

Squared error, as a plan works with mean rates: the forecast that errs least in the absolute is the
median, which for a sparse adapter is 0 whatever it asks for.

Adapters are of two classes (Syntetos, Boylan and Croston 2005): "sparse" with more than 1.32 bins
per bin that had a request, else "dense". What a single sparse adapter's few requests say about
methods is noise, so all sparse ones share one method, the best over them together; each dense one
has its own. Methods that take long are tried on the busiest few dense adapters only, and chosen
where they err at least 2 % less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from pytwin.fleet.forecast.bins import History
from pytwin.fleet.forecast.library import installed
from pytwin.fleet.forecast.methods import (
    PLAIN,
    SEASONAL,
    SLOW,
    Method,
    forecast_at,
    least_bins,
)
from pytwin.fleet.forecast.rates import SLOW_ORIGINS, origins_of, spread, truth_at

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SPARSE_INTERVAL = 1.32
SLOW_ADAPTERS = 8
"""The busiest dense adapters, on which slow methods are tried."""
_QUICK_ORIGINS = 24
_LEAST_ORIGINS = 2
_SLOW_GAIN = 0.98
DENSE_METHODS = (
    Method.EWMA,
    Method.PERSISTENCE,
    Method.MOVING_AVERAGE,
    Method.SEASONAL_NAIVE,
    Method.DAILY_SHAPE,
    Method.SES,
    Method.HOLT_WINTERS,
    Method.AUTO_ETS,
)
SPARSE_METHODS = (
    Method.EWMA,
    Method.MOVING_AVERAGE,
    Method.SEASONAL_NAIVE,
    Method.SES,
    Method.CROSTON,
    Method.TSB,
)

Kind = Literal["dense", "sparse"]


@dataclass(frozen=True)
class Selection:
    """A method and a class per adapter, in the history's order.

    `told` says what a reader should know: that methods could not be tried, and why.
    """

    methods: tuple[Method, ...]
    kinds: tuple[Kind, ...]
    told: tuple[str, ...] = ()


def kinds_of(history: History) -> tuple[Kind, ...]:
    """The class of each adapter; one without any request is sparse."""
    asked = (history.counts > 0).sum(axis=1)
    return tuple("sparse" if n * SPARSE_INTERVAL < history.bins else "dense" for n in asked)


def rows_of(history: History, rows: NDArray[np.int64]) -> History:
    """Some of the adapters, by row (at least one)."""
    names = tuple(history.adapters[row] for row in rows)
    return replace(history, counts=history.counts[rows], adapters=names)


def select(history: History, horizon: int, methods: Sequence[Method] = tuple(Method)) -> Selection:
    """Choose from `methods` per adapter; EWMA where the history is too short to judge by."""
    import numpy as np

    kinds = kinds_of(history)
    told: list[str] = []
    known = [method for method in methods if _possible(history, horizon, method)]
    if not installed():
        known = [method for method in known if method in PLAIN]
        told.append(
            "statsforecast is not installed, fewer methods were tried: "
            "pip install 'pytwin[forecast]'"
        )
    if not known:
        told.append(
            f"history ({history.bins} bins) is too short to judge methods for {horizon} bins "
            "ahead: ewma is used"
        )
        return Selection((Method.EWMA,) * len(kinds), kinds, tuple(told))
    chosen = [Method.EWMA] * len(kinds)
    for kind, listed in (("dense", DENSE_METHODS), ("sparse", SPARSE_METHODS)):
        rows = np.array([row for row, found in enumerate(kinds) if found == kind], dtype=np.int64)
        quick = [method for method in listed if method in known and method not in SLOW]
        if not len(rows):
            continue
        if quick:
            errors = _errors(history, rows, horizon, quick)
            if kind == "sparse":
                errors = np.repeat(errors.mean(axis=1, keepdims=True), len(rows), axis=1)
            for column, row in enumerate(rows):
                chosen[row] = quick[int(errors[:, column].argmin())]
        slow = [method for method in listed if method in known and method in SLOW]
        if slow:
            _challenge(history, rows, horizon, slow, chosen)
    return Selection(tuple(chosen), kinds, tuple(told))


def _possible(history: History, horizon: int, method: Method) -> bool:
    if method is Method.ORACLE or (method in SEASONAL and not history.season_bins):
        return False
    return len(origins_of(history, horizon, method)) >= _LEAST_ORIGINS


def _errors(
    history: History, rows: NDArray[np.int64], horizon: int, methods: list[Method]
) -> NDArray[np.float64]:
    """Mean squared error over the adapter's mean count, (methods, rows), at shared origins."""
    import numpy as np

    counts = history.counts[rows]
    shared = min((origins_of(history, horizon, m) for m in methods), key=len)
    origins = spread(shared[0], shared[-1], _QUICK_ORIGINS)
    truth = truth_at(history, origins, horizon)[rows]
    # Poisson's variance is its mean: so scaled, adapters of all rates weigh alike in a class.
    scale = np.maximum(counts.mean(axis=1), 1.0 / history.bins)
    errors = [
        ((forecast_at(m, counts, origins, horizon, history.season_bins) - truth) ** 2).mean((1, 2))
        for m in methods
    ]
    scaled: NDArray[np.float64] = np.stack(errors) / scale
    return scaled


def _challenge(
    history: History,
    rows: NDArray[np.int64],
    horizon: int,
    slow: list[Method],
    chosen: list[Method],
) -> None:
    """Let slow methods replace what the busiest adapters have, where they are clearly better."""
    last = history.bins - horizon
    busiest = rows[(-history.counts[rows].sum(axis=1)).argsort(kind="stable")][:SLOW_ADAPTERS]
    for row in busiest:
        part = rows_of(history, busiest[busiest == row])

        def error(method: Method, part: History = part, origins: Sequence[int] = ()) -> float:
            past = forecast_at(method, part.counts, origins, horizon, part.season_bins)
            return float(((past - truth_at(part, list(origins), horizon)) ** 2).mean())

        best = chosen[row]
        for method in slow:
            first = max(least_bins(m, part.season_bins) for m in (method, best))
            origins = spread(max(first, part.bins // 4), last, SLOW_ORIGINS)
            if error(method, origins=origins) < _SLOW_GAIN**2 * error(best, origins=origins):
                best = method
        chosen[row] = best
