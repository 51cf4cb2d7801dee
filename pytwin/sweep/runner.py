"""Run a sweep: part after part, each one call of the core and one file."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pytwin.errors import ConfigError
from pytwin.sweep.engine import Engine, LocalEngine, default_workers
from pytwin.sweep.expand import Design
from pytwin.sweep.lock import DirectoryLock
from pytwin.sweep.manifest import new_manifest
from pytwin.sweep.rows import schema
from pytwin.sweep.spec import SweepSpec
from pytwin.sweep.store import Store, make_directory, part_name

ENGINES = ("local", "ray")


class Observer(Protocol):
    """What a sweep tells while it runs."""

    def started(self, rows: int, kept_rows: int, kept_failures: int) -> None:
        """A sweep of `rows` rows begins, of which an earlier run finished `kept_rows`."""

    def advanced(self, rows: int, simulated_s: float) -> None:
        """`rows` rows of the parts in work are done, of `simulated_s` simulated seconds."""

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


def run_sweep(
    spec: SweepSpec,
    directory: str | os.PathLike[str],
    *,
    resume: bool = False,
    workers: int | None = None,
    engine: str = "local",
    address: str | None = None,
    observer: Observer | None = None,
) -> SweepResult:
    """Simulate every row of `spec` into Parquet parts in `directory`.

    The parts do not depend on `workers` and `engine`, nor on how often the sweep was stopped and
    resumed. Bad rows become rows with status "failed" and their error.

    Parameters
    ----------
    resume: go on with a sweep that was stopped; starts one in an absent or empty directory, and
        does nothing in a finished one.
    workers: threads; all cores if left out. With engine "ray" the parts in work at once, by
        default as many as the cluster has cores for.
    engine: "local", or "ray" for the machines of a Ray cluster (needs `pytwin[ray]`).
    address: of the Ray cluster; left out: one that runs on this machine, else one is started
        here for this sweep; "local": that in any case.

    Raises
    ------
    ConfigError, DataError: bad spec, a directory in use or of another sweep, a full disk; parts
        that are finished stay.
    KeyboardInterrupt: Ctrl-C, within a second; the same holds.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers ({workers}) must be >= 1")
    watcher = observer or Silent()
    with engine_named(engine, workers, address) as maker:
        design = Design(spec)
        columns = schema(design.columns)
        path = Path(directory)
        make_directory(path)
        with DirectoryLock(path):
            manifest = new_manifest(design, columns, maker.workers, engine)
            store = Store(path, design, manifest, columns, resume=resume)
            return _run(design, store, maker, watcher)


def engine_named(
    name: str, workers: int | None, address: str | None
) -> AbstractContextManager[Engine]:
    """The engine of this name, ready for use within the context.

    Raises
    ------
    ConfigError: there is none of this name, or Ray is not installed or does not answer.
    """
    if name not in ENGINES:
        raise ConfigError(f"engine ({name}) must be one of {', '.join(ENGINES)}")
    if name == "ray":
        from pytwin.sweep.ray_engine import RayEngine

        return RayEngine(workers, address)
    if address is not None:
        raise ConfigError(f"address ({address}) is for engine ray: add --engine ray")
    return nullcontext(LocalEngine(workers))


def _run(design: Design, store: Store, engine: Engine, watcher: Observer) -> SweepResult:
    missing = [part for part in range(design.n_parts) if part not in store.finished]
    counts = store.status_counts()
    watcher.started(design.n_rows, sum(counts.values()), counts["failed"])
    if missing:
        try:
            with closing(engine.make(design, missing, watcher.advanced)) as parts:
                for made in parts:
                    store.write_part(made.part, made.rows, made.content)
                    for status, count in made.status_counts.items():
                        counts[status] += count
                    failures = made.status_counts.get("failed", 0)
                    watcher.finished_part(made.part, made.rows, made.simulated_s, failures)
        except KeyboardInterrupt:
            store.finish("interrupted")
            raise
    if missing or store.manifest["status"] != "finished":
        store.finish("finished", counts)
    return SweepResult(store.directory, design.n_rows, counts, len(missing))


__all__ = ["Observer", "SweepResult", "default_workers", "part_name", "run_sweep"]
