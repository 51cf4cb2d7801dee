"""What the project promises of the twin's accuracy, and whether it is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# figure, regime, limit; errors in percent at most, "right" in percent at least.
_GIVEN_ARRIVALS = (
    ("throughput_mape", "all", 1.0),
    ("throughput_mape", "starved", 1.5),
    ("throughput_mape", "unstarved", 0.9),
    ("tpot_mape", "all", 3.0),
    ("itl_mape", "all", 3.0),
    ("ttft_median_error", "all", 10.0),
)
_BLIND = (
    ("throughput_mape", "all", 1.8),
    ("tpot_mape", "all", 3.9),
    ("itl_mape", "all", 3.9),
    ("ttft_median_error", "all", 13.0),
)
_RIGHT = (("starved_right_clear", 98.0), ("slow_right", 98.0))
_COVERED = (85.0, 95.0)


def targets(
    summary: Sequence[Mapping[str, Any]],
    verdicts: Sequence[Mapping[str, Any]],
    coverage: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """One line per promise, prediction, model and family: its limit, the figure, kept or not.

    Lines whose figure does not exist (no run of that regime) are left out. The coverage of 85 to
    95 % is promised of intervals of 90 %.
    """
    lines = []
    for row in summary:
        promises = {"arrivals": _GIVEN_ARRIVALS, "blind": _BLIND}.get(row["prediction"], ())
        for figure, regime, limit in promises:
            if row["regime"] == regime and row[figure] is not None:
                met = row[figure] <= limit
                lines.append(_line(row, f"{figure} ({regime})", f"<= {limit:g}", row[figure], met))
    for row in verdicts:
        for figure, limit in _RIGHT:
            if row["prediction"] != "arrivals or blind" and row[figure] is not None:
                met = row[figure] >= limit
                lines.append(_line(row, figure, f">= {limit:g}", row[figure], met))
    for row in coverage:
        if row["regime"] == "all" and row["prediction"] != "arrivals or blind":
            low, high = _COVERED
            met = low <= row["covered"] <= high
            figure = f"coverage of {row['metric']}"
            lines.append(_line(row, figure, f"{low:g} to {high:g}", row["covered"], met))
    order = {"arrivals": 0, "blind": 1}
    return sorted(lines, key=lambda line: (order[line["prediction"]], line["model"]))


def _line(
    row: Mapping[str, Any], figure: str, target: str, value: float, met: bool
) -> dict[str, Any]:
    return {
        "prediction": row["prediction"],
        "model": row["model"],
        "family": row["family"],
        "figure": figure,
        "target": target,
        "value": value,
        "runs": row["runs"],
        "met": met,
    }
