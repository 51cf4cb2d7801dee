"""Paired differences and their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Difference:
    """A metric before and after a change.

    Attributes
    ----------
    before, after: means over the pairs, in the metric's unit.
    change: mean of after - before.
    low, high: interval of the mean change; None where fewer than two pairs have the metric.
    """

    before: float
    after: float
    change: float
    low: float | None
    high: float | None

    @property
    def percent(self) -> float | None:
        """The change in percent of before; None where that is 0."""
        return None if self.before == 0 else 100.0 * self.change / self.before

    @property
    def clear(self) -> bool:
        """Whether the interval leaves no doubt about the change's sign."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def to_dict(self) -> dict[str, float | None]:
        """As JSON takes it."""
        return {
            "before": self.before,
            "after": self.after,
            "change": self.change,
            "low": self.low,
            "high": self.high,
            "percent": self.percent,
        }

    def __str__(self) -> str:
        text = f"{_short(self.before)} -> {_short(self.after)}  {_signed(self.change)}"
        if self.low is None or self.high is None:
            return text
        return f"{text} [{_signed(self.low)}, {_signed(self.high)}]"


def paired(before: Iterable[Any], after: Iterable[Any], level: float) -> Difference | None:
    """Means and Student's t-interval of the pairs in which both values exist.

    None where no pair has both (a value is missing if None or not finite).
    """
    pairs = [
        (float(old), float(new))
        for old, new in zip(before, after, strict=True)
        if old is not None and new is not None and math.isfinite(old) and math.isfinite(new)
    ]
    count = len(pairs)
    if count == 0:
        return None
    gaps = [new - old for old, new in pairs]
    mean = math.fsum(gaps) / count
    low = high = None
    if count > 1:
        spread = math.sqrt(math.fsum((gap - mean) ** 2 for gap in gaps) / (count - 1))
        reach = student_quantile(0.5 * (1.0 + level), count - 1) * spread / math.sqrt(count)
        low, high = mean - reach, mean + reach
    return Difference(
        math.fsum(old for old, _ in pairs) / count,
        math.fsum(new for _, new in pairs) / count,
        mean,
        low,
        high,
    )


def student_quantile(share: float, freedom: int) -> float:
    """The value below which a `share` >= 1/2 of Student's t law lies; `freedom` >= 1."""
    low, high = 0.0, 1.0
    while _student_below(high, freedom) < share and high < 1e12:
        high *= 2.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (middle, high) if _student_below(middle, freedom) < share else (low, middle)
    return high


def _student_below(t: float, freedom: int) -> float:
    """Share of Student's t law below t >= 0 (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    if freedom % 2:
        term, inside = cosine, 0.0
        for k in range(1, freedom - 1, 2):
            inside += term
            term *= (k + 1) / (k + 2) * cosine * cosine
        central = 2.0 / math.pi * (angle + sine * inside)
    else:
        term, inside = 1.0, 0.0
        for k in range(0, freedom - 1, 2):
            inside += term
            term *= (k + 1) / (k + 2) * cosine * cosine
        central = sine * inside
    return 0.5 + 0.5 * central


def _short(value: float) -> str:
    return f"{value:10,.0f}" if abs(value) >= 1000 else f"{value:10.4g}"


def _signed(value: float) -> str:
    return f"{value:+,.0f}" if abs(value) >= 1000 else f"{value:+.3g}"
