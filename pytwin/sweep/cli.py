"""`pytwin sweep`: run a specification from the command line."""

from __future__ import annotations

import csv
import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from pytwin.errors import ConfigError

app = App(name="sweep", help="Simulate many configurations into Parquet parts.")

_INTERRUPTED = 130

Format = Literal["table", "json", "csv"]


def _flag(text: str, *names: str) -> Parameter:
    return Parameter(name=list(names) or None, help=text, negative=())


@app.default
def sweep(
    spec: Annotated[Path, Parameter(help="the specification, a YAML or JSON file")],
    /,
    *,
    output: Annotated[
        Path | None,
        _flag("directory of the results; absent or empty, or --resume given", "--output", "-o"),
    ] = None,
    resume: Annotated[bool, _flag("go on where a stopped sweep ended")] = False,
    workers: Annotated[
        int | None, _flag("threads, or parts at once with ray; all cores if left out")
    ] = None,
    engine: Annotated[
        str, _flag("what runs the parts: local, or ray (needs pytwin[ray])")
    ] = "local",
    address: Annotated[
        str | None,
        _flag("HOST:PORT of a Ray cluster; the one running here, else a new one, if left out"),
    ] = None,
    dry_run: Annotated[
        bool, _flag("print rows, parts, rough time and disk; write nothing")
    ] = False,
    format: Annotated[Format, _flag("of the summary on stdout")] = "table",  # noqa: A002
) -> int:
    """Simulate every configuration of SPEC into Parquet parts in a directory.

    Bad configurations are rows with their error (exit code 1); one that cannot start for lack
    of memory is a result. A stopped sweep goes on with --resume, to the same bytes.
    """
    from pytwin.sweep.runner import ENGINES
    from pytwin.sweep.spec import load_spec

    if engine not in ENGINES:
        raise ConfigError(f"engine ({engine}) must be one of {', '.join(ENGINES)}")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers ({workers}) must be >= 1")
    loaded = load_spec(spec)
    if dry_run:
        return _dry_run(loaded, workers, format)
    if output is None:
        raise ConfigError("output is missing: give -o DIR, the directory of the results")
    settings = {"workers": workers, "engine": engine, "address": address}
    return _sweep(spec, loaded, output, resume, settings, format)


def _dry_run(spec: Any, workers: int | None, output_format: Format) -> int:
    from pytwin.sweep.estimate import estimate
    from pytwin.sweep.expand import Design
    from pytwin.sweep.runner import default_workers

    design = Design(spec)
    threads = workers or default_workers()
    cost = estimate(design, threads)
    _show(
        {
            "name": spec.name,
            "configurations": design.n_rows,
            "parts": design.n_parts,
            "part_rows": design.part_rows,
            "workers": threads,
            "estimated_s": float(f"{cost.seconds:.3g}"),
            "estimated_disk_bytes": cost.disk_bytes,
            "estimated_from_configurations": cost.sampled,
        },
        output_format,
    )
    return 0


def _sweep(
    path: Path,
    spec: Any,
    output: Path,
    resume: bool,
    settings: dict[str, Any],
    output_format: Format,
) -> int:
    from pytwin.sweep.progress import ProgressView
    from pytwin.sweep.runner import run_sweep
    from pytwin.sweep.store import WriteError, part_name

    command = ["pytwin", "sweep", str(path), "-o", str(output), "--resume"]
    if settings["engine"] != "local":
        command += ["--engine", settings["engine"]]
    if settings["address"] is not None:
        command += ["--address", settings["address"]]
    again = shlex.join(command)
    try:
        with ProgressView(spec.name) as view:
            result = run_sweep(spec, output, resume=resume, observer=view, **settings)
    except KeyboardInterrupt:
        kept = len(list(output.glob("part-*.parquet")))
        _tell(f"interrupted: {kept} finished parts are kept in {output}; go on with: {again}")
        return _INTERRUPTED
    except WriteError as error:
        raise WriteError(
            f"{error}; finished parts are kept: make room, then go on with: {again}"
        ) from None
    if not result.new_parts:
        _tell(f"{output} was finished before: nothing to do")
    counts = result.status_counts
    _show(
        {"name": spec.name, "configurations": result.rows, **counts, "output": str(output)},
        output_format,
    )
    if counts["failed"]:
        parts = output / part_name(0).replace("000000", "*")
        _tell(f"{counts['failed']:,} configurations failed: see column error in {parts}")
        return 1
    return 0


def _tell(line: str) -> None:
    from pytwin.sweep.progress import heard

    with heard():
        print(line, file=sys.stderr)


def _show(summary: dict[str, Any], output_format: Format) -> None:
    if output_format == "json":
        print(json.dumps(summary, indent=2))
    elif output_format == "csv":
        writer = csv.writer(sys.stdout)
        writer.writerow(summary)
        writer.writerow(summary.values())
    else:
        width = max(map(len, summary))
        for name, value in summary.items():
            print(f"{name:<{width}}  {value}")
