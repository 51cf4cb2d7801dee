"""A recording as columns: what each step did, how long it took, and where the time went.

Features are the cost model's (docs/reference/profile.md), counted as the core counts them. Times
are host times of the engine core's process, in ms (see `times`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from pytwin.calibrate.recordings.client import Client, read_client
from pytwin.calibrate.recordings.times import add_times
from pytwin.config import ENGINE_VERSIONS
from pytwin.errors import DataError
from pytwin.record.events import LoraActivate, LoraLoad, Req, Step
from pytwin.record.read import Recording

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Load:
    """One adapter load inside a step (or before the first one: position -1)."""

    source: str  # disk: file to host memory; memory: host memory to a slot
    adapter: int
    rank: int | None
    ms: float
    position: int


@dataclass(frozen=True)
class Request:
    """One request, server and client side; times in seconds of the machine's monotonic clock."""

    id: str
    adapter: int  # 0: base model
    prompt_tokens: int
    max_tokens: int
    arrival_s: float  # at the API server
    visible_s: float  # at the scheduler
    visible_step: int
    sent_s: float | None  # at the client
    token_times_s: FloatArray | None  # at the client; merged tokens share a time
    output_tokens: int
    status: str  # length, stop, abort, unfinished
    ended_s: float | None  # end of the last step that made a token


@dataclass(frozen=True)
class RecordedRun:
    """One recorded run.

    Attributes
    ----------
    steps: columns of equal length, one entry per non-empty step: the cost model's step features,
        and index, start_s, end_s, schedule_ms, execute_ms, update_ms, gap_ms (NaN where the engine
        went idle), load_ms, loads_disk, loads_memory, duration_ms (without loads; NaN where it
        cannot be told), host_ms (asynchronous only: work of one iteration).
    ranks: adapter -> rank, of the adapters whose load was seen.
    """

    name: str
    vllm: str
    engine_version: str
    recording: Recording
    config: Mapping[str, Any]
    steps: Mapping[str, FloatArray]
    loads: tuple[Load, ...]
    requests: tuple[Request, ...]
    ranks: Mapping[int, int]
    client: Client | None
    warnings: tuple[str, ...] = field(default=())

    @property
    def asynchronous(self) -> bool:
        """Whether steps were scheduled ahead."""
        return bool(self.config.get("async_scheduling"))

    @property
    def features(self) -> dict[str, FloatArray]:
        """Step features with those of the configuration, as arrays of one length."""
        size = len(self.steps["tokens"])
        return {
            **{name: np.full(size, value) for name, value in self.settings.items()},
            **self.steps,
        }

    @property
    def settings(self) -> dict[str, float]:
        """The configuration's features."""
        slots = float(self.config.get("max_loras") or 0)
        on = float(slots > 0)
        served = {request.adapter for request in self.requests if request.adapter}
        return {
            "lora": on,
            "max_loras": slots,
            "max_lora_rank": on * float(self.max_lora_rank),
            "max_cpu_loras": on * float(self.config.get("max_cpu_loras") or slots),
            "served_adapters": float(len(served)),
        }

    @property
    def max_lora_rank(self) -> int:
        """As the header states it, else the highest rank seen (16 if none was)."""
        stated = self.config.get("max_lora_rank") or self.recording.header.lora.get("max_lora_rank")
        return int(stated) if stated else max(self.ranks.values(), default=16)


def read_run(recording: Recording) -> RecordedRun:
    """A recording as columns.

    Raises
    ------
    DataError: an engine version that pytwin does not model, clocks that go backwards, or LoRA
        without the worker's events (loads could not be told from steps).
    """
    header = recording.header
    name = recording.name
    base = header.vllm.split("+")[0]
    version = ENGINE_VERSIONS.get(base)
    if version is None:
        raise DataError(
            f"{name} was recorded on vLLM {header.vllm}: this pytwin models "
            f"{', '.join(ENGINE_VERSIONS)}; record one of these"
        )
    if header.unmodelled:
        raise DataError(
            f"{name} was recorded with {', '.join(header.unmodelled)}, which pytwin does not "
            "model: record without"
        )
    config = dict(header.config)
    executions = recording.executions
    if config.get("max_loras") and not executions:
        raise DataError(
            f"{name} has no worker events (worker.jsonl), so adapter loads cannot be told from "
            "steps: record the worker too"
        )
    steps = [step for step in recording.step_events if step.sched]
    whole = [step for step in steps if step.t2 is not None and step.t3 is not None]
    if any(b.t0 < a.t0 for a, b in pairwise(steps)):
        raise DataError(f"{name}: times of steps go backwards: the files are of two runs")
    warnings = _warnings(recording, len(steps) - len(whole))
    known = {request.id: request for request in recording.of(Req)}
    columns = _features(steps, known)
    loads, ranks = _loads(recording, steps)
    add_times(columns, recording, steps, loads, asynchronous=bool(config.get("async_scheduling")))
    client, remarks = read_client(recording)
    return RecordedRun(
        name=name,
        vllm=header.vllm,
        engine_version=version,
        recording=recording,
        config=config,
        steps=columns,
        loads=tuple(loads),
        requests=tuple(_requests(recording, steps, known, client)),
        ranks=ranks,
        client=client,
        warnings=(*warnings, *remarks),
    )


