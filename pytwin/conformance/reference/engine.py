"""One engine core around vLLM's scheduler: arrivals, schedule(), a made-up model, update.

An iteration is one call of EngineCore.step, or with asynchronous scheduling one of
step_with_batch_queue: the output of iteration i is applied in iteration i+1, after schedule(), as
vLLM's batch queue of depth 2 does. The trace has one JSON object a line: a header, one object per
iteration, a summary; docs/conformance.md lists the fields.
"""

from __future__ import annotations

import os
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .lora import LoRAWorker, adapter
from .release import Release
from .settings import sampling_params

STOP_TOKEN = 7
FREE_HEAD = 4  # how many of the next free blocks a trace shows
STALLED_AFTER = 8  # idle iterations, with nothing left that could change anything

Record = dict[str, Any]


class StalledError(RuntimeError):
    """The case never ends: vLLM can never schedule what is left."""


def sampled_token(request_id: str, position: int) -> int:
    """The `position`-th output token (from 1) of a request: any fixed law does."""
    return 10 + zlib.crc32(f"{request_id}:{position}".encode()) % 29_990


class Engine:
    """Runs one materialised case on vLLM's scheduler."""

    def __init__(self, case: Mapping[str, Any], release: Release) -> None:
        self.release = release
        self.config: Mapping[str, Any] = case["config"]
        self.preempted: list[str] = []
        self.scheduler = release.scheduler(self.config, self.preempted)
        self.block_hasher = release.block_hasher(self.config)
        self.pending = deque(sorted(case["requests"], key=lambda r: r["arrival_step"]))
        self.aborts = deque(sorted(case["aborts"], key=lambda a: a["step"]))
        self.lora_order: Mapping[str, list[int]] = case["lora_order"]
        self.lora: LoRAWorker | None = None
        if self.config["max_loras"]:
            max_loras = self.config["max_loras"]
            self.lora = LoRAWorker(release, max_loras, self.config["max_cpu_loras"] or max_loras)
            for lora_id in case["lora_preload"]:
                self.lora.preload(lora_id)
        self.requests: dict[str, Any] = {}  # every request ever added: vLLM's object
        self.stop_at: dict[str, int | None] = {}
        self.table_lengths: dict[str, int] = {}
        self.batch_queue: deque[tuple[Any, list[str], list[bool]]] = deque()
        self.depth = 2 if self.config["async_scheduling"] else 1
        self.iteration = 0
        self.scheduler_seconds = 0.0

    def trace(self) -> Iterator[Record]:
        """The whole trace.

        Raises:
            StalledError: requests are left that can never be scheduled.
        """
        yield {
            "type": "header",
            "vllm": self.release.version,
            "config": dict(self.config),
            "requests": len(self.pending),
            "hash_seed": os.environ.get("PYTHONHASHSEED"),
        }
        started = time.perf_counter()
        steps = preemptions = tokens = idle = 0
        while (record := self.step()) is not None:
            steps += 1
            preemptions += len(record.get("preempted", ()))
            tokens += record.get("total_tokens", 0)
            yield record
            quiet = not (record.get("total_tokens") or record.get("output") or record["aborted"])
            idle = idle + 1 if quiet and not self.pending and not self.aborts else 0
            if idle > STALLED_AFTER:
                left = ", ".join(list(self.scheduler.requests)[:3])
                raise StalledError(f"requests {left} can never be scheduled: give them more room")
        yield {
            "type": "summary",
            "steps": steps,
            "preemptions": preemptions,
            "tokens": tokens,
            "unfinished": len(self.scheduler.requests),
            "seconds": round(time.perf_counter() - started, 3),
            "scheduler_seconds": round(self.scheduler_seconds, 6),
        }

    def step(self) -> Record | None:
        """One iteration, or None when nothing is left to do."""
        scheduler = self.scheduler
        if not scheduler.has_requests() and not self.batch_queue:
            if not self.pending:
                return None
            self.iteration = max(self.iteration, self.pending[0]["arrival_step"])
        record: Record = {
            "type": "step",
            "i": self.iteration,
            "added": self._add_arrivals(),
            "aborted": self._abort(),
        }
        self.iteration += 1
        wait = False
        if scheduler.has_requests():
            self.preempted.clear()
            before = {r.request_id: r.status for r in scheduler.requests.values()}
            output = self._timed(scheduler.schedule)
            self._record_schedule(record, output, before)
            ids = list(output.num_scheduled_tokens)
            # Whether a step yields a token is known when it is launched.
            yields = [self.release.yields_token(scheduler.requests[rid]) for rid in ids]
            self.batch_queue.append((output, ids, yields))
            launched = output.total_num_scheduled_tokens > 0
            wait = len(self.batch_queue) < self.depth and (launched or scheduler.has_requests())
        if not wait and self.batch_queue:
            self._update(record, *self.batch_queue.popleft())
        for rid in record["aborted"]:
            self.table_lengths.pop(rid, None)
        return record

    def _timed(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """A call into vLLM's own code, its processor time kept apart from the harness's."""
        started = time.process_time()
        result = call(*arguments)
        self.scheduler_seconds += time.process_time() - started
        return result

    def _add_arrivals(self) -> list[str]:
        added = []
        while self.pending and self.pending[0]["arrival_step"] <= self.iteration:
            case_request = self.pending.popleft()
            rid = case_request["id"]
            # Without prefix caching the tokens' values are never read.
            prompt = case_request.get("prompt_token_ids") or [10] * case_request["prompt_len"]
            lora_id = case_request["lora_id"]
            request = self.release.request(
                case_request,
                list(prompt),
                sampling_params(case_request["max_tokens"], STOP_TOKEN),
                adapter(self.release, lora_id) if lora_id else None,
                self.block_hasher,
            )
            self.requests[rid], self.stop_at[rid] = request, case_request["stop_at"]
            self._timed(self.scheduler.add_request, request)
            added.append(rid)
        return added

    def _abort(self) -> list[str]:
        aborted = []
        while self.aborts and self.aborts[0]["step"] <= self.iteration:
            rid = self.aborts.popleft()["id"]
            self.scheduler.finish_requests(rid, self.release.RequestStatus.FINISHED_ABORTED)
            aborted.append(rid)
        return aborted

    def _update(self, record: Record, output: Any, ids: list[str], yields: list[bool]) -> None:
        scheduler = self.scheduler
        live = {rid: self.requests[rid] for rid in ids if rid in scheduler.requests}
        tokens = [self._tokens(rid) if yes else [] for rid, yes in zip(ids, yields, strict=True)]
        sampled = self.release.model_output(ids, tokens)
        self._timed(scheduler.update_from_output, output, sampled)
        record["output"] = [r for r, yes in zip(ids, yields, strict=True) if yes and r in live]
        record["finished"] = {
            rid: str(request.get_finished_reason())
            for rid, request in live.items()
            if request.is_finished()
        }
        for rid in record["finished"]:
            self.table_lengths.pop(rid, None)
        record["free_blocks_after"] = self._free_blocks()

    def _tokens(self, rid: str) -> list[int]:
        position = self.requests[rid].num_output_tokens + 1
        return [STOP_TOKEN if position == self.stop_at[rid] else sampled_token(rid, position)]

    def _free_blocks(self) -> int:
        return int(self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks())

    def _record_schedule(self, record: Record, output: Any, before: Mapping[str, Any]) -> None:
        scheduler, status = self.scheduler, self.release.RequestStatus
        kinds = {status.WAITING: "N", status.PREEMPTED: "R", status.RUNNING: "C"}
        record["scheduled"] = [
            [rid, n, scheduler.requests[rid].num_computed_tokens - n, kinds[before[rid]]]
            for rid, n in output.num_scheduled_tokens.items()
        ]
        record["total_tokens"] = output.total_num_scheduled_tokens
        record["preempted"] = list(self.preempted)
        for rid in self.preempted:
            self.table_lengths.pop(rid, None)
        record["blocks"] = self._new_blocks(record["scheduled"])
        record["free_head"] = self.release.free_blocks_head(scheduler, FREE_HEAD)
        record["free_blocks"] = self._free_blocks()
        record["running"] = [request.request_id for request in scheduler.running]
        record["waiting"] = self.release.waiting(scheduler)
        if self.lora is not None:
            self._record_lora(record, output, self.lora)

    def _new_blocks(self, scheduled: list[list[Any]]) -> Record:
        blocks: Record = {}
        for rid, _, position, kind in scheduled:
            table = self.release.block_table(self.scheduler, rid)
            # Blocks found in the prefix cache come first in an admitted request's table.
            held = self.table_lengths.get(rid, 0)
            if kind != "C":
                held = position // self.config["block_size"]
            if len(table) > held or kind != "C":
                blocks[rid] = [held, table[held:]]
            self.table_lengths[rid] = len(table)
        return blocks

    def _record_lora(self, record: Record, output: Any, lora: LoRAWorker) -> None:
        # A set, as vLLM's model runner makes it: its order is what the worker sees.
        active = {self.scheduler.requests[rid].lora_request for rid in output.num_scheduled_tokens}
        active.discard(None)
        record["loras"] = sorted(request.lora_int_id for request in active)
        if not output.total_num_scheduled_tokens:
            return
        order = self.lora_order.get(str(record["i"]))
        if order is None:
            record.update(self._timed(lora.apply, active))
        else:
            by_id = {request.lora_int_id: request for request in active}
            record.update(self._timed(lora.apply, [by_id[lora_id] for lora_id in order]))
