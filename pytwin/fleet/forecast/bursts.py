"""Bursts: bins with more requests than the recent level allows.

The rule. Before each bin the adapter's level is known from an exponentially weighted mean of its
counts (weight LEVEL_ALPHA), which is as good as (2 - a)/a whole bins of evidence. Under Poisson
requests with a rate known that well the next count is negative binomial; a bin is an alarm if a
count that high has at most the probability `false_alarm` under it. So with Poisson traffic of
constant rate a share of at most `false_alarm` of bins alarms (less where counts are small and jump
over that probability). With days in the history, the mean count of the same bin of the days before
(or of its neighbour, if that is higher) takes the level's place where it is clearly higher, by two
standard errors: a morning is no burst. Alarms do not raise the level, but after ADAPT_BINS of them
in a row it is set to theirs: that is a new level, no burst any more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from pytwin.errors import ConfigError
from pytwin.fleet.forecast.bins import History

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

LEVEL_ALPHA = 0.1
ADAPT_BINS = 6
_EVIDENCE = (2.0 - LEVEL_ALPHA) / LEVEL_ALPHA
_WARM_UP = 5
_EXACT_BELOW = 2000.0


@dataclass(frozen=True)
class Burst:
    """Neighbouring alarms of one adapter.

    Attributes
    ----------
    adapter: its name.
    first_bin, last_bin: of the alarms; onset_s is the start of the first, in seconds.
    level_rps: the rate that was expected when it began.
    factor: mean count of the alarms over the level then (infinite at level 0 is told as None).
    ongoing: the last bin of the history alarms.
    """

    adapter: str
    first_bin: int
    last_bin: int
    onset_s: float
    level_rps: float
    factor: float | None
    ongoing: bool


def detect_bursts(
    history: History, false_alarm: float = 1e-4, *, least_factor: float = 1.5
) -> list[Burst]:
    """Bursts in the history, by adapter and time.

    Parameters
    ----------
    history: counts per adapter and bin; the first five bins of each adapter only teach.
    false_alarm: probability per bin that constant Poisson traffic alarms: with 100 adapters and
        168 hours 1e-4 is at most about two false alarms.
    least_factor: a bin below this multiple of the level is none, however sure it is: of busy
        adapters a few per cent more are sure already.

    Raises
    ------
    ConfigError: false_alarm not in (0, 0.1], or least_factor < 1.
    """
    import numpy as np

    checked_false_alarm(false_alarm)
    if not least_factor >= 1:
        raise ConfigError(f"least_factor ({least_factor}) must be >= 1")
    alarms, levels = _alarms(history, false_alarm, least_factor)
    found = []
    for row, name in enumerate(history.adapters):
        flags = np.concatenate([[False], alarms[row], [False]])
        edges = np.flatnonzero(flags[1:] != flags[:-1])
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            level = float(levels[row, start])
            height = float(history.counts[row, start:stop].mean())
            found.append(
                Burst(
                    adapter=name,
                    first_bin=int(start),
                    last_bin=int(stop) - 1,
                    onset_s=float(start * history.bin_s),
                    level_rps=level / history.bin_s,
                    factor=height / level if level > 0 else None,
                    ongoing=bool(stop == history.bins),
                )
            )
    return found


def checked_false_alarm(false_alarm: float) -> None:
    """Refuse a probability outside (0, 0.1]."""
    if not 0 < false_alarm <= 0.1:
        raise ConfigError(f"false_alarm ({false_alarm}) must be above 0 and at most 0.1")


def _alarms(
    history: History, false_alarm: float, least_factor: float
) -> tuple[NDArray[np.bool_], Floats]:
    """Alarm and expected count of each bin, both (adapters, bins)."""
    import numpy as np

    counts, season = history.counts, history.season_bins
    alarms = np.zeros(counts.shape, dtype=bool)
    levels = np.zeros(counts.shape)
    level = np.zeros(len(counts))
    seen = np.zeros(len(counts))  # bins that taught the level
    row_alarms = np.zeros(len(counts), dtype=np.int64)
    sums = np.zeros(len(counts))  # of the alarms in a row
    for column in range(history.bins):
        count = counts[:, column]
        evidence = np.minimum(np.maximum(seen, 1.0), _EVIDENCE)
        expected = level
        if season and column >= season + 1:
            before, days = _same_hour(counts, column, season)
            clearly = before > level + 2.0 * np.sqrt((level + 1.0) / days)
            evidence = np.where(clearly, days, evidence)
            expected = np.where(clearly, before, level)
        levels[:, column] = expected
        high = (seen >= _WARM_UP) & (count >= least_factor * expected)
        alarm = high & _too_many(count, expected, evidence, false_alarm)
        alarms[:, column] = alarm
        row_alarms = np.where(alarm, row_alarms + 1, 0)
        sums = np.where(alarm, sums + count, 0.0)
        settled = row_alarms >= ADAPT_BINS
        weight = np.maximum(LEVEL_ALPHA, 1.0 / (seen + 1.0))
        taught = level + weight * (count - level)
        level = np.where(settled, sums / np.maximum(row_alarms, 1), np.where(alarm, level, taught))
        seen = np.where(settled, float(ADAPT_BINS), np.where(alarm, seen, seen + 1.0))
        row_alarms, sums = np.where(settled, 0, row_alarms), np.where(settled, 0.0, sums)
    return alarms, levels


def _same_hour(counts: Floats, column: int, season: int) -> tuple[Floats, float]:
    """Mean count of this bin on the days before, or of a neighbour if higher; and the days."""
    import numpy as np

    starts = np.arange(column - season, 0, -season)  # the neighbour before is at least bin 0
    near = [counts[:, starts + shift].mean(axis=1) for shift in (-1, 0, 1)]
    return np.max(near, axis=0), float(len(starts))


def _too_many(
    count: Floats, level: Floats, evidence: Floats, false_alarm: float
) -> NDArray[np.bool_]:
    """Whether each count is in the tail of its negative binomial law."""
    import numpy as np

    # Square roots of such counts are nearly normal (Anscombe): exact for large counts, and for
    # small ones it says which to look at closely.
    spread = np.sqrt(1.0 + 1.0 / evidence)
    score = 2.0 * (np.sqrt(count + 0.375) - np.sqrt(level + 0.375)) / spread
    limit = NormalDist().inv_cdf(1.0 - false_alarm)
    result: NDArray[np.bool_] = score > limit
    close = (score > limit / 3.0) & (count < _EXACT_BELOW) & (count > level)
    for row in np.flatnonzero(close):
        tail = negative_binomial_tail(int(count[row]), float(level[row]), float(evidence[row]))
        result[row] = tail <= false_alarm
    return result


def negative_binomial_tail(count: int, level: float, evidence: float) -> float:
    """P(at least `count` requests) given a level seen over `evidence` bins.

    The rate is Gamma with shape evidence x level + 1/2 (Jeffreys) and `evidence` bins, the count
    Poisson of it.
    """
    shape = evidence * level + 0.5
    fail = 1.0 / (evidence + 1.0)
    # Sum the tail itself: 1 - (all below) would lose small probabilities to rounding.
    log_term = (
        math.lgamma(count + shape) - math.lgamma(shape) - math.lgamma(count + 1)
        + shape * math.log1p(-fail) + count * math.log(fail)
    )  # fmt: skip
    term, total, k = math.exp(log_term), 0.0, count
    while term > 1e-12 * total or k < shape * fail / (1.0 - fail):
        total += term
        term *= (k + shape) / (k + 1.0) * fail
        k += 1
        if total > 1.0:
            break
    return min(total, 1.0)
