"""`pytwin record`: how to record a vLLM server, and what a recording holds."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from pytwin.cli.flags import Format
from pytwin.cli.output import note, print_csv, print_json, print_table, write_frame, write_text
from pytwin.errors import DataError

if TYPE_CHECKING:
    from pytwin.record.read import Recording

app = App(name="record", help="Record a vLLM server; look at recordings and convert them.")

Torn = Literal["error", "drop"]  # as in pytwin.record.read, which loads slowly

_NOTES = """\
Install pytwin where vLLM is (`pip install pytwin` in the same environment); nothing of vLLM is
changed, and without PYTWIN_RECORD the plug-in does nothing. If VLLM_PLUGINS is set, it must name
pytwin_record. Every server makes a directory of its own below PYTWIN_RECORD: steps.jsonl,
requests.jsonl, worker.jsonl and one frontend-PID.jsonl per API server. A recording ends by itself
at PYTWIN_RECORD_MAX_MB (default 4096). It holds no prompts and no outputs, only lengths, times,
names and, with prefix caching, hashes.

On a GPU: times of execute_model() are the host's; the time between two CUDA events (gpu_s) is the
GPU's, and holds with async scheduling as well. Save the client's times beside the recording as
client.json (`vllm bench serve --save-detailed`) and `pytwin calibrate` uses them.

Then: pytwin record inspect {directory}
      pytwin conformance replay {directory}
      pytwin calibrate fit {directory} -o profile.json"""


@app.default
def start(
    model: str = "MODEL",
    /,
    *,
    directory: Annotated[str, Parameter(name=["--directory", "-o"])] = "recordings",
) -> int:
    """Print how to start vLLM so that it is recorded.

    Parameters
    ----------
    model:
        what `vllm serve` is to serve.
    directory:
        where the recordings shall lie.
    """
    target = shlex.quote(directory)
    print(f"PYTWIN_RECORD={target} vllm serve {shlex.quote(model)} --enable-lora --max-loras 8\n")
    print(_NOTES.format(directory=target))
    return 0


@app.command
def inspect(
    directory: str,
    /,
    *,
    torn: Annotated[Torn, Parameter(name="--torn")] = "error",
    format: Annotated[Format, Parameter(name="--format")] = "table",  # noqa: A002
) -> int:
    """Summarise a recording, or every recording in a directory.

    Parameters
    ----------
    directory:
        a recording, or a directory of recordings.
    torn:
        what to do about a torn last line, which a killed server leaves: error, or drop it.
    format:
        table, json or csv.
    """
    rows = [_summary(recording) for recording in _read(directory, torn)]
    if format == "json":
        print_json(rows)
    elif format == "csv":
        print_csv(rows)
    else:
        for row in rows:
            cells = [{"field": name, "value": value} for name, value in row.items()]
            print_table(cells, wide=False)
    return 0


@app.command
def convert(
    directory: str,
    /,
    *,
    out: Annotated[str, Parameter(name=["--out", "-o"])],
    torn: Annotated[Torn, Parameter(name="--torn")] = "error",
) -> int:
    """Convert a recording to tables, or to a conformance case.

    Parameters
    ----------
    directory:
        a recording, or a directory of recordings.
    out:
        a directory: steps, batches, requests and adapter_events as Parquet, the header as JSON;
        or FILE.json: the run as a case for `pytwin conformance run`.
    torn:
        what to do about a torn last line: error, or drop it.
    """
    from pytwin.record.case import case_of

    read = _read(directory, torn)
    if out.endswith(".json"):
        if len(read) > 1:
            raise DataError(f"{directory} holds {len(read)} recordings, a case is of one: name it")
        write_text(json.dumps(case_of(read[0])) + "\n", out)
        note(f"wrote {out}: a case of {len(read[0].step_events)} steps")
        return 0
    for recording in read:
        folder = Path(out) if len(read) == 1 else Path(out) / recording.name
        _write_tables(recording, folder)
        note(
            f"wrote {folder}: {recording.steps.height} steps, {recording.requests.height} requests"
        )
    return 0


def _read(directory: str, torn: Torn) -> list[Recording]:
    from pytwin.record.read import read_recording, recordings

    return [read_recording(path, torn=torn) for path in recordings(directory)]


def _write_tables(recording: Recording, folder: Path) -> None:
    import msgspec

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made: {error.strerror}") from None
    for name in ("steps", "batches", "requests", "adapter_events"):
        write_frame(getattr(recording, name), str(folder / f"{name}.parquet"))
    told = {
        "header": msgspec.to_builtins(recording.header),
        "worker": msgspec.to_builtins(recording.worker),
        "closed": recording.closed,
        "stopped": recording.stopped,
        "torn": list(recording.torn),
    }
    write_text(json.dumps(told, indent=1) + "\n", str(folder / "recording.json"))


def _summary(recording: Recording) -> dict[str, Any]:
    header, worker, steps = recording.header, recording.worker, recording.steps
    requests, config = recording.requests, recording.header.config
    first, last = steps["schedule_start_s"][0], steps["update_end_s"].max()
    seconds = None if last is None else float(str(last)) - first
    ended = requests["finish_reason"]
    lora = "off"
    if config.get("max_loras"):
        lora = (
            f"max_loras {config['max_loras']}, max_cpu_loras {config.get('max_cpu_loras')}, "
            f"{requests['lora_id'].drop_nulls().n_unique()} adapters seen"
        )
    return {
        "recording": recording.name,
        "format": header.format,
        "vllm": header.vllm,
        "model": header.model.get("name") or header.model.get("model"),
        "device": worker.device if worker else None,
        "lora": lora,
        "kv_blocks": f"{config['num_blocks']} of {config['block_size']} tokens",
        "scheduling": "async" if config.get("async_scheduling") else "sync",
        "seconds": seconds,
        "steps": steps.height,
        "requests": requests.height,
        "finished": int(ended.is_in(["length", "stop", "repetition"]).sum()),
        "aborted": int((ended == "abort").sum()),
        "in_flight": int(ended.is_null().sum()),
        "preemptions": int(steps["preempted"].sum()),
        "adapter_loads": int((recording.adapter_events["event"] == "load").sum()),
        "median_step_ms": _median_ms(recording),
        "recorder_share": recording.cost_s / seconds
        if recording.closed and recording.cost_s and seconds
        else None,
        "whole": recording.closed,
        "stopped": recording.stopped or None,
        "torn": ", ".join(recording.torn) or None,
        "unmodelled": ", ".join(header.unmodelled) or None,
    }


def _median_ms(recording: Recording) -> float | None:
    """Of the steps as the engine sees them: from schedule() to the end of the update."""
    steps = recording.steps
    value = (steps["update_end_s"] - steps["schedule_start_s"]).median()
    return None if value is None else 1e3 * float(str(value))
