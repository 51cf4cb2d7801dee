"""From rows to the core's documents, and from its answers to a frame: the one path for both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from pytwin import _core
from pytwin.config import EngineConfig
from pytwin.errors import PytwinError
from pytwin.simulation import Twin, extrapolated
from pytwin.sweep.keys import ENGINE_KEYS, RUN_KEYS, WORKLOAD_KEYS, Key
from pytwin.workload import GeneratedWorkload
from pytwin.workload.plain import workload_from_values

if TYPE_CHECKING:
    import polars as pl

Row = dict[str, Any]

# Ten times as quick as `json`, and the same numbers.
_JSON = msgspec.json.Encoder()


@dataclass(frozen=True)
class Prepared:
    """A row as the core takes it, or the reason why it cannot be: `error`, one line."""

    document: str | None = None
    error: str | None = None
    server: EngineConfig | None = None
    traffic: GeneratedWorkload | None = None


@dataclass(frozen=True)
class Batch:
    """Rows that are ready for the core, and the twin that holds what they refer to."""

    twin: Twin
    rows: Sequence[Row]
    prepared: Sequence[Prepared]


def prepare(twin: Twin, row: Row) -> Prepared:
    """Check one row and write its document; profiles and tables go into `twin.library`."""
    try:
        server = EngineConfig(**_given(row, ENGINE_KEYS))
        traffic = workload_from_values(**_given(row, WORKLOAD_KEYS))
        options = _given(row, RUN_KEYS)
        document = _JSON.encode(twin.spec(server, traffic, seed=row["seed"], **options)).decode()
    except PytwinError as error:
        return Prepared(error=str(error))
    except (ValueError, TypeError, ArithmeticError) as error:
        # A value that no check foresaw must cost its row, not the sweep.
        return Prepared(error=f"{type(error).__name__}: {' '.join(str(error).split())}")
    return Prepared(document=document, server=server, traffic=traffic)


def prepare_rows(twin: Twin, rows: Sequence[Row], given_up: Callable[[], bool]) -> Batch:
    """Prepare rows for `simulate_batch`; stops early, and of no use, once `given_up` says so."""
    prepared = []
    for row in rows:
        if given_up():
            break
        prepared.append(prepare(twin, row))
    return Batch(twin, rows, prepared)


def simulate_batch(
    batch: Batch,
    columns: Sequence[Key],
    workers: int,
    progress: Callable[[int], None] | None = None,
) -> pl.DataFrame:
    """Simulate prepared rows with one call of the core; see `simulate_rows`."""
    documents = [item.document for item in batch.prepared if item.document is not None]
    refused = len(batch.prepared) - len(documents)

    def report(done: int) -> None:
        if progress is not None:
            progress(refused + done)

    answers = _core.simulate_many(batch.twin.library, documents, workers, report)
    return _frame(batch.rows, batch.prepared, columns, answers)


def simulate_rows(
    twin: Twin,
    rows: Sequence[Row],
    columns: Sequence[Key],
    workers: int,
    progress: Callable[[int], None] | None = None,
    *,
    profiles: Mapping[str, str] | None = None,
) -> pl.DataFrame:
    """Simulate rows with one call of the core.

    Parameters
    ----------
    columns: the rows' keys, in the order of the result.
    workers: threads.
    progress: called with the number of rows done, about ten times a second.
    profiles: where profiles that rows name lie on this machine, if elsewhere.

    Returns
    -------
    pl.DataFrame: one row per row: `columns`, status (ok, infeasible, failed), error,
        extrapolated, extrapolated_why, stopped_at_s and stop_reason (null for a full run), then
        the metrics (null where not ok).
    """
    batch = prepare_rows(twin, _moved(rows, profiles or {}), lambda: False)
    return simulate_batch(replace(batch, rows=rows), columns, workers, progress)


def schema(columns: Sequence[Key]) -> dict[str, pl.DataType]:
    """Column types of a result, the same for every part."""
    import polars as pl

    types: dict[str, Any] = {
        "int": pl.Int64,
        "float": pl.Float64,
        "bool": pl.Boolean,
        "str": pl.String,
        "law": pl.String,
        "ints": pl.List(pl.Int64),
        "floats": pl.List(pl.Float64),
    }
    result: dict[str, Any] = {key.name: types[key.kind] for key in columns}
    result["seed"] = pl.UInt64
    result |= {
        "status": pl.String,
        "error": pl.String,
        "extrapolated": pl.Boolean,
        "extrapolated_why": pl.String,
        "stopped_at_s": pl.Float64,
        "stop_reason": pl.String,
    }
    for name, kind in _core.metric_columns():
        result[name] = types[kind]
    return result


def _moved(rows: Sequence[Row], profiles: Mapping[str, str]) -> Sequence[Row]:
    if not profiles:
        return rows
    return [row | {"profile": profiles.get(row["profile"], row["profile"])} for row in rows]


def _given(row: Row, keys: dict[str, Key]) -> Row:
    return {name: value for name, value in row.items() if name in keys and value is not None}


def _frame(
    rows: Sequence[Row],
    prepared: Sequence[Prepared],
    columns: Sequence[Key],
    answers: dict[str, list[Any]],
) -> pl.DataFrame:
    import polars as pl

    types = schema(columns)
    metrics = [name for name, _ in _core.metric_columns()]
    places, place = [], 0
    for item in prepared:
        places.append(place if item.document is not None else None)
        place += item.document is not None
    data: dict[str, list[Any]] = {
        key.name: [key.cell(row[key.name]) for row in rows] for key in columns
    }
    data["status"] = ["failed" if at is None else answers["status"][at] for at in places]
    data["error"] = [
        item.error if at is None else answers["error"][at]
        for item, at in zip(prepared, places, strict=True)
    ]
    reasons = [
        _reasons(item, at, answers, metrics) for item, at in zip(prepared, places, strict=True)
    ]
    data["extrapolated"] = [None if why is None else bool(why) for why in reasons]
    data["extrapolated_why"] = ["; ".join(why) if why else None for why in reasons]
    for name in ("stopped_at_s", "stop_reason", *metrics):
        answered = answers[name]
        data[name] = [None if at is None else answered[at] for at in places]
    # The mean of nothing is NaN in the core, and null in a frame: NaN would spoil later sums.
    return pl.DataFrame(data, schema=types).with_columns(pl.col(metrics).fill_nan(None))


def _reasons(
    item: Prepared, place: int | None, answers: dict[str, list[Any]], metrics: Sequence[str]
) -> list[str] | None:
    """Why a row goes beyond what was measured; None where there is no result to judge."""
    if place is None or item.server is None or item.traffic is None:
        return None
    status = answers["status"][place]
    if status == "failed":
        return None
    found = {name: answers[name][place] for name in metrics} if status == "ok" else None
    return extrapolated(item.server, item.traffic, found)
