"""From simulated values of a metric to an interval, and to the probability of crossing a line.

The values come from draws of seeds and parameters. Each stands for a log-normal kernel, as wide as
what the draws do not hold: the metric's unexplained spread, and a little smoothing, since 16 values
are a coarse picture of a law. The values are pulled together by as much as the smoothing spreads
them, so that it adds no variance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from pytwin.errors import PytwinError

FloatArray = npt.NDArray[np.float64]


def checked_level(level: object) -> float:
    """The share that an interval is to hold, above 0 and below 1.

    Raises
    ------
    PytwinError: it is not.
    """
    if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0 < level < 1:
        raise PytwinError(f"level ({level!r}) must be above 0 and below 1, as in 0.9")
    return float(level)


_SMOOTHING = 0.5  # kernel width in standard deviations of the values
# Student's 95 % quantile over the normal one is 1 + (z**2 + 1) / (4 (n - 1)), z = 1.645.
_FEW = (1.645**2 + 1) / 4
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Law:
    """The predictive law of a positive metric: a mixture of log-normal kernels.

    Attributes
    ----------
    centres: logarithms, (draws,).
    width: standard deviation of each kernel; 0 where nothing is uncertain.
    """

    centres: FloatArray
    width: float

    def below(self, line: float) -> float:
        """Probability of a value of at most `line`."""
        if line <= 0:
            return 0.0
        gap = math.log(line) - self.centres
        if self.width == 0:
            return float((gap >= 0).mean())
        return float(np.mean([_NORMAL.cdf(z) for z in gap / self.width]))

    def above(self, line: float) -> float:
        """Probability of a value above `line`."""
        return 1.0 - self.below(line)

    def quantile(self, share: float) -> float:
        """The value that a share of the law lies below."""
        if self.width == 0:
            return float(np.exp(np.quantile(self.centres, share, method="hazen")))
        reach = 8 * self.width
        low, high = float(self.centres.min()) - reach, float(self.centres.max()) + reach
        for _ in range(60):
            middle = (low + high) / 2
            if self.below(math.exp(middle)) < share:
                low = middle
            else:
                high = middle
        return math.exp((low + high) / 2)

    def interval(self, level: float) -> tuple[float, float]:
        """The central interval that holds a share `level` of the law."""
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)


def law_of(values: Sequence[float] | FloatArray, unexplained: float = 0.0) -> Law | None:
    """The law behind these simulated values; None where fewer than one is positive and finite.

    Parameters
    ----------
    values: one per draw; those that do not exist (NaN) or are not positive are left out.
    unexplained: standard deviation of the logarithm that the draws do not hold.
    """
    kept = np.array([value for value in values if math.isfinite(value) and value > 0])
    if kept.size == 0:
        return None
    logs = np.log(kept)
    mean, count = float(logs.mean()), logs.size
    # The spread of a few draws, enlarged to what one more draw from the same law needs.
    spread = math.sqrt(float(((logs - mean) ** 2).sum()) / (count - 1)) if count > 1 else 0.0
    inflated = spread * math.sqrt(1 + 1 / count) * (1 + _FEW / max(count - 1, 1))
    width = _SMOOTHING * inflated
    if spread > 0:
        kept_share = math.sqrt(1 - _SMOOTHING**2) * inflated / math.sqrt((count - 1) / count)
        logs = mean + (logs - mean) * kept_share / spread
    return Law(logs, math.hypot(width, unexplained))
