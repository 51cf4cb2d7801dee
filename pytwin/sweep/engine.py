"""What makes the parts of a sweep: the protocol of engines, and the one of this machine's cores."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pytwin.simulation import Twin
from pytwin.sweep.expand import Design, Row
from pytwin.sweep.rows import Batch, prepare_rows, simulate_batch
from pytwin.sweep.store import encode

if TYPE_CHECKING:
    import polars as pl

_DEFAULT_DURATION_S = 3600.0

Progress = Callable[[int, float], None]
"""Called with rows done of the parts in work, and the seconds that they simulate."""


@dataclass(frozen=True)
class MadePart:
    """A part's rows, simulated.

    Attributes
    ----------
    part: its number.
    rows: how many.
    content: the Parquet file.
    status_counts: rows by status.
    simulated_s: what they simulate, in seconds.
    """

    part: int
    rows: int
    content: bytes
    status_counts: Mapping[str, int]
    simulated_s: float


class Engine(Protocol):
    """Simulates parts. The content of a part depends on the design only, never on the engine."""

    workers: int

    def make(self, design: Design, parts: Sequence[int], progress: Progress) -> Generator[MadePart]:
        """These parts, each as soon as it is finished, in any order."""


class LocalEngine:
    """One part at a time, its rows on threads of this process.

    While the core simulates a part, the documents of the next one are written.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or default_workers()

    def make(self, design: Design, parts: Sequence[int], progress: Progress) -> Generator[MadePart]:
        """See `Engine`; in the order of `parts`."""
        stopped = threading.Event()
        twin = Twin()

        def prepared(part: int) -> Batch:
            nonlocal twin
            if twin.crowded:
                twin = Twin()
            return prepare_rows(twin, list(design.rows(*design.part_range(part))), stopped.is_set)

        with ThreadPoolExecutor(1, thread_name_prefix="pytwin-rows") as ahead:
            try:
                coming = ahead.submit(prepared, parts[0]) if parts else None
                for place, part in enumerate(parts):
                    batch = coming.result() if coming is not None else prepared(part)
                    following = parts[place + 1 : place + 2]
                    coming = ahead.submit(prepared, following[0]) if following else None
                    yield self._made(design, part, batch, progress)
            finally:
                stopped.set()

    def _made(self, design: Design, part: int, batch: Batch, progress: Progress) -> MadePart:
        seconds = simulated_s(batch.rows)

        def report(done: int) -> None:
            progress(done, seconds * done / len(batch.rows))

        frame = simulate_batch(batch, design.columns, self.workers, report)
        return MadePart(part, frame.height, encode(frame), status_counts(frame), seconds)


def default_workers() -> int:
    """All cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def simulated_s(rows: Sequence[Row]) -> float:
    """Simulated seconds of these rows."""
    return sum(row.get("duration_s") or _DEFAULT_DURATION_S for row in rows)


def status_counts(frame: pl.DataFrame) -> dict[str, int]:
    """Rows by status."""
    counted: dict[str, Any] = dict(frame["status"].value_counts().iter_rows())
    return counted
