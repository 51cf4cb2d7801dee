"""Write a validation report into the documentation: errors, floor, verdicts, coverage, targets.

    python -m calibration.tables out/validate.json

The report is what `pytwin validate --out FILE` saved. Tables stand between markers in
docs/guides/validate.md and docs/background/uncertainty.md; the rest of the pages is left alone.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent
_METRICS = {
    "total_throughput": "throughput",
    "mean_tpot_ms": "TPOT",
    "mean_itl_ms": "ITL",
    "mean_ttft_ms": "TTFT",
}

Row = Mapping[str, Any]


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], digits: int = 2) -> list[str]:
    """Markdown lines."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(_cell(cell, digits) for cell in row) + " |" for row in rows]


def results(report: Mapping[str, Any]) -> list[str]:
    """The section of docs/guides/validate.md."""
    every = [row for row in report["summary"] if row["prediction"] != "arrivals or blind"]
    floors = {_key(row): row for row in report["floor"]}
    errors = []
    for row in sorted(every, key=_order):
        floor = floors[_key(row)]
        errors.append(
            [
                row["prediction"],
                _model(row),
                row["regime"],
                row["runs"],
                _beside(row["throughput_mape"], floor["throughput_floor"]),
                f"{row['throughput_bias']:+.2f}",
                _beside(row["tpot_mape"], floor["tpot_floor"]),
                _beside(row["itl_mape"], floor["itl_floor"]),
                _beside(row["ttft_median_error"], floor["ttft_floor"]),
            ]
        )
    verdicts = [
        [
            row["prediction"],
            _model(row),
            row["runs"],
            row["starved_right"],
            f"{_cell(row['starved_right_clear'])} of {row['clear_runs']}",
            row["slow_right"],
        ]
        for row in sorted(report["verdicts"], key=_order)
        if row["prediction"] != "arrivals or blind"
    ]
    targets = [
        [
            row["prediction"],
            _model(row),
            row["figure"].replace("_", " "),
            row["target"],
            row["value"],
            "kept" if row["met"] else "**missed**",
        ]
        for row in report["targets"]
    ]
    near = [
        [
            row["prediction"],
            _model(row),
            "yes" if row["near_critical"] else "no",
            row["runs"],
            row["throughput_mape"],
            row["tpot_mape"],
            row["itl_mape"],
            row["ttft_median_error"],
        ]
        for row in sorted(report["near_critical"], key=_order)
        if row["prediction"] != "arrivals or blind"
    ]
    head = (
        f"Families {', '.join(report['families'])}, {report['seeds']} seeds, {report['draws']} "
        f"draws, {report['date']}; made by `pytwin validate` and `python -m calibration.tables`.\n"
        "Errors in percent, each with its floor in brackets."
    )
    return [
        head,
        "",
        *table(
            ["prediction", "model", "regime", "runs", "throughput", "bias", "TPOT", "ITL", "TTFT"],
            errors,
        ),
        "",
        "Runs called right, in percent:",
        "",
        *table(
            ["prediction", "model", "runs", "starved", "the same, clear of the line", "slow"],
            verdicts,
        ),
        "",
        "Near-critical runs and the others:",
        "",
        *table(
            ["prediction", "model", "near-critical", "runs", "throughput", "TPOT", "ITL", "TTFT"],
            near,
        ),
        "",
        "Targets:",
        "",
        *table(["prediction", "model", "figure", "target", "value", ""], targets),
    ]


def coverage(report: Mapping[str, Any]) -> list[str]:
    """The section of docs/background/uncertainty.md."""
    rows = [
        [
            row["prediction"],
            _model(row),
            _METRICS[row["metric"]],
            row["runs"],
            row["covered"],
            row["below"],
            row["above"],
            row["median_width"],
        ]
        for row in sorted(report["coverage"], key=_order)
        if row["regime"] == "all" and row["prediction"] != "arrivals or blind"
    ]
    head = (
        f"Families {', '.join(report['families'])}, {report['date']}, intervals of "
        f"{100 * report['interval']:g} %, in percent: real\nruns inside, below and above, and the "
        "interval's median width."
    )
    names = ["prediction", "model", "metric", "runs", "inside", "below", "above", "width"]
    return [head, "", *table(names, rows)]


def write(page: Path, marker: str, lines: Sequence[str]) -> None:
    """Put lines between `<!-- marker: begin -->` and `<!-- marker: end -->`."""
    text = page.read_text(encoding="utf-8")
    begin, end = f"<!-- {marker}: begin -->", f"<!-- {marker}: end -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{page} has no place for {marker}: add {begin} and {end}")
    body = "\n".join([begin, *lines, end])
    page.write_text(pattern.sub(lambda _: body, text), encoding="utf-8")


def _cell(value: Any, digits: int = 2) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def _beside(error: float | None, floor: float | None) -> str:
    return f"{_cell(error)} ({_cell(floor)})"


def _key(row: Row) -> tuple[Any, ...]:
    return row["prediction"], row["model"], row["family"], row["regime"]


def _order(row: Row) -> tuple[Any, ...]:
    return {"arrivals": 0, "blind": 1}.get(row["prediction"], 2), row["model"]


def _model(row: Row) -> str:
    name = str(row["model"]).partition("-")[0].capitalize()
    return name if row["family"] != "all" else f"{name}, all families"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write a validation report into the docs.")
    parser.add_argument("report", type=Path)
    arguments = parser.parse_args()
    report = json.loads(arguments.report.read_text(encoding="utf-8"))
    sections: dict[tuple[str, str], Callable[[Mapping[str, Any]], list[str]]] = {
        ("docs/guides/validate.md", "results"): results
    }
    if report["interval"] is not None:
        sections["docs/background/uncertainty.md", "coverage"] = coverage
    for (page, marker), lines in sections.items():
        write(_ROOT / page, marker, lines(report))
        print(f"{page}: {marker}")


if __name__ == "__main__":
    main()
