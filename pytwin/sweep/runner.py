"""Run a sweep: part after part, each one call of the core and one file."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pytwin.errors import ConfigError
from pytwin.simulation import Twin
from pytwin.sweep.expand import Design
from pytwin.sweep.lock import DirectoryLock
from pytwin.sweep.manifest import new_manifest
from pytwin.sweep.rows import schema, simulate_rows
from pytwin.sweep.spec import SweepSpec
from pytwin.sweep.store import Store, make_directory, part_name

_DEFAULT_DURATION_S = 3600.0


class Observer(Protocol):
    """What a sweep tells while it runs."""

    def started(self, rows: int, kept_rows: int, kept_failures: int) -> None:
        """A sweep of `rows` rows begins, of which an earlier run finished `kept_rows`."""

    def advanced(self, rows: int, simulated_s: float) -> None:
        """`rows` rows of the current part are done, of `simulated_s` simulated seconds."""

    def finished_part(self, part: int, rows: int, simulated_s: float, failures: int) -> None:
        """A part is on disk."""


class Silent:
    """An observer that looks away."""

    def started(self, rows: int, kept_rows: int, kept_failures: int) -> None:
        """Nothing."""

    def advanced(self, rows: int, simulated_s: float) -> None:
        """Nothing."""

    def finished_part(self, part: int, rows: int, simulated_s: float, failures: int) -> None:
        """Nothing."""


@dataclass(frozen=True)
class SweepResult:
    """What a finished sweep came to.

    Attributes
    ----------
    directory: where the parts lie.
    rows: configurations in all.
    status_counts: of them ok, infeasible (an answer: the server cannot start) and failed.
    new_parts: parts that this run made; 0 if the sweep was finished before.
    """

    directory: Path
    rows: int
    status_counts: dict[str, int]
    new_parts: int = 0


def default_workers() -> int:
    """All cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def run_sweep(
    spec: SweepSpec,
    directory: str | os.PathLike[str],
    *,
    resume: bool = False,
    workers: int | None = None,
    observer: Observer | None = None,
) -> SweepResult:
    """Simulate every row of `spec` into Parquet parts in `directory`.

    The parts do not depend on `workers`, nor on how often the sweep was stopped and resumed.
    Bad rows become rows with status "failed" and their error.

    Parameters
    ----------
    resume: go on with a sweep that was stopped; starts one in an absent or empty directory, and
        does nothing in a finished one.
    workers: threads; all cores if left out.

    Raises
    ------
    ConfigError, DataError: bad spec, a directory in use or of another sweep, a full disk; parts
        that are finished stay.
    KeyboardInterrupt: Ctrl-C, within a second; the same holds.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers ({workers}) must be >= 1")
    threads = workers or default_workers()
    watcher = observer or Silent()
    design = Design(spec)
    columns = schema(design.columns)
    path = Path(directory)
    make_directory(path)
    with DirectoryLock(path):
        manifest = new_manifest(design, columns, threads)
        store = Store(path, design, manifest, columns, resume=resume)
        return _run(design, store, threads, watcher)


def _run(design: Design, store: Store, workers: int, watcher: Observer) -> SweepResult:
    missing = [part for part in range(design.n_parts) if part not in store.finished]
    counts = store.status_counts()
    watcher.started(design.n_rows, sum(counts.values()), counts["failed"])
    if missing:
        try:
            _run_parts(design, store, missing, workers, watcher, counts)
        except KeyboardInterrupt:
            store.finish("interrupted")
            raise
    if missing or store.manifest["status"] != "finished":
        store.finish("finished", counts)
    return SweepResult(store.directory, design.n_rows, counts, len(missing))


def _run_parts(
    design: Design,
    store: Store,
    parts: list[int],
    workers: int,
    watcher: Observer,
    counts: dict[str, int],
) -> None:
    twin = Twin()
    for part in parts:
        if twin.crowded:
            twin = Twin()
        start, stop = design.part_range(part)
        rows = list(design.rows(start, stop))
        simulated_s = sum(row.get("duration_s") or _DEFAULT_DURATION_S for row in rows)
        frame = simulate_rows(
            twin, rows, design.columns, workers, _progress(watcher, len(rows), simulated_s)
        )
        store.write_part(part, frame)
        for status, count in frame["status"].value_counts().iter_rows():
            counts[status] += count
        failures = int((frame["status"] == "failed").sum())
        watcher.finished_part(part, len(rows), simulated_s, failures)


def _progress(watcher: Observer, rows: int, simulated_s: float) -> Callable[[int], None]:
    def report(done: int) -> None:
        watcher.advanced(done, simulated_s * done / rows)

    return report


__all__ = ["Observer", "SweepResult", "default_workers", "part_name", "run_sweep"]