def _warnings(recording: Recording, open_steps: int) -> list[str]:
    found = [f"{recording.name}/{file} ends in a torn line, left out" for file in recording.torn]
    if recording.stopped:
        found.append(f"{recording.name}: the recorder gave up early ({recording.stopped})")
    if recording.closed is False:
        found.append(f"{recording.name}: the server was killed, its last second may be missing")
    if open_steps > 2:
        found.append(f"{recording.name}: {open_steps} steps never ended, left out")
    return found


def _features(steps: Sequence[Step], known: Mapping[str, Req]) -> dict[str, FloatArray]:
    """As the core counts them (twin_core/src/engine/scheduler.rs `commit`)."""
    rows = []
    for step in steps:
        prefill_tokens = prefill_seqs = decode_seqs = context = lora_seqs = 0
        for rid, tokens, first, _ in step.sched:
            request = known[rid]
            context += first
            lora_seqs += request.lora is not None
            if tokens == 1 and first >= request.prompt:
                decode_seqs += 1
            else:
                prefill_seqs += 1
                prefill_tokens += tokens
        rows.append((
            step.i, step.t0, prefill_tokens, prefill_seqs, decode_seqs, prefill_seqs + decode_seqs,
            step.tokens, context, len(step.loras), lora_seqs, step.nrun, step.nwait,
        ))  # fmt: skip
    names = (
        "index", "start_s", "prefill_tokens", "prefill_seqs", "decode_seqs", "seqs", "tokens",
        "context_tokens", "adapters", "lora_seqs", "running", "waiting",
    )  # fmt: skip
    matrix = np.array(rows, dtype=np.float64).reshape(-1, len(names))
    return {name: matrix[:, column].copy() for column, name in enumerate(names)}


def _loads(recording: Recording, steps: Sequence[Step]) -> tuple[list[Load], dict[int, int]]:
    """Loads with the position of their step; those of the server's start come first."""
    ranks = {e.id: e.rank for e in recording.of(LoraLoad) if e.rank is not None}
    position = {step.i: place for place, step in enumerate(steps)}
    inside = {
        id(event): position[index]
        for index, execution in recording.executions.items()
        for event in execution.lora
        if index in position
    }
    events: list[LoraLoad | LoraActivate] = [*recording.of(LoraLoad), *recording.of(LoraActivate)]
    loads = [
        Load(
            source="disk" if isinstance(event, LoraLoad) else "memory",
            adapter=event.id,
            rank=ranks.get(event.id),
            ms=1e3 * event.dt,
            position=inside.get(id(event), -1),
        )
        for event in events
    ]
    return sorted(loads, key=lambda load: load.position), ranks


def _requests(
    recording: Recording,
    steps: Sequence[Step],
    known: Mapping[str, Req],
    client: Client | None,
) -> list[Request]:
    made: dict[str, int] = dict.fromkeys(known, 0)
    ended: dict[str, float] = {}
    status: dict[str, str] = {}
    for step in steps:
        if step.t3 is None:
            continue
        for rid, tokens, first, _ in step.sched:
            if first + tokens >= known[rid].prompt + made[rid]:
                made[rid] += 1
                ended[rid] = step.t3
        for rid, (reason, count) in step.fin.items():
            status[rid], made[rid] = reason, count
    for abort in _aborts(recording):
        status.setdefault(abort, "abort")
    header = recording.header
    rows = []
    for rid, request in known.items():
        seen = client.requests.get(rid) if client is not None else None
        rows.append(
            Request(
                id=rid,
                adapter=request.lora or 0,
                prompt_tokens=request.prompt,
                max_tokens=request.max_tokens,
                arrival_s=request.arrival - header.unix + header.t,
                visible_s=request.t,
                visible_step=request.step,
                sent_s=None if seen is None else seen.sent_s,
                token_times_s=None if seen is None else seen.token_times_s,
                output_tokens=made[rid],
                status=status.get(rid, "unfinished"),
                ended_s=ended.get(rid),
            )
        )
    return rows


def _aborts(recording: Recording) -> list[str]:
    from pytwin.record.events import Abort

    return [abort.id for abort in recording.of(Abort)]
