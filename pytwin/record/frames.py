"""A recording as Polars frames. Times are seconds of the machine's monotonic clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from . import events as ev

if TYPE_CHECKING:
    from .read import Execution, Recording

STEPS: dict[str, Any] = {
    "step": pl.Int64,  # the engine's iteration; those without a batch have no row
    "schedule_start_s": pl.Float64,
    "schedule_end_s": pl.Float64,
    "update_start_s": pl.Float64,  # the step's output had come back; null if it never did
    "update_end_s": pl.Float64,
    "tokens": pl.Int64,
    "sequences": pl.Int64,
    "prefill_tokens": pl.Int64,  # of sequences that had known tokens to compute before
    "prefill_sequences": pl.Int64,
    "prefill_context_tokens": pl.Int64,  # sum of the positions at which those prefills began
    "decode_sequences": pl.Int64,
    "decode_context_tokens": pl.Int64,  # sum of the positions of the tokens decoded
    "adapters": pl.Int64,  # distinct in the batch
    "lora_sequences": pl.Int64,  # sequences with an adapter
    "lora_tokens": pl.Int64,
    "max_rank": pl.Int64,  # of the batch's adapters; null where a rank is unknown, 0: none
    "running": pl.Int64,  # after schedule()
    "waiting": pl.Int64,
    "skipped": pl.Int64,
    "free_blocks": pl.Int64,
    "preempted": pl.Int64,
    "added": pl.Int64,
    "finished": pl.Int64,
    "exec_start_s": pl.Float64,  # execute_model(), host time; null without a worker's file
    "exec_s": pl.Float64,
    "sample_s": pl.Float64,
    "gpu_s": pl.Float64,  # between CUDA events; null on a CPU
    "loads": pl.Int64,  # adapters read from disk within the step
    "load_s": pl.Float64,
    "activations": pl.Int64,  # adapters copied into a slot within the step
    "activate_s": pl.Float64,
}
BATCHES: dict[str, Any] = {
    "step": pl.Int64,
    "request_id": pl.String,
    "tokens": pl.Int64,
    "position": pl.Int64,  # of the first of the tokens
    "kind": pl.String,  # N new, R resumed, C continued
    "decode": pl.Boolean,
    "lora_id": pl.Int64,
}
REQUESTS: dict[str, Any] = {
    "request_id": pl.String,
    "lora_id": pl.Int64,  # null: the base model
    "adapter": pl.String,  # its name, where the recording tells
    "arrival_s": pl.Float64,  # at the API server, on the monotonic clock
    "queued_s": pl.Float64,  # at the scheduler
    "arrival_step": pl.Int64,  # the next schedule()
    "prompt_tokens": pl.Int64,
    "max_tokens": pl.Int64,
    "priority": pl.Int64,
    "cached_tokens": pl.Int64,  # found in the prefix cache when first scheduled
    "first_scheduled_s": pl.Float64,
    "first_token_s": pl.Float64,  # update end of the step that computed the prompt's last token
    "finished_s": pl.Float64,
    "finish_reason": pl.String,  # length, stop, abort, ...; null: still in flight
    "output_tokens": pl.Int64,
    "preemptions": pl.Int64,
    "served_ttft_s": pl.Float64,  # as the API server saw it, where it was recorded
    "served_e2e_s": pl.Float64,
}
ADAPTER_EVENTS: dict[str, Any] = {
    "t_s": pl.Float64,
    "event": pl.String,  # load, activate, evict_cpu, deactivate
    "lora_id": pl.Int64,
    "rank": pl.Int64,
    "slot": pl.Int64,
    "duration_s": pl.Float64,
    "step": pl.Int64,  # null: before the first step, or between two
}


def ranks(recording: Recording) -> dict[int, int]:
    """The rank of every adapter that was loaded while recording."""
    return {e.id: e.rank for e in recording.of(ev.LoraLoad) if e.rank is not None}


def steps(recording: Recording) -> pl.DataFrame:
    """One row per non-empty step; see `STEPS`."""
    executions, rank_of = recording.executions, ranks(recording)
    requests = {e.id: e for e in recording.of(ev.Req)}
    rows = [
        _step_row(step, requests, rank_of, executions.get(step.i))
        for step in recording.step_events
        if step.sched
    ]
    return pl.DataFrame(rows, schema=STEPS, orient="row")


def _step_row(
    step: ev.Step,
    requests: dict[str, ev.Req],
    rank_of: dict[int, int],
    execution: Execution | None,
) -> tuple[Any, ...]:
    prefill = prefills = prefill_context = decodes = decode_context = lora = lora_tokens = 0
    for rid, tokens, first, kind in step.sched:
        request = requests[rid]
        if _is_decode(request, tokens, first, kind):
            decodes += 1
            decode_context += first
        else:
            prefill += tokens
            prefills += 1
            prefill_context += first
        if request.lora:
            lora += 1
            lora_tokens += tokens
    known = [rank_of.get(adapter) for adapter in step.loras]
    max_rank = max((r for r in known if r is not None), default=0) if None not in known else None
    return (
        step.i, step.t0, step.t1, step.t2, step.t3, step.tokens, len(step.sched),
        prefill, prefills, prefill_context, decodes, decode_context,
        len(step.loras), lora, lora_tokens, max_rank,
        step.nrun, step.nwait, step.nskip, step.free,
        len(step.preempted), len(step.added), len(step.fin), *_execution_cells(execution),
    )  # fmt: skip


def _execution_cells(execution: Execution | None) -> tuple[Any, ...]:
    if execution is None:
        return (None,) * 8
    loads = [e.dt for e in execution.lora if isinstance(e, ev.LoraLoad)]
    activations = [e.dt for e in execution.lora if isinstance(e, ev.LoraActivate)]
    call = execution.call
    return (
        call.t, call.dt, execution.sample_s, execution.gpu_s,
        len(loads), float(sum(loads)), len(activations), float(sum(activations)),
    )  # fmt: skip


def _is_decode(request: ev.Req, tokens: int, first: int, kind: str) -> bool:
    """One token behind the whole prompt; a preempted request's recomputation is a prefill."""
    return kind == "C" and tokens == 1 and first >= request.prompt


