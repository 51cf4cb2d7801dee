"""`pytwin validate`: the twin against real runs."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from cyclopts import Parameter

import pytwin
from pytwin.cli.flags import Format, Words
from pytwin.cli.output import (
    check_writable,
    note,
    print_csv,
    print_json,
    print_table,
    shown_percent,
    write_frame,
    write_text,
)
from pytwin.errors import PytwinError
from pytwin.validate import Progress, RealRuns, Report, build_report, build_rows, predict, read_runs
from pytwin.validate.predict import MAX_CONNECTIONS


def validate(
    *,
    traces: str,
    families: Words = ("dt_real", "ml_test"),
    condition: Literal["arrivals", "none"] = "none",
    seeds: int = 8,
    max_connections: int = MAX_CONNECTIONS,
    workers: int | None = None,
    rows: str | None = None,
    out: str | None = None,
    format: Annotated[Format, Parameter(name="--format")] = "table",  # noqa: A002
) -> int:
    """Compare the twin with real runs; exit 0 once every run has its row.

    A prediction uses a run's configuration, its adapters' rates, its duration and its pool's mean
    lengths; with `--condition arrivals` also how many requests the client sent, and the blind
    prediction stands beside it. It never uses what came out.

    Parameters
    ----------
    traces
        A directory with runs.parquet and adapters.parquet.
    families
        Which runs, by family; those of the two default families ran vLLM's V1 engine.
    condition
        "arrivals" scales the rates to the client's sent count where it is known.
    seeds
        Simulations per run and prediction, averaged.
    max_connections
        Requests that the client and server hold at once; 0 for no limit.
    workers
        Threads; default one per core.
    rows
        File (.parquet or .csv) for one row per run.
    out
        File (.json) for the report.
    """
    if seeds < 1:
        raise PytwinError(f"seeds ({seeds}) must be >= 1")
    if max_connections < 0:
        raise PytwinError(f"max_connections ({max_connections}) must be >= 0; 0 is no limit")
    check_writable(rows)
    check_writable(out, (".json",))
    threads = _cores() if workers is None else workers
    if threads < 1:
        raise PytwinError(f"workers ({threads}) must be >= 1")
    runs = read_runs(traces, families=families)
    frame = _predict(runs, condition == "arrivals", seeds, max_connections or None, threads)
    report = build_report(frame)
    if rows is not None:
        write_frame(frame, rows)
    document = _document(report, traces, families, condition, seeds, max_connections)
    if out is not None:
        import json

        write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", out)
    if format == "json":
        print_json(document)
    elif format == "csv":
        print_csv(report.summary)
    else:
        _print_report(report)
    return 0


def _cores() -> int:
    """Cores that this process may use; a container may have fewer than the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _predict(
    runs: RealRuns, conditioned: bool, seeds: int, max_connections: int | None, workers: int
) -> Any:
    # A run without status is one whose outcome is not told: it is predicted like any other.
    started = [status in (None, "ok") for status in runs.outcomes["status"]]
    modes = [False, True] if conditioned else [False]
    results = []
    for mode in modes:
        label = "given the arrival counts" if mode else "blind"
        with _Bar(f"{sum(started)} runs x {seeds} seeds, {label}") as progress:
            results.append(
                predict(
                    runs.configs,
                    simulated=started,
                    condition=mode,
                    seeds=seeds,
                    max_connections=max_connections,
                    workers=workers,
                    progress=progress,
                )
            )
    return build_rows(runs, results[-1], blind=results[0] if conditioned else None)


class _Bar:
    """A progress bar with an estimate on stderr; nothing but a note where that is no terminal."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._progress: Any = None

    def __enter__(self) -> Progress:
        if not sys.stderr.isatty():
            note(self._label)
            return lambda _done, _total: None
        from rich.console import Console
        from rich.progress import Progress as Bar
        from rich.progress import TimeRemainingColumn

        self._progress = Bar(
            *Bar.get_default_columns()[:-1],
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._progress.start()
        task = self._progress.add_task(self._label, total=None)
        return lambda done, total: self._progress.update(task, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()


def _document(
    report: Report,
    traces: str,
    families: tuple[str, ...] | None,
    condition: str,
    seeds: int,
    max_connections: int,
) -> dict[str, Any]:
    return {
        "pytwin": pytwin.__version__,
        "date": datetime.now(UTC).date().isoformat(),
        "traces": traces,
        "families": list(families or ()),
        "condition": condition,
        "seeds": seeds,
        "max_connections": max_connections,
        **asdict(report),
    }


def _print_report(report: Report) -> None:
    titles = {
        "summary": "Errors in %: mean absolute (mape), symmetric (half and full), signed (bias), "
        "median of mean TTFT",
        "start": "Can the server start (right: in %)",
        "worst": "Largest throughput errors (%)",
        "left_out": "Runs in no error figure",
    }
    for part, rows in asdict(report).items():
        print_table(rows, title=titles[part], show=shown_percent)
