"""Recorded runs of a real vLLM, replayed in the twin.

What a recording is, `pytwin.record` says. Times play no part: decisions are compared.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytwin.record.case import case_of
from pytwin.record.events import LoraActivate, LoraDeactivate, LoraEvict, LoraLoad, Step
from pytwin.record.read import Execution, RecordingError, Torn, read_recording, recordings

from .cases import Case, materialise, parse_case
from .compare import Difference, first_difference
from .twin import Twin, core_twin, run_twin
from .versions import EngineVersion, engine_version

Json = dict[str, Any]


__all__ = ["RecordedRun", "RecordingError", "ReplayResult", "recorded_run", "recordings", "replay"]

_EVENTS = {
    LoraLoad: "load",
    LoraActivate: "activate",
    LoraEvict: "evict_cpu",
    LoraDeactivate: "deactivate",
}


@dataclass(frozen=True)
class RecordedRun:
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


def recorded_run(
    directory: Path, version: EngineVersion | None = None, *, torn: Torn = "error"
) -> RecordedRun:
    """Reads a recorded run as a case.

    Args:
        directory: of the recording.
        version: instead of the one that the recording names.
        torn: whether a torn last line, which a killed server leaves, is an error or left out.

    Raises:
        RecordingError: the recording is broken, or uses features that the twin does not model.
    """
    recording = read_recording(directory, torn=torn)
    chosen = version or engine_version(recording.header.vllm.split("+")[0])
    executions = recording.executions
    steps = {step.i: _decisions(step, executions.get(step.i)) for step in recording.step_events}
    return RecordedRun(recording.name, chosen, parse_case(case_of(recording)), steps)


def _decisions(step: Step, execution: Execution | None) -> Json:
    decided: Json = {
        "type": "step",
        "i": step.i,
        "added": step.added,
        "scheduled": step.sched,
        "preempted": step.preempted,
        "free_blocks": step.free,
        "running": step.nrun,
        "waiting": step.nwait,
        "loras": step.loras,
    }
    if step.t3 is not None or not step.sched:  # else the server ended before the step did
        decided["finished"] = {rid: reason for rid, (reason, _) in step.fin.items()}
    if execution is not None:
        decided["lora_events"] = [
            [_EVENTS[type(e)], e.id, *([e.slot] if isinstance(e, LoraActivate) else [])]
            for e in execution.lora
        ]
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


def replay(recording: RecordedRun, twin: Twin = core_twin) -> ReplayResult:
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
