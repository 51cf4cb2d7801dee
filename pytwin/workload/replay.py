"""A recorded trace of arrivals, to be played back."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytwin.errors import DataError, WorkloadError
from pytwin.workload.checks import MAX_TOKENS

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

COLUMNS = ("arrival_s", "adapter", "prompt_tokens", "output_tokens")


@dataclass(frozen=True, eq=False)
class Trace:
    """Arrivals as columns of one length.

    Attributes
    ----------
    name: made from the content, so that equal traces have one name in the core.
    arrival_s: float64, seconds since the start, never falling.
    adapter: uint32, 0 for the base model, k for the adapter `names[k - 1]`.
    prompt_tokens, output_tokens: uint32.
    names: the adapters, in order of their first request.
    ranks: rank of each adapter, if the trace states them.
    """

    name: str
    arrival_s: NDArray[np.float64]
    adapter: NDArray[np.uint32]
    prompt_tokens: NDArray[np.uint32]
    output_tokens: NDArray[np.uint32]
    names: tuple[str, ...]
    ranks: tuple[int, ...] | None


def read_trace(source: str | PathLike[str] | pl.DataFrame) -> Trace:
    """A trace from a CSV or Parquet file, or a frame.

    Columns arrival_s, adapter, prompt_tokens, output_tokens. `adapter` is a name or a number;
    null or an empty string is the base model. A column `rank` may state the adapters' ranks.

    Raises
    ------
    DataError: unreadable, empty, or a column missing or of another type.
    WorkloadError: a value out of its range, with its row (the first is 0).
    """
    import polars as pl

    if isinstance(source, pl.DataFrame):
        label, frame = "trace", source
    else:
        label, frame = str(source), _read(str(source))
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise DataError(
            f"{label} lacks column {missing[0]}: a trace has {', '.join(COLUMNS)} "
            f"(found {', '.join(frame.columns[:8])})"
        )
    if frame.is_empty():
        raise DataError(f"{label} holds no request: a trace needs at least one row")
    arrival = _column(frame, label, "arrival_s", pl.Float64)
    prompt = _column(frame, label, "prompt_tokens", pl.Int64)
    output = _column(frame, label, "output_tokens", pl.Int64)
    _check(label, arrival, arrival.is_finite() & (arrival >= 0), "must be finite and >= 0")
    _check(label, arrival, arrival.diff().fill_null(0.0) >= 0, "must not go backwards: sort by it")
    for tokens in (prompt, output):
        _check(label, tokens, tokens.is_between(1, MAX_TOKENS), f"must be from 1 to {MAX_TOKENS}")
    ids, names = _adapter_ids(frame, label)
    columns = (
        arrival.to_numpy().astype("float64"),
        ids.to_numpy().astype("uint32"),
        prompt.to_numpy().astype("uint32"),
        output.to_numpy().astype("uint32"),
    )
    digest = hashlib.sha256()
    for column in columns:
        digest.update(column.tobytes())
    return Trace(
        f"trace-{digest.hexdigest()[:16]}", *columns, names, _ranks(frame, label, ids, names)
    )


def _read(path: str) -> pl.DataFrame:
    import polars as pl

    if Path(path).is_dir():
        raise DataError(f"trace ({path}) is a directory: give a CSV or Parquet file")
    try:
        if path.endswith((".parquet", ".pq")):
            return pl.read_parquet(path)
        return pl.read_csv(path, schema_overrides={"adapter": pl.String})
    except OSError as error:
        reason = error.strerror or "no such file"
        raise DataError(f"trace ({path}) cannot be read: {reason}") from None
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"trace ({path}) is not readable CSV or Parquet: {reason}") from None


def _column(frame: pl.DataFrame, label: str, name: str, dtype: Any) -> pl.Series:
    import polars as pl

    column = frame[name]
    if not column.dtype.is_numeric():
        raise DataError(f"{label}: {name} ({column.dtype}) must be a column of numbers")
    if column.null_count():
        raise DataError(f"{label}: {name} (null) must be given in every row")
    try:
        return column.cast(dtype)
    except pl.exceptions.PolarsError:
        raise DataError(f"{label}: {name} ({column.dtype}) must fit {dtype}") from None


def _check(label: str, column: pl.Series, good: pl.Series, rule: str) -> None:
    bad = (~good).arg_true()
    if len(bad):
        row = int(bad[0])
        raise WorkloadError(f"{label}, row {row}: {column.name} ({column[row]}) {rule}")


def _adapter_ids(frame: pl.DataFrame, label: str) -> tuple[pl.Series, tuple[str, ...]]:
    """Ids 1.. in order of first request; 0 for the base model."""
    import polars as pl

    column = frame["adapter"]
    if column.dtype == pl.Null:
        return pl.Series("adapter", [0] * frame.height, dtype=pl.UInt32), ()
    if column.dtype.is_float() or not (column.dtype.is_integer() or column.dtype == pl.String):
        raise DataError(f"{label}: adapter ({column.dtype}) must be names or whole numbers")
    text = column.cast(pl.String).fill_null("").str.strip_chars()
    names = tuple(name for name in text.unique(maintain_order=True) if name)
    ids = {"": 0} | {name: k for k, name in enumerate(names, start=1)}
    return text.replace_strict(ids, return_dtype=pl.UInt32), names


def _ranks(
    frame: pl.DataFrame, label: str, ids: pl.Series, names: tuple[str, ...]
) -> tuple[int, ...] | None:
    import polars as pl

    if "rank" not in frame.columns or not names:
        return None
    pairs = (
        frame.select(pl.col("rank"), ids.alias("id"))
        .filter(pl.col("id") > 0)
        .group_by("id")
        .agg(pl.col("rank").n_unique().alias("kinds"), pl.col("rank").first())
        .sort("id")
    )
    for name, kinds, rank in zip(names, pairs["kinds"], pairs["rank"], strict=True):
        if kinds != 1 or rank is None or not 1 <= int(rank) <= 512:
            raise WorkloadError(
                f"{label}: rank ({rank}) of adapter {name} must be one value from 1 to 512"
            )
    return tuple(int(rank) for rank in pairs["rank"])
