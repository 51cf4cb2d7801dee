"""A campaign's tables in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .plan import Run, total_s

BEGIN, END = "<!-- campaign -->", "<!-- /campaign -->"
Json = dict[str, Any]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table; columns in the order of their first appearance."""
    if not rows:
        return "(nothing)\n"
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    for row in rows:
        lines.append("| " + " | ".join(_cell(row.get(name)) for name in names) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return str(value).replace("|", "\\|")


def plan_table(plan: Sequence[Run], start_s: float) -> str:
    """The plan, and how long it takes."""
    rows = [
        {"run": run.name, "minutes": round(run.load_s / 60, 1), "max_loras": run.max_loras,
         "max_lora_rank": run.max_lora_rank, "adapters": run.adapters, "tells": run.tells}
        for run in plan
    ]  # fmt: skip
    total = total_s(plan, start_s) / 3600
    return table(rows) + f"\n{total:.1f} hours, {start_s:.0f} s per server start included\n"


def markdown(found: Json, caption: str) -> str:
    """The whole report."""
    return caption


def update(path: Path, text: str) -> None:
    """Puts the text between the document's marks."""
