"""`pytwin validate`: the twin against real runs."""

from __future__ import annotations

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
from pytwin.uncertainty import usable_cores
from pytwin.validate import (
    BENCHMARK,
    Measurement,
    Progress,
    RealRuns,
    Report,
    build_report,
    build_rows,
    predict,
    read_runs,
)


def validate(
    *,
    traces: str,
    families: Words = ("dt_real", "ml_test"),
    condition: Literal["arrivals", "none"] = "none",
    seeds: int = 8,
    interval: float | None = None,
    draws: int = 16,
    max_connections: int = BENCHMARK.max_connections or 0,
    metrics_poll_s: float = BENCHMARK.metrics_poll_s or 0.0,
    early_eos: float | None = None,
    pool_lengths: bool = BENCHMARK.pool_lengths,
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
    interval
        Also prediction intervals that are to hold this share of the runs, as in 0.9, how many they
        hold, and which runs are near-critical.
    draws
        Simulations per run with the profile's uncertain factors moved, for the intervals.
    max_connections
        Requests that the client and server hold at once; 0 for no limit.
    metrics_poll_s
        Pause of the client's polls of /metrics; 0 for no polls.
    early_eos
        Probability that a request ends before its requested length; default: the profile's.
    pool_lengths
        Reweight the length law to the mean lengths of the run's pool.
    workers
        Threads; default one per core.
    rows
        File (.parquet or .csv) for one row per run.
    out
        File (.json) for the report.
    """
    if seeds < 1:
        raise PytwinError(f"seeds ({seeds}) must be >= 1")
    if draws < 0:
        raise PytwinError(f"draws ({draws}) must be >= 0")
    if interval is not None and not 0 < interval < 1:
        raise PytwinError(f"interval ({interval}) must be above 0 and below 1, as in 0.9")
    measurement = _measurement(max_connections, metrics_poll_s, early_eos, pool_lengths)
    check_writable(rows)
    check_writable(out, (".json",))
    threads = usable_cores() if workers is None else workers
    if threads < 1:
        raise PytwinError(f"workers ({threads}) must be >= 1")
    runs = read_runs(traces, families=families)
    conditioned = condition == "arrivals"
    frame = _predict(runs, conditioned, seeds, draws, interval, measurement, threads)
    report = build_report(frame, level=interval)
    if rows is not None:
        write_frame(frame, rows)
    document = {
        "pytwin": pytwin.__version__,
        "date": datetime.now(UTC).date().isoformat(),
        "traces": traces,
        "families": list(families or ()),
        "condition": condition,
        "seeds": seeds,
        "interval": interval,
        "draws": draws if interval is not None else 0,
        "measurement": asdict(measurement),
        **asdict(report),
    }
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


def _measurement(
    max_connections: int, metrics_poll_s: float, early_eos: float | None, pool_lengths: bool
) -> Measurement:
    if max_connections < 0:
        raise PytwinError(f"max_connections ({max_connections}) must be >= 0; 0 is no limit")
    if metrics_poll_s < 0:
        raise PytwinError(f"metrics_poll_s ({metrics_poll_s}) must be >= 0; 0 is no polls")
    if early_eos is not None and not 0 <= early_eos <= 1:
        raise PytwinError(f"early_eos ({early_eos}) must be from 0 to 1: it is a probability")
    return Measurement(
        max_connections=max_connections or None,
        metrics_poll_s=metrics_poll_s or None,
        early_eos=early_eos,
        pool_lengths=pool_lengths,
    )


def _predict(
    runs: RealRuns,
    conditioned: bool,
    seeds: int,
    draws: int,
    level: float | None,
    measurement: Measurement,
    workers: int,
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
                    draws=draws,
                    level=level,
                    measurement=measurement,
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


def _print_report(report: Report) -> None:
    titles = {
        "summary": "Errors in %: mean absolute (mape), symmetric (half and full), signed (bias), "
        "median of mean TTFT",
        "floor": "Errors in % beside their floor: what the seeds' spread makes any prediction of "
        "one run err",
        "verdicts": "Runs called right (%): starved; the same without those within 0.01 of the "
        "line; mean TTFT above 3 s",
        "coverage": "Real runs inside their prediction interval, below it and above it (%), and "
        "its median width (%)",
        "near_critical": "Errors in % of near-critical runs and of the others",
        "less_kv_memory": "Errors in % of runs that had less KV memory than their configuration "
        "gives, and of the others",
        "targets": "Targets",
        "start": "Can the server start (right: in %)",
        "worst": "Largest throughput errors (%)",
        "left_out": "Runs in no error figure",
    }
    for part, rows in asdict(report).items():
        print_table(rows, title=titles[part], show=shown_percent)
