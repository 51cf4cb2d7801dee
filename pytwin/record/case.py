"""A recording as a conformance case: what arrived, and when in terms of scheduler iterations."""

from __future__ import annotations

import random
from typing import Any

from . import events as ev
from .read import Recording, RecordingError

Json = dict[str, Any]
FIRST_TOKEN, END_TOKEN = 10, 30_000  # as the cases' own made-up prompts
_UNFORESEEN = ("stop", "repetition")  # ends that the scheduler cannot foresee


def case_of(recording: Recording) -> Json:
    """The run as a case (config, requests, aborts, lora_preload, lora_order).

    Where prefix caching is on, prompts are made up from the recorded block hashes: equal blocks
    get equal tokens, which is all that a cache can tell apart.

    Raises:
        RecordingError: the server used features that the twin has no setting for.
    """
    header = recording.header
    if header.unmodelled:
        raise RecordingError(f"{recording.path} used {', '.join(header.unmodelled)}: the twin does "
                             "not model that, so its decisions cannot be compared")  # fmt: skip
    ends = {
        rid: (reason, out) for step in recording.step_events for rid, (reason, out) in
        step.fin.items()
    }  # fmt: skip
    order = {
        str(i): execution.call.lora_order
        for i, execution in recording.executions.items()
        if execution.call.lora_order
    }
    return {
        "config": header.config,
        "requests": [_request(e, ends, recording) for e in recording.of(ev.Req)],
        "aborts": [{"step": e.step, "id": e.id} for e in recording.of(ev.Abort)],
        "lora_preload": recording.preloaded,
        "lora_order": order,
    }


def _request(event: ev.Req, ends: dict[str, tuple[str, int]], recording: Recording) -> Json:
    request: Json = {
        "id": event.id,
        "arrival_step": event.step,
        "prompt_len": event.prompt,
        "max_tokens": event.max_tokens,
        "priority": event.priority,
        "arrival_time": event.arrival,
    }
    if event.blocks is not None:
        size = recording.header.kv.get("hash_block_size") or recording.header.config["block_size"]
        request["prompt_token_ids"] = prompt_tokens(event, int(size))
    if event.lora:
        request["lora_id"] = event.lora
    reason, outputs = ends.get(event.id, ("", 0))
    if reason in _UNFORESEEN:
        request["stop_at"] = outputs
    return request


def prompt_tokens(event: ev.Req, block_size: int) -> list[int]:
    """Token ids that are equal where the recorded prompts were, block by block."""
    tokens: list[int] = []
    for block_hash in event.blocks or ():
        tokens += _made_up(block_hash, block_size)
    return tokens + _made_up(event.id, event.prompt - len(tokens))


def _made_up(seed: str, count: int) -> list[int]:
    stream = random.Random(seed)  # noqa: S311 -- repeatable, not secret
    return [stream.randrange(FIRST_TOKEN, END_TOKEN) for _ in range(count)]