def batches(recording: Recording) -> pl.DataFrame:
    """One row per step and request; see `BATCHES`."""
    requests = {e.id: e for e in recording.of(ev.Req)}
    rows = [
        (step.i, rid, tokens, first, kind, _is_decode(requests[rid], tokens, first, kind),
         requests[rid].lora or None)
        for step in recording.step_events
        for rid, tokens, first, kind in step.sched
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=BATCHES, orient="row")


def requests(recording: Recording) -> pl.DataFrame:
    """One row per request, in the order of arrival at the scheduler; see `REQUESTS`."""
    header = recording.header
    cached: dict[str, int] = {}
    begun: dict[str, float] = {}
    first_token: dict[str, float] = {}
    end: dict[str, tuple[float | None, str | None, int | None]] = {}
    preemptions: dict[str, int] = {}
    requests = {e.id: e for e in recording.of(ev.Req)}
    for step in recording.step_events:
        for rid in step.preempted:
            preemptions[rid] = preemptions.get(rid, 0) + 1
        for rid, tokens, first, kind in step.sched:
            if kind == "N":
                begun[rid], cached[rid] = step.t0, first
            if rid not in first_token and first + tokens >= requests[rid].prompt and step.t3:
                first_token[rid] = step.t3
        for rid, told in step.fin.items():
            end[rid] = (step.t3, *told)
    for abort in recording.of(ev.Abort):
        end[abort.id] = (abort.t, abort.reason, abort.out)
    names = {e.id: e.name for e in recording.of(ev.Adapter)}
    served = {e.id: e for e in recording.of(ev.Served)}
    rows = []
    for rid, e in requests.items():
        finished, reason, out = end.get(rid, (None, None, None))
        seen = served.get(rid)
        rows.append((
            rid, e.lora or None, names.get(e.lora or 0), e.arrival - header.unix + header.t, e.t,
            e.step, e.prompt, e.max_tokens, e.priority, cached.get(rid), begun.get(rid),
            first_token.get(rid), finished, reason, out, preemptions.get(rid, 0),
            seen.ttft if seen else None, seen.e2e if seen else None,
        ))  # fmt: skip
    return pl.DataFrame(rows, schema=REQUESTS, orient="row")


def adapter_events(recording: Recording) -> pl.DataFrame:
    """One row per event of the two adapter caches; see `ADAPTER_EVENTS`."""
    step_of = {
        id(event): i for i, execution in recording.executions.items() for event in execution.lora
    }
    rows = []
    for event in recording.events.get("worker.jsonl", []):
        cells: tuple[Any, ...]
        match event:
            case ev.LoraLoad():
                cells = ("load", event.id, event.rank, None, event.dt)
            case ev.LoraActivate():
                cells = ("activate", event.id, None, event.slot, event.dt)
            case ev.LoraEvict():
                cells = ("evict_cpu", event.id, None, None, None)
            case ev.LoraDeactivate():
                cells = ("deactivate", event.id, None, None, None)
            case _:
                continue
        rows.append((event.t, *cells, step_of.get(id(event))))
    return pl.DataFrame(rows, schema=ADAPTER_EVENTS, orient="row")
