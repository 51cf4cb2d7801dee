"""Results on stdout, files written whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytwin.errors import DataError

if TYPE_CHECKING:
    import polars as pl

_SUFFIXES = (".parquet", ".csv")


def note(message: str) -> None:
    """A remark for the person at the terminal, on stderr."""
    print(f"pytwin: {' '.join(message.split())}", file=sys.stderr)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=2, allow_nan=False))


def print_csv(rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as CSV on stdout, with a header; null is an empty field."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _field(value) for name, value in row.items()})
    sys.stdout.write(text.getvalue())


def print_table(
    rows: Sequence[Mapping[str, Any]],
    *,
    title: str | None = None,
    wide: bool = True,
    show: Callable[[Any], str] | None = None,
) -> None:
    """Rows as a table on stdout; numbers to the right, as `show` writes them."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    if not rows:
        return
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in rows[0]:
        numeric = all(isinstance(row[name], (int, float, type(None))) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*((show or shown)(value) for value in row.values()))
    # Not on a terminal, lines are as long as they need to be: a reader may cut them.
    width = None if sys.stdout.isatty() or not wide else 240
    console = Console(file=sys.stdout, width=width, highlight=False)
    if title is not None:
        console.print(title)
    console.print(table)


def shown(value: Any) -> str:
    """A value for a person: six figures, a dash for what does not exist."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:.5g}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 1e5 else str(value)
    return str(value)


def shown_percent(value: Any) -> str:
    """As `shown`, but two decimals: enough for an error in percent."""
    if isinstance(value, float) and abs(value) < 1e3:
        return f"{value:.2f}"
    return shown(value)


def check_writable(path: str | None, suffixes: Sequence[str] = _SUFFIXES) -> None:
    """Refuse a target before the work is done, not after it.

    Raises
    ------
    DataError: an unknown suffix, or a folder that is absent or not writable.
    """
    if path is None:
        return
    target = Path(path)
    if suffixes and target.suffix not in suffixes:
        raise DataError(
            f"{path} ({target.suffix or 'no suffix'}) must end in {suffixes_of(suffixes)}"
        )
    folder = target.parent
    if not folder.is_dir():
        raise DataError(f"{path} cannot be written: folder {folder} does not exist, make it first")
    if target.is_dir() or not os.access(folder, os.W_OK):
        raise DataError(f"{path} cannot be written: choose a writable file path")


def suffixes_of(suffixes: Sequence[str]) -> str:
    """`.parquet or .csv`."""
    return " or ".join(suffixes)


def write_frame(frame: pl.DataFrame, path: str) -> None:
    """A frame as Parquet or CSV, by the path's suffix; whole or not at all."""
    buffer = io.BytesIO()  # encoded first: the system's own errors then say what is wrong
    if path.endswith(".csv"):
        frame.write_csv(buffer)
    else:
        frame.write_parquet(buffer)
    _write_whole(path, buffer.getvalue())


def write_text(text: str, path: str) -> None:
    """A text file; whole or not at all."""
    _write_whole(path, text.encode())


def _write_whole(path: str, content: bytes) -> None:
    temporary = Path(f"{path}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        reason = error.strerror or str(error)
        raise DataError(
            f"{path} cannot be written: {reason}; free space or choose another path"
        ) from None


def _field(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, (list, tuple, dict)):
        return json.dumps(value)
    return value
