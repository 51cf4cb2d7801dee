"""`pytwin calibrate`: profiles from recordings, and profiles against what was measured."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter, Token

from pytwin.errors import DataError

app = App(name="calibrate", help="Fit a profile to recordings of a server, and judge profiles.")

Format = Literal["table", "json"]

# `pytwin calibrate prior`, where this installation has it.
if (Path(__file__).parent / "prior" / "cli.py").is_file():
    app.command(
        "pytwin.calibrate.prior.cli:prior",
        name="prior",
        help="A profile of a model and a GPU that were never measured.",
    )


def _ints(_type: Any, tokens: Sequence[Token]) -> tuple[int, ...]:
    """`8,16` or `8 16` as whole numbers."""
    parts = [part for token in tokens for part in token.value.split(",")]
    try:
        return tuple(int(part) for part in parts)
    except ValueError:
        text = ",".join(parts)
        raise ValueError(f"{text!r} must be whole numbers with commas, as in 8,16") from None


Ints = Annotated[tuple[int, ...], Parameter(converter=_ints, n_tokens=1, negative="")]


@Parameter(name="*", group="Server (vLLM's settings; of a recording, those that it states)")
@dataclass(kw_only=True)
class ServerFlags:
    """The server that a bench result was measured on, where it is not the profile's."""

    engine_version: str | None = None
    """vLLM's version: 0.8.5, 0.32 or 0.32.0."""
    max_loras: int | None = None
    """Adapter slots on the GPU."""
    max_cpu_loras: int | None = None
    """Adapters kept in host memory."""
    max_lora_rank: int | None = None
    """Rank of every slot."""
    max_num_seqs: int | None = None
    """Sequences that run at once."""
    max_num_batched_tokens: int | None = None
    """Token budget of a step."""
    block_size: int | None = None
    """Tokens per KV block."""
    gpu_memory_utilization: float | None = None
    """Share of the GPU's memory that vLLM may use."""
    num_gpu_blocks_override: int | None = None
    """KV blocks."""
    max_model_len: int | None = None
    """Longest sequence in tokens."""
    enable_prefix_caching: bool | None = None
    """Reuse KV blocks of equal prefixes."""
    async_scheduling: bool | None = None
    """Schedule a step before the one before it has ended."""

    def given(self) -> dict[str, Any]:
        """Those that were given."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@app.command
def fit(
    *recordings: Path,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    name: str | None = None,
    model: str | None = None,
    gpu: str | None = None,
    dtype: str | None = None,
    hold_out: Annotated[tuple[Path, ...], Parameter(negative="")] = (),
    torn: Literal["error", "drop"] = "error",
    format: Format = "table",  # noqa: A002
) -> int:
    """Make a profile from recordings of one kind of server.

    Two tenths of every recording (whole stretches of time), or the recordings named by
    --hold-out, are held out: the profile's errors are of these, with the very coefficients
    that it holds. What the recordings cannot tell is said, not guessed.

    Parameters
    ----------
    recordings
        Directories: each one recording (*.jsonl), or a folder of them.
    output
        File (.json) for the profile.
    name
        Of the profile; default MODEL@GPU.
    model
        The model's name; default: as recorded.
    gpu
        The device's name; default: as recorded.
    dtype
        Of weights and cache; default: as recorded.
    hold_out
        A recording to hold out whole (repeat the flag).
    torn
        What to do about a torn last line, which a killed server leaves.
    format
        Of the summary on stdout.
    """
    from pytwin.calibrate.recordings import directories, read_runs
    from pytwin.calibrate.recordings import fit as fit_profile
    from pytwin.catalog import load_profile

    if not recordings:
        raise DataError("recordings (none) must be at least one: name a directory")
    if output.suffix != ".json" or not output.parent.is_dir():
        raise DataError(f"output ({output}) must end in .json, in a folder that exists")
    held = {path.resolve() for folder in hold_out for path in directories(folder)}
    given = {path.resolve() for folder in recordings for path in directories(folder)}
    runs = read_runs([*recordings, *sorted(held - given)], torn=torn)
    names = [run.name for run in runs if run.recording.path.resolve() in held]
    result = fit_profile(
        runs, model=model, gpu=gpu, dtype=dtype, name=name, hold_out=names, command=_command()
    )
    text = json.dumps(result.document, indent=1, allow_nan=False) + "\n"
    temporary = output.with_name(output.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(output)
    load_profile(str(output))
    for remark in result.remarks:
        _note(remark)
    if format == "json":
        print(json.dumps(_summary(result.document), indent=2, allow_nan=False))
    else:
        _show_fit(result.document)
    _note(f"wrote {output}")
    return 0


@app.command
def check(
    profile: str,
    target: Path,
    /,
    *,
    server: ServerFlags | None = None,
    adapters: int = 0,
    ranks: Ints = (),
    torn: Literal["error", "drop"] = "error",
    out: Path | None = None,
    format: Format = "table",  # noqa: A002
) -> int:
    """Compare a profile with a recording, or with a result of vllm bench serve.

    Of a recording: step and load times, then the same arrivals simulated on the same server. Of a
    bench result: the arrivals, simulated on the server that the flags describe. Exit 0 once
    compared, whatever the errors.

    Parameters
    ----------
    profile
        A shipped profile (see `pytwin profiles`), or the path of a profile JSON.
    target
        A recording's directory, or the JSON of vllm bench serve --save-result (better:
        --save-detailed).
    adapters
        Adapters that a bench result's server offered; each request then draws one.
    ranks
        Their ranks, cycled: 8,16 (default 16).
    torn
        What to do about a torn last line, which a killed server leaves.
    out
        File (.json) for the report.
    format
        Of the report on stdout.
    """
    from pytwin.calibrate.check import check as check_profile
    from pytwin.calibrate.check.report import lines_of

    if out is not None and (out.suffix != ".json" or not out.parent.is_dir()):
        raise DataError(f"out ({out}) must end in .json, in a folder that exists")
    given = (server or ServerFlags()).given()
    report = check_profile(profile, target, server=given, adapters=adapters, ranks=ranks, torn=torn)
    text = json.dumps(report, indent=2, allow_nan=False)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    for remark in report["remarks"]:
        _note(remark)
    for reason in report["extrapolated"]:
        _note(f"extrapolated: {reason}")
    if format == "json":
        print(text)
    else:
        for title, rows in lines_of(report):
            _table(title, rows)
    return 0


def _command() -> str:
    words = sys.argv[1:] if len(sys.argv) > 1 else ["calibrate", "fit"]
    return shlex.join(["pytwin", *words])


def _summary(document: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: document[name]
        for name in ("name", "provenance", "ranges", "errors", "residual_spread", "uncertainty")
        if name in document
    }


def _show_fit(document: Mapping[str, Any]) -> None:
    terms = [
        {
            "coefficient_us": term["coefficient"],
            "per": " x ".join(map(_factor, term["factors"])) or "step",
            "why": term["why"],
        }
        for term in document["step_time"]["terms"]
    ]
    _table(f"{document['name']}: step time", terms)
    errors = [{"steps": kind, **row} for kind, row in document["errors"]["step_time"].items()]
    _table("Errors; held out: " + "; ".join(document["provenance"]["held_out"]), errors)


def _factor(factor: Any) -> str:
    if isinstance(factor, str):
        return factor
    ((bend, value),) = ((key, value) for key, value in factor.items() if key != "of")
    return f"{factor['of']} {bend.replace('_', ' ')}" + ("" if value is True else f" {value}")


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        number = all(isinstance(row.get(name), (int, float, type(None))) for row in rows)
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_shown(row.get(name)) for name in names))
    # Not on a terminal, lines are as long as they need to be: a reader may cut them.
    width = None if sys.stdout.isatty() else 240
    console = Console(file=sys.stdout, width=width, highlight=False)
    console.print(title, markup=False)
    console.print(table)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:.5g}"
    return str(value)


def _note(message: str) -> None:
    """A remark for the person at the terminal, on stderr."""
    print(f"pytwin: {' '.join(message.split())}", file=sys.stderr)
