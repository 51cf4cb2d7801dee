"""A recording as a measured run, and as the server that it ran on."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pytwin.calibrate.check.arrivals import Measured
from pytwin.calibrate.recordings.columns import RecordedRun, Request
from pytwin.calibrate.recordings.kinds import server_settings
from pytwin.config import EngineConfig
from pytwin.errors import DataError

FloatArray = npt.NDArray[np.float64]


def server_of(run: RecordedRun, profile: str) -> EngineConfig:
    """The recorded server under a profile, with the KV blocks that it really had."""
    settings = server_settings(run)
    settings |= {
        "engine_version": run.engine_version,
        "max_loras": int(run.config.get("max_loras") or 0),
        "max_lora_rank": int(run.max_lora_rank),
        "num_gpu_blocks_override": int(run.config["num_blocks"]),
    }
    if run.config.get("max_cpu_loras"):
        settings["max_cpu_loras"] = int(run.config["max_cpu_loras"])
    return EngineConfig(profile=profile, **settings)


def measured_of(run: RecordedRun) -> Measured:
    """What the recording tells end to end.

    Raises
    ------
    DataError: no request finished.
    """
    begun = sorted(run.requests, key=_begin)
    if not any(request.status in {"length", "stop"} for request in begun):
        raise DataError(f"{run.name}: no request finished, so nothing can be compared")
    first = _begin(begun[0])
    complete = all(request.status != "unfinished" for request in begun)
    rows: list[dict[str, Any]] = []
    gaps: list[FloatArray] = []
    ends: list[float] = []
    for request in begun:
        times = _token_times(run, request)
        row = _row(run, request, first, times)
        rows.append(row)
        if len(times):
            ends.append(float(times[-1]))
        # The API server tells first and last tokens only.
        if row["e2el_ms"] is not None and not (run.client and run.client.kind == "api"):
            gaps.append(1e3 * np.diff(times))
    stop = max(ends, default=first)
    frame = pl.DataFrame(rows, schema=_SCHEMA)
    return Measured(
        name=run.name,
        requests=frame,
        itl_ms=np.concatenate(gaps) if gaps else np.array([]),
        duration_s=stop - first,
        complete=complete,
        gauges=_gauges(run, first, stop),
        remarks=tuple(_remarks(run, complete)),
    )


_SCHEMA = {
    "arrival_s": pl.Float64,
    "adapter": pl.UInt32,
    "rank": pl.Int64,
    "prompt_tokens": pl.Int64,
    "output_tokens": pl.Int64,
    "ttft_ms": pl.Float64,
    "tpot_ms": pl.Float64,
    "e2el_ms": pl.Float64,
}


def _begin(request: Request) -> float:
    return request.arrival_s if request.sent_s is None else request.sent_s


def _row(run: RecordedRun, request: Request, first: float, times: FloatArray) -> dict[str, Any]:
    begin = _begin(request)
    done = request.status in {"length", "stop"} and len(times) > 0
    # A request cut off by the recording's end would have gone on.
    outputs = request.max_tokens if request.status == "unfinished" else request.output_tokens
    between = request.output_tokens - 1
    return {
        "arrival_s": begin - first,
        "adapter": request.adapter,
        "rank": run.ranks.get(request.adapter),
        "prompt_tokens": request.prompt_tokens,
        "output_tokens": outputs,
        "ttft_ms": 1e3 * (times[0] - begin) if done else None,
        "tpot_ms": 1e3 * (times[-1] - times[0]) / between if done and between > 0 else None,
        "e2el_ms": 1e3 * (times[-1] - begin) if done else None,
    }


def _token_times(run: RecordedRun, request: Request) -> FloatArray:
    """At the client where it tells, else the ends of the engine's steps."""
    if request.token_times_s is not None:
        return request.token_times_s
    return _engine_times(run).get(request.id, np.array([]))


_CACHE: dict[int, dict[str, FloatArray]] = {}


def _engine_times(run: RecordedRun) -> dict[str, FloatArray]:
    known = _CACHE.get(id(run))
    if known is None:
        prompt = {request.id: request.prompt_tokens for request in run.requests}
        times: dict[str, list[float]] = {}
        for step in run.recording.step_events:
            if step.t3 is None:
                continue
            for rid, tokens, position, _ in step.sched:
                if position + tokens >= prompt[rid] + len(times.get(rid, ())):
                    times.setdefault(rid, []).append(step.t3)
        known = {rid: np.array(values) for rid, values in times.items()}
        _CACHE.clear()
        _CACHE[id(run)] = known
    return known


def _gauges(run: RecordedRun, first: float, stop: float) -> dict[str, float]:
    """Averages over time, from the first arrival to the last token; an idle engine counts as 0."""
    steps = run.steps
    start = steps["start_s"]
    # Until the next schedule(), or the step's own end where the engine then went idle.
    until = np.append(start[1:], stop)
    held = np.maximum(np.fmin(steps["end_s"], until) - start, 0.0)
    span = max(stop - first, 1e-9)
    return {
        "mean_running": float((steps["running"] * held).sum() / span),
        "max_running": float(steps["running"].max()),
        "mean_waiting": float((steps["waiting"] * held).sum() / span),
        "max_waiting": float(steps["waiting"].max()),
        "preemptions": float(sum(len(step.preempted) for step in run.recording.step_events)),
        "lora_loads_disk": float(steps["loads_disk"].sum()),
        "lora_loads_memory": float(steps["loads_memory"].sum()),
    }


def _remarks(run: RecordedRun, complete: bool) -> list[str]:
    remarks = list(run.warnings)
    if run.client is None:
        remarks.append("latencies are the engine's (no client's times): the way out is not in them")
    elif run.client.kind == "api":
        remarks.append("latencies are the API server's: the way to the client is not in them")
    aborted = sum(request.status == "abort" for request in run.requests)
    if aborted:
        remarks.append(
            f"{aborted} aborted requests are played back with the tokens that they got, as if "
            "these had been asked for"
        )
    if not complete:
        remarks.append("the recording ends with requests in flight: simulated up to the same time")
    hits = sum(
        first > 0 for step in run.recording.step_events for _, _, first, kind in step.sched
        if kind == "N"
    )  # fmt: skip
    if hits:
        remarks.append(
            f"{hits} prompts found a cached prefix; the twin's arrivals share none, so its prefill "
            "is longer"
        )
    unknown = {r.adapter for r in run.requests if r.adapter and r.adapter not in run.ranks}
    if unknown:
        remarks.append(
            f"{len(unknown)} adapters of unknown rank are taken at max_lora_rank "
            f"({run.max_lora_rank})"
        )
    if run.config.get("policy") == "priority":
        remarks.append("priorities are not played back: every request has the same")
    return remarks
