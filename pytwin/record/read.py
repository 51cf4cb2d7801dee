"""Reading a recording: a broken one is an error in one line, never a quiet loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec

from pytwin.errors import DataError

from . import events as ev

if TYPE_CHECKING:
    import polars as pl

Torn = Literal["error", "drop"]
_STEPS, _REQUESTS, _WORKER = "steps.jsonl", "requests.jsonl", "worker.jsonl"
_FRONTEND = "frontend"  # the API server's files; there may be several, or none
_E = TypeVar("_E")


class RecordingError(DataError):
    """A recording that is missing, broken, truncated, empty or mixed; the message is one line."""


@dataclass(frozen=True)
class Recording:
    """One recorded run of one server.

    Attributes:
        path: its directory.
        header: what the server was.
        worker: what its worker ran on; None in format 0.
        closed: everything is there. False: the server was killed at work and up to its last second
            is missing, or the recorder gave up; None: format 0 does not tell.
        torn: files whose torn last line was left out (only when asked for).
        stopped: why the recorder gave up before the server ended; "" if it did not.
        cost_s: the recorder's own time in the engine core and the worker; None if unknown.
        events: per file, the lines in the order written.
    """

    path: Path
    header: ev.Header
    worker: ev.Worker | None
    closed: bool | None
    torn: tuple[str, ...]
    stopped: str
    cost_s: float | None
    events: dict[str, list[ev.Event]] = field(repr=False)

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    def of(self, kind: type[_E], file: str | None = None) -> list[_E]:
        """The events of one kind, in the order written."""
        lists = self.events.values() if file is None else [self.events.get(file, [])]
        return [event for events in lists for event in events if isinstance(event, kind)]

    @cached_property
    def step_events(self) -> list[ev.Step]:
        """The steps in the order in which they were scheduled."""
        return sorted(self.of(ev.Step), key=lambda step: step.i)

    @cached_property
    def executions(self) -> dict[int, Execution]:
        """The worker's part of each non-empty step, by the step's `i`; empty without a worker.

        Raises:
            RecordingError: the worker's steps are not the scheduler's.
        """
        return _matched(self, list(_executions(self.events.get(_WORKER, []))))

    @cached_property
    def preloaded(self) -> list[int]:
        """Adapters loaded before the first step, in order."""
        first = next((e for e in self.of(ev.Exec) if e.tokens), None)
        return [e.id for e in self.of(ev.LoraLoad) if first is None or e.t < first.t]

    @cached_property
    def steps(self) -> pl.DataFrame:
        """One row per non-empty step; columns in `frames.STEPS`."""
        from .frames import steps

        return steps(self)

    @cached_property
    def batches(self) -> pl.DataFrame:
        """One row per step and request in its batch; columns in `frames.BATCHES`."""
        from .frames import batches

        return batches(self)

    @cached_property
    def requests(self) -> pl.DataFrame:
        """One row per request; columns in `frames.REQUESTS`."""
        from .frames import requests

        return requests(self)

    @cached_property
    def adapter_events(self) -> pl.DataFrame:
        """One row per load, activation, eviction and deactivation; see `frames.ADAPTER_EVENTS`."""
        from .frames import adapter_events

        return adapter_events(self)


@dataclass(frozen=True)
class Execution:
    """One non-empty step in the worker: its call, and what happened inside it."""

    call: ev.Exec
    lora: tuple[ev.LoraLoad | ev.LoraActivate | ev.LoraEvict | ev.LoraDeactivate, ...]
    sample_s: float | None
    gpu_s: float | None


def recordings(directory: str | Path) -> list[Path]:
    """The directory itself if it holds a recording, else those below it that do, by name.

    Raises:
        RecordingError: there is none.
    """
    path = Path(directory)
    if not path.is_dir():
        raise RecordingError(f"{path} is no directory: give one that holds a recording")
    if _files(path):
        return [path]
    found = sorted(d for d in path.iterdir() if d.is_dir() and _files(d))
    if not found:
        raise RecordingError(f"{path} holds no recording (*.jsonl): give one that does")
    return found


def read_recording(directory: str | Path, *, torn: Torn = "error") -> Recording:
    """Reads one recording and checks that it is whole.

    Args:
        directory: of the recording, or one that holds a single recording.
        torn: what to do about a torn last line, which a killed server leaves: an error, or drop
            it. Nothing else is ever left out.

    Raises:
        RecordingError: missing, empty, broken in line N, torn, of another or of mixed formats,
            files of different runs, steps missing in between.
    """
    found = recordings(directory)
    if len(found) > 1:
        raise RecordingError(f"{directory} holds {len(found)} recordings: give one of "
                             f"{', '.join(p.name for p in found[:4])}")  # fmt: skip
    path = found[0]
    events: dict[str, list[ev.Event]] = {}
    cut: list[str] = []
    frontends = sorted(file.name for file in path.glob(f"{_FRONTEND}*.jsonl"))
    for name in (_STEPS, _REQUESTS, _WORKER, *frontends):
        if (path / name).is_file():
            events[name], was_torn = _read_lines(path / name, torn)
            cut += [name] if was_torn else []
    recording = _recording(path, events, tuple(cut))
    _check(recording)
    return recording


def _files(directory: Path) -> list[Path]:
    """The files of an engine in the directory; those of an API server alone are no recording."""
    return [path for path in directory.glob("*.jsonl") if not path.name.startswith(_FRONTEND)]


_DECODER = msgspec.json.Decoder(ev.Event)


def _read_lines(path: Path, torn: Torn) -> tuple[list[ev.Event], bool]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecordingError(f"{path} is unreadable: {error.strerror}") from None
    if not data.strip():
        raise RecordingError(f"{path} is empty: the server was stopped before it wrote anything")
    lines = data.split(b"\n")
    events: list[ev.Event] = []
    for number, line in enumerate(lines, start=1):
        if not line and number == len(lines):
            break
        try:
            events.append(_DECODER.decode(line))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            if number < len(lines):
                what = " ".join(str(error).split()) or "not UTF-8"
                raise RecordingError(
                    f"{path.name} line {number} of {path.parent} is broken ({what}): "
                    "the file was damaged, or a newer pytwin wrote it"
                ) from None
            if torn == "error":
                raise RecordingError(
                    f"{path.name} of {path.parent} ends in a torn line ({number}), as after a "
                    "killed server: --torn drop (torn='drop') leaves that line out"
                ) from None
            return events, True
    return events, False


def _recording(path: Path, events: dict[str, list[ev.Event]], torn: tuple[str, ...]) -> Recording:
    headers = [e for file in events.values() for e in file if isinstance(e, ev.Header)]
    if not headers:
        raise RecordingError(f"{path} has no header: the first line of steps.jsonl is missing")
    if len(headers) > 1:
        raise RecordingError(f"{path} has {len(headers)} headers: several runs in one file")
    header = headers[0]
    requests = any(isinstance(e, ev.Req) for file in events.values() for e in file)
    for name, there in ((_STEPS, _STEPS in events), (_REQUESTS, _REQUESTS in events or requests)):
        if not there:
            raise RecordingError(f"{path} has no {name}: copy the recording whole")
    firsts = {name: file[0] for name, file in events.items() if file}
    marks = {(header.format, header.run)}
    marks |= {(e.format, e.run) for e in firsts.values() if isinstance(e, ev.File)}
    formats = sorted({mark[0] for mark in marks})
    if len(formats) > 1:
        raise RecordingError(f"{path} mixes the formats {formats}: files of different recorders")
    if formats[0] not in ev.READABLE:
        raise RecordingError(f"{path} has format {formats[0]}, this pytwin reads "
                             f"{ev.READABLE[0]} to {ev.READABLE[-1]}: update pytwin")  # fmt: skip
    if len(marks) > 1:
        raise RecordingError(f"{path} mixes the runs {sorted(run for _, run in marks)}: "
                             "keep each run's files together")  # fmt: skip
    if header.format:
        for name, first in firsts.items():
            if not isinstance(first, ev.Header if name == _STEPS else ev.File):
                raise RecordingError(f"{path}/{name} lacks its first line: copy it whole")
    ends = [e for file in events.values() for e in file if isinstance(e, ev.End)]
    told = [e.reason for e in ends if e.reason != "closed"]
    costs = [e for file in events.values() for e in file[-1:] if isinstance(e, ev.Mark | ev.End)]
    engine = [file for name, file in events.items() if not name.startswith(_FRONTEND)]
    whole = all(isinstance(file[-1], ev.Mark | ev.End) for file in engine)
    return Recording(
        path=path,
        header=header,
        worker=next((e for f in events.values() for e in f if isinstance(e, ev.Worker)), None),
        closed=None if header.format == 0 else whole and not told and not torn,
        torn=torn,
        stopped=told[0] if told else "",
        cost_s=sum(e.cost for e in costs) if costs else None,
        events=events,
    )


def _check(recording: Recording) -> None:
    """That nothing is missing between the first line and the last."""
    path, steps = recording.path, recording.step_events
    if not any(step.sched for step in steps):
        raise RecordingError(f"{path} is empty: no request was served while it was recorded")
    known = {e.id for e in recording.of(ev.Req)}
    if len(known) < len(recording.of(ev.Req)):
        raise RecordingError(f"{path}: a request id occurs twice: requests.jsonl is of two runs")
    position: dict[str, int] = {}
    before = -1
    for step in steps:
        if step.i == before:
            raise RecordingError(f"{path}: step {step.i} occurs twice: two runs in one file")
        before = step.i
        if sum(entry[1] for entry in step.sched) != step.tokens:
            raise RecordingError(f"{path}: step {step.i} holds other tokens than it says: damaged")
        for rid, tokens, first, kind in step.sched:
            if rid not in known:
                raise RecordingError(f"{path}: step {step.i} schedules {rid}, which requests.jsonl "
                                     "lacks: lines are missing")  # fmt: skip
            continued = kind == "C" and "speculative_config" not in recording.header.unmodelled
            if continued and position.get(rid) != first:
                raise RecordingError(f"{path}: steps are missing before step {step.i} ({rid} "
                                     f"goes on at token {first}): damaged")  # fmt: skip
            position[rid] = first + tokens


def _executions(worker: Sequence[ev.Event]) -> Iterator[Execution]:
    """The worker's non-empty steps with the adapter events of each.

    A step's adapter events are written before its `exec` line; what is older than the first
    step's start was loaded when the server came up.
    """
    gpu = {e.k: e.dt for e in worker if isinstance(e, ev.Gpu)}
    first = True
    call: ev.Exec | None = None
    inside: list[ev.LoraLoad | ev.LoraActivate | ev.LoraEvict | ev.LoraDeactivate] = []
    pending: tuple[ev.LoraLoad | ev.LoraActivate | ev.LoraEvict | ev.LoraDeactivate, ...] = ()
    sample: float | None = None
    for event in worker:
        if isinstance(event, ev.LoraLoad | ev.LoraActivate | ev.LoraEvict | ev.LoraDeactivate):
            inside.append(event)
        elif isinstance(event, ev.Sample):
            sample = event.dt
        elif isinstance(event, ev.Exec) and event.tokens:
            if call is not None:
                yield Execution(call, pending, sample, gpu.get(call.k))
            if first:
                inside = [e for e in inside if e.t >= event.t]
                first = False
            call, pending, sample, inside = event, tuple(inside), None, []
    if call is not None:
        yield Execution(call, pending, sample, gpu.get(call.k))


def _matched(recording: Recording, executions: Sequence[Execution]) -> dict[int, Execution]:
    """By the step that the worker was told, else in order; every pair must agree in tokens."""
    ran = [step for step in recording.step_events if step.tokens]
    if not executions:
        return {}
    if all(e.call.step is not None for e in executions):
        by_step = {e.call.step: e for e in executions if e.call.step is not None}
        matched = {step.i: by_step[step.i] for step in ran if step.i in by_step}
    else:
        matched = {step.i: e for step, e in zip(ran, executions, strict=False)}
    tokens = {step.i: step.tokens for step in ran}
    agree = all(e.call.tokens == tokens[i] for i, e in matched.items())
    # A step in flight when the server ended may be known to one side alone; a killed server may
    # have lost its last second in either file. In between nothing may be missing.
    held = [step.i in matched for step in ran]
    whole = all(held[: sum(held)])
    slack = len(ran) + len(executions) - 2 * len(matched)
    if not agree or not whole or (slack > 2 and recording.closed is not False):
        raise RecordingError(f"{recording.path}: the worker's steps are not the scheduler's: "
                             "worker.jsonl and steps.jsonl are of different runs")  # fmt: skip
    return matched
