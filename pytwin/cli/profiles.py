"""`pytwin profiles`: what is shipped, and what it is worth."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from pytwin.catalog import load_profile, shipped_profiles
from pytwin.cli.flags import Format
from pytwin.cli.output import print_csv, print_json, print_table


def profiles(
    *,
    format: Annotated[Format, Parameter(name="--format")] = "table",  # noqa: A002
) -> int:
    """List the shipped profiles: source, measured ranges, held-out errors."""
    rows = [_row(name) for name in shipped_profiles()]
    if format == "json":
        print_json(rows)
    elif format == "csv":
        print_csv(rows)
    else:
        for row in rows:
            cells = [{"field": name, "value": _text(value)} for name, value in row.items()]
            print_table(cells, title=row["name"], wide=False)
    return 0


def _row(name: str) -> dict[str, Any]:
    data = load_profile(name).data
    provenance = data.get("provenance", {})
    return {
        "name": data["name"],
        "model": data["model"],
        "gpu": data.get("gpu"),
        "engine_version": data["engine_version"],
        "source": provenance.get("source"),
        "date": provenance.get("date"),
        "fitted_on": provenance.get("fitted_on"),
        "held_out": provenance.get("held_out"),
        "ranges": data.get("ranges"),
        "errors": data.get("errors"),
    }


def _text(value: Any) -> str:
    if isinstance(value, dict) and any(isinstance(part, dict) for part in value.values()):
        return "\n".join(f"{key}: {_text(part)}" for key, part in value.items())
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(part)}" for key, part in value.items())
    if isinstance(value, (list, tuple)):
        between = " to " if len(value) == 2 and not isinstance(value[0], str) else ", "
        return between.join(map(_text, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value is None else str(value)
