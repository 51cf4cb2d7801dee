"""Near-critical configurations: where a small error of the cost model changes the result a lot.

The rule. Steps are made 3 % longer and 3 % shorter, about what a law of step times errs by. A
configuration is near-critical if one of the two changes mean TPOT by more than 9 % (three times as
much), mean TTFT by more than 15 % (five times as much), or its verdict (starved or not); or if it
has two states: the seeds' mean TPOTs lie apart by more than 10 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NUDGE = 0.03
"""By how much steps are made longer and shorter."""

LIMITS = {"mean_tpot_ms": 0.09, "mean_ttft_ms": 0.15}
"""Relative change by a nudge beyond which a configuration is near-critical."""

TWO_STATES = 0.10
"""Relative difference of the seeds' mean TPOTs beyond which two states are likely."""

_SHOWN = ("total_throughput", "mean_tpot_ms", "mean_ttft_ms")


@dataclass(frozen=True)
class Sensitivity:
    """What 3 % longer or shorter steps do.

    Attributes
    ----------
    percent: metric -> change in percent by 3 % longer steps.
    reasons: why the configuration is near-critical; empty if it is not.
    """

    percent: dict[str, float] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()


def sensitivity_of(
    base: Sequence[Mapping[str, Any]],
    longer: Sequence[Mapping[str, Any]],
    shorter: Sequence[Mapping[str, Any]],
    seeds: Sequence[Mapping[str, Any]],
) -> Sensitivity:
    """The rule applied to metrics of simulations.

    Parameters
    ----------
    base, longer, shorter: the same seeds with steps as they are, 3 % longer and 3 % shorter.
    seeds: all seeds, with steps as they are.
    """
    percent = {}
    reasons = []
    for name in _SHOWN:
        up, down = _change(base, longer, name), _change(base, shorter, name)
        if up is None or down is None:
            continue
        percent[name] = 100 * up
        most = max(up, down, key=abs)
        if abs(most) > LIMITS.get(name, math.inf):
            label = "longer" if most is up else "shorter"
            reasons.append(f"steps 3 % {label} change {name} by {100 * most:+.0f} %")
    for label, rows in (("longer", longer), ("shorter", shorter)):
        if _starved(rows) != _starved(base):
            now = "starve it" if _starved(rows) else "end its starvation"
            reasons.append(f"steps 3 % {label} {now}")
    tpots = [row["mean_tpot_ms"] for row in seeds if _positive(row["mean_tpot_ms"])]
    if len(tpots) > 1 and max(tpots) > (1 + TWO_STATES) * min(tpots):
        reasons.append(
            f"two states: from seed to seed mean_tpot_ms is {min(tpots):.3g} to {max(tpots):.3g}"
        )
    return Sensitivity(percent, tuple(reasons))


def _change(
    base: Sequence[Mapping[str, Any]], moved: Sequence[Mapping[str, Any]], name: str
) -> float | None:
    """Mean relative change over the seeds that have the metric in both."""
    ratios = [
        after[name] / before[name] - 1
        for before, after in zip(base, moved, strict=True)
        if _positive(before[name]) and _positive(after[name])
    ]
    return math.fsum(ratios) / len(ratios) if ratios else None


def _starved(rows: Sequence[Mapping[str, Any]]) -> bool:
    """The verdict of most of the seeds; of two that disagree, starved."""
    return 2 * sum(bool(row["starved"]) for row in rows) >= len(rows)


def _positive(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and value > 0
