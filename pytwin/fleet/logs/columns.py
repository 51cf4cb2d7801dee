"""Columns of a log's file, checked value by value: each error names the row."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytwin.errors import DataError, WorkloadError
from pytwin.workload.checks import MAX_TOKENS

if TYPE_CHECKING:
    import polars as pl


def read_table(path: str) -> pl.DataFrame:
    """A CSV file with every column as text, a Parquet file, or JSON lines.

    Raises
    ------
    DataError: an unreadable or empty file.
    """
    import polars as pl

    if Path(path).is_dir():
        raise DataError(f"log ({path}) is a directory: give a CSV, Parquet or JSONL file")
    try:
        if path.endswith((".parquet", ".pq")):
            frame = pl.read_parquet(path)
        elif path.endswith((".jsonl", ".ndjson")):
            frame = pl.read_ndjson(io.BytesIO(Path(path).read_bytes()), infer_schema_length=1000)
        else:
            frame = pl.read_csv(path, infer_schema=False)
    except OSError as error:
        raise DataError(
            f"log ({path}) cannot be read: {error.strerror or 'no such file'}"
        ) from None
    except pl.exceptions.NoDataError:
        raise DataError(f"log ({path}) is empty: a log holds at least one request") from None
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"log ({path}) is not readable CSV, Parquet or JSONL: {reason}") from None
    return frame.rename({name: name.strip() for name in frame.columns})


def require(frame: pl.DataFrame, label: str, names: Sequence[str], kind: str) -> None:
    """Refuse a file without these columns, or without rows."""
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise DataError(
            f"{label} lacks column {missing[0]}: a {kind} log has {', '.join(names)} "
            f"(found {', '.join(frame.columns[:8])})"
        )
    if frame.is_empty():
        raise DataError(f"{label} holds no request: a log needs at least one row")


def numbers(frame: pl.DataFrame, label: str, name: str) -> pl.Series:
    """A column of finite numbers >= 0 as float64."""
    import polars as pl

    given = frame[name]
    if given.dtype == pl.String:
        given = given.str.strip_chars()
    elif not given.dtype.is_numeric():
        raise DataError(f"{label}: {name} ({given.dtype}) must be a column of numbers")
    values = given.cast(pl.Float64, strict=False)
    _check(label, given, values.is_not_null() & values.is_finite(), "must be a finite number")
    _check(label, given, values >= 0, "must be >= 0")
    return values


def tokens(frame: pl.DataFrame, label: str, name: str, *, least: int) -> pl.Series:
    """A column of whole numbers from `least` on as uint32."""
    import polars as pl

    values = numbers(frame, label, name)
    good = (values == values.floor()) & values.is_between(least, MAX_TOKENS)
    _check(label, values, good, f"must be a whole number from {least} to {MAX_TOKENS}")
    return values.cast(pl.UInt32)


def times(frame: pl.DataFrame, label: str, name: str) -> pl.Series:
    """Seconds since an epoch as float64, from text like `2024-05-10 00:00:00.009930+00:00`."""
    import polars as pl

    text = frame[name].cast(pl.String).str.strip_chars()
    # Azure's files state UTC or nothing: a zone of another kind is none of theirs.
    plain = text.str.replace(r"(\+00:00|Z)$", "").str.replace("T", " ", literal=True)
    moments = plain.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="ns", strict=False)
    _check(label, text, moments.is_not_null(), "must be a time like 2023-11-16 18:17:03.9799600")
    since: pl.Series = (moments - moments[0]).dt.total_nanoseconds().cast(pl.Float64) / 1e9
    return since


def never_back(label: str, values: pl.Series) -> None:
    """Refuse times that go backwards."""
    good = values.diff().fill_null(0.0) >= 0
    _check(label, values, good, "must not go backwards: sort the log by it")


def adapter_names(frame: pl.DataFrame, label: str, name: str) -> pl.Series:
    """A column of names as text; null is the base model."""
    import polars as pl

    column = frame[name]
    if column.dtype.is_float() or column.dtype.is_nested():
        raise DataError(f"{label}: {name} ({column.dtype}) must be names or whole numbers")
    return column.cast(pl.String).fill_null("").str.strip_chars()


def _check(label: str, column: pl.Series, good: pl.Series, rule: str) -> None:
    bad = (~good.fill_null(value=False)).arg_true()
    if len(bad):
        row = int(bad[0])
        value = column[row]
        shown = f"{value:.15g}" if isinstance(value, float) else value
        raise WorkloadError(f"{label}, row {row}: {column.name} ({shown}) {rule}")
