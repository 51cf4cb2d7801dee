"""Result tables of the conformance commands: for the terminal, JSON, CSV and the documentation."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pytwin.errors import PytwinError

Rows = Sequence[Mapping[str, Any]]
Format = Literal["table", "json", "csv"]


def with_total(rows: Rows, label: str) -> list[dict[str, Any]]:
    """The rows and one more with the sums of all numbers; `label` is the first column's name."""
    total: dict[str, Any] = {label: "total"}
    for name in rows[0] if rows else ():
        if name != label:
            total[name] = sum(row[name] for row in rows)
    return [*map(dict, rows), total]


def as_text(rows: Rows, form: Format) -> str:
    """The rows in one of the output formats."""
    if form == "json":
        return json.dumps(list(rows), indent=1)
    if form == "csv":
        out = io.StringIO()
        writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue().rstrip("\n")
    return _aligned(rows)


def _cells(rows: Rows) -> list[list[str]]:
    names = list(rows[0])
    shown = [[f"{v:,}" if isinstance(v, int) else str(v) for v in row.values()] for row in rows]
    return [[name.replace("_", " ") for name in names], *shown]


def _aligned(rows: Rows) -> str:
    cells = _cells(rows)
    widths = [max(len(row[k]) for row in cells) for k in range(len(cells[0]))]
    lines = []
    for row in cells:
        numbers = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *numbers]).rstrip())
    return "\n".join(lines)


def as_markdown(rows: Rows, caption: str) -> str:
    """A Markdown table under a line of text."""
    cells = _cells(rows)
    ruler = ["---", *["--:"] * (len(cells[0]) - 1)]
    table = [f"| {' | '.join(row)} |" for row in [cells[0], ruler, *cells[1:]]]
    return "\n".join([caption, "", *table])


def update_block(path: Path, name: str, text: str) -> None:
    """Replaces what stands between `<!-- name -->` and `<!-- /name -->` in a document.

    Raises:
        PytwinError: the document lacks the marks.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    document = path.read_text()
    if begin not in document or end not in document:
        raise PytwinError(f"{path} has no place for the table: add {begin} and {end}")
    head, rest = document.split(begin, 1)
    tail = rest.split(end, 1)[1]
    partial = path.with_suffix(".tmp")
    partial.write_text(f"{head}{begin}\n{text}\n{end}{tail}")
    partial.rename(path)
