"""Recorded runs of a real vLLM, replayed in the twin.

A recording is a directory of JSON-lines files, one event a line (key `e`): `header` (the engine's
settings), `req` (a request reached the scheduler), `step` (one schedule() with its update),
`abort`; and from the worker `exec`, `lora_load`, `lora_activate`, `lora_evict_cpu`,
`lora_deactivate`. Other events and files are ignored. Times play no part: decisions are compared.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytwin.errors import PytwinError

from .cases import Case, materialise, parse_case
from .compare import Difference, first_difference
from .twin import Twin, core_twin, run_twin
from .versions import EngineVersion, engine_version

Json = dict[str, Any]


class RecordingError(PytwinError):
    """A directory that holds no readable recording; the message is one line."""


@dataclass(frozen=True)
class Recording:
    """One recorded run.

    Attributes:
        name: the directory's.
        version: of the vLLM that was recorded.
        case: the run as a case, under the recorded order of adapters.
        steps: what was decided, per engine iteration.
    """

    name: str
    version: EngineVersion
    case: Case
    steps: Mapping[int, Json]


@dataclass(frozen=True)
class ReplayResult:
    """The outcome of one replay; `first` is the first of `differences`."""

    name: str
    steps: int
    preemptions: int
    adapter_loads: int
    differences: int
    first: Difference | None

    def row(self) -> Json:
        """As a row of the result table."""
        return {
            "recording": self.name,
            "steps": self.steps,
            "preemptions": self.preemptions,
            "adapter_loads": self.adapter_loads,
            "differences": self.differences,
        }


def recordings(directory: Path) -> list[Path]:
    """The directory itself if it holds a recording, else those below it that do.

    Raises:
        RecordingError: there is none.
    """
    if not directory.is_dir():
        raise RecordingError(f"{directory} is no directory: give one that holds a recording")
    if any(directory.glob("*.jsonl")):
        return [directory]
    found = sorted(d for d in directory.iterdir() if d.is_dir() and any(d.glob("*.jsonl")))
    if not found:
        raise RecordingError(f"{directory} holds no recording (*.jsonl): give one that does")
    return found


def read_recording(directory: Path, version: EngineVersion | None = None) -> Recording:
    """Reads a recorded run.

    Args:
        directory: of the recording.
        version: instead of the one that the recording names.

    Raises:
        RecordingError: a file is unreadable, or the header or the steps are missing.
    """
    core, worker = _events(directory)
    header = next((e for e in core if e["e"] == "header"), None)
    recorded = {e["i"]: e for e in core if e["e"] == "step"}
    if header is None or not recorded:
        raise RecordingError(f"{directory} has no header or no steps: record the run again")
    chosen = version or engine_version(str(header["vllm"]).split("+")[0])
    ran = [i for i in sorted(recorded) if recorded[i]["tokens"]]
    executions, preloaded = _executions(worker)
    if executions and [e["tokens"] for e in executions] != [recorded[i]["tokens"] for i in ran]:
        raise RecordingError(f"{directory}: the worker's steps are not the scheduler's: two runs?")
    by_step = dict(zip(ran, executions, strict=True)) if executions else {}
    case = {
        "config": header["config"],
        "requests": [_request(e, recorded) for e in core if e["e"] == "req"],
        "aborts": [{"step": e["step"], "id": e["id"]} for e in core if e["e"] == "abort"],
        "lora_preload": preloaded,
        "lora_order": {str(i): e["lora_order"] for i, e in by_step.items() if e.get("lora_order")},
    }
    steps = {i: _decisions(e, by_step.get(i)) for i, e in recorded.items()}
    return Recording(directory.name, chosen, parse_case(case), steps)


def _events(directory: Path) -> tuple[list[Json], list[Json]]:
    """The events of the engine core and those of the worker, each in the order written."""
    core: list[Json] = []
    worker: list[Json] = []
    for path in sorted(directory.glob("*.jsonl")):
        try:
            with path.open() as file:
                events = [json.loads(line) for line in file if line.strip()]
            kinds = {event["e"] for event in events}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RecordingError(f"{path} is unreadable ({error}): record the run again") from None
        (worker if kinds & {"exec", "lora_load"} else core).extend(events)
    return core, worker


def _executions(worker: Iterable[Json]) -> tuple[list[Json], list[int]]:
    """The worker's non-empty steps with the adapter events of each, and the adapters loaded before.

    A step's adapter events are written before its `exec` line; what is older than the first
    step's start was loaded when the server came up.
    """
    executions: list[Json] = []
    preloaded: list[int] = []
    events: list[Json] = []
    for event in worker:
        if event["e"].startswith("lora_"):
            events.append(event)
        elif event["e"] == "exec" and event["tokens"]:
            if not executions:
                before = [e for e in events if e["t"] < event["t"]]
                preloaded = [e["id"] for e in before if e["e"] == "lora_load"]
                events = events[len(before) :]
            made = [[e["e"][5:], e["id"], *([e["slot"]] if "slot" in e else [])] for e in events]
            executions.append({**event, "lora_events": made})
            events = []
    return executions, preloaded


def _request(event: Json, steps: Mapping[int, Json]) -> Json:
    request: Json = {
        "id": event["id"],
        "arrival_step": event["step"],
        "prompt_len": event["prompt"],
        "max_tokens": event["max_tokens"],
        "priority": event.get("priority") or 0,
        "arrival_time": event["arrival"],
    }
    if event.get("prompt_token_ids"):
        request["prompt_token_ids"] = event["prompt_token_ids"]
    if event.get("lora"):
        request["lora_id"] = event["lora"]
    for step in steps.values():
        reason, outputs = step.get("fin", {}).get(event["id"], ("length", 0))
        if reason == "stop":
            request["stop_at"] = outputs
    return request


def _decisions(step: Json, execution: Json | None) -> Json:
    decided: Json = {
        "type": "step",
        "i": step["i"],
        "added": step["added"],
        "scheduled": step["sched"],
        "preempted": step["preempted"],
        "free_blocks": step["free"],
        "running": step["nrun"],
        "waiting": step["nwait"],
        "loras": step["loras"],
        "finished": {rid: reason for rid, (reason, _) in step.get("fin", {}).items()},
    }
    if execution is not None:
        decided["lora_events"] = execution["lora_events"]
    return decided


def _twin_decisions(trace: Sequence[str]) -> dict[int, Json]:
    """The twin's trace in the terms of a recording, per iteration that scheduled."""
    decided: dict[int, Json] = {}
    in_flight: deque[int] = deque()
    for record in map(json.loads, trace):
        if record["type"] != "step":
            continue
        if "scheduled" in record:
            i = record["i"]
            in_flight.append(i)
            decided[i] = {
                name: record.get(name, [])
                for name in ("i", "added", "scheduled", "preempted", "loras", "lora_events")
            } | {
                "type": "step",
                "free_blocks": record["free_blocks"],
                "running": len(record["running"]),
                "waiting": len(record["waiting"]),
                "finished": {},
            }
        if "finished" in record:  # a recording books an end under the step that made the token
            decided[in_flight.popleft()]["finished"] = record["finished"]
    return decided


def replay(recording: Recording, twin: Twin = core_twin) -> ReplayResult:
    """Replays a recorded run in the twin and compares every decision that was recorded."""
    whole = materialise(recording.case, recording.version)
    decided = _twin_decisions(run_twin(whole, recording.version, twin))
    differences, first = 0, None
    for i, real in sorted(recording.steps.items()):
        ours = decided.get(i, {"type": "step", "i": i})
        difference = first_difference(
            [json.dumps(real)], [json.dumps({k: v for k, v in ours.items() if k in real})]
        )
        if difference is not None:
            differences += 1
            first = first or difference
    return ReplayResult(
        name=recording.name,
        steps=len(recording.steps),
        preemptions=sum(len(step["preempted"]) for step in recording.steps.values()),
        adapter_loads=sum(
            event[0] == "load"
            for step in recording.steps.values()
            for event in step.get("lora_events", ())
        ),
        differences=differences,
        first=first,
    )
