"""What the scheduler decides, followed in the engine core (vLLM 0.32, v1/core/sched)."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from . import events as ev
from .facts import header_of
from .hooks import Patch, Place, Wrapper, guarded, wrap

_now = time.monotonic
_ATTRIBUTE = "_pytwin_tap"
STEP = "pytwin_step"  # set on SchedulerOutput, so that the worker can name the step


class EngineTap:
    """Follows one scheduler. Methods are called on the engine core's thread."""

    def __init__(self, place: Place, scheduler: Any) -> None:
        rank = int(getattr(scheduler.vllm_config.parallel_config, "data_parallel_index", 0) or 0)
        base = place.run if rank == 0 else f"{place.run}-dp{rank}"
        self.writer = place.writer
        self.scheduler = scheduler
        self.i = 0  # iterations of the engine so far
        self._scheduled = False  # in this iteration
        self._steps, run = place.writer.open(place.base, base, "steps.jsonl")
        self._requests, _ = place.writer.open(place.base, base, "requests.jsonl")
        now = _now()
        self._steps.put(header_of(scheduler, run, now))
        self._requests.put(ev.File(format=ev.FORMAT, run=run, t=now))
        self._block_hashes = bool(scheduler.cache_config.enable_prefix_caching)
        self._lora: dict[str, int] = {}  # of the requests that are not finished, adapter or 0
        self._begun: set[str] = set()  # scheduled before
        self._named: set[int] = set()
        self._added: list[str] = []
        self._preempted: list[str] = []
        self._finished: dict[str, tuple[str, int]] | None = None  # within an update
        self._open: dict[int, tuple[Any, ev.Step]] = {}  # scheduled, not updated; keeps the output

    @guarded
    def arrived(self, request: Any) -> None:
        """After add_request()."""
        rid = request.request_id
        if rid in self._lora:
            raise NotImplementedError("a request whose prompt comes in pieces is not recorded")
        lora = request.lora_request
        adapter = lora.lora_int_id if lora else None
        self._lora[rid] = adapter or 0
        self._added.append(rid)
        hashes = [_short(h) for h in request.block_hashes] if self._block_hashes else None
        self._requests.put(
            ev.Req(
                t=_now(),
                id=rid,
                step=self.i,
                arrival=request.arrival_time,
                prompt=request.num_prompt_tokens,
                max_tokens=request.max_tokens,
                priority=request.priority,
                lora=adapter,
                blocks=hashes,
            )
        )
        if adapter and adapter not in self._named:
            self._named.add(adapter)
            self._requests.put(ev.Adapter(id=adapter, name=str(lora.lora_name)))

    @guarded
    def preempted(self, request: Any) -> None:
        """After _preempt_request()."""
        self._preempted.append(request.request_id)

    @guarded
    def freed(self, request: Any) -> None:
        """After _free_request(): the request ended, in an update or because it was cancelled."""
        rid = request.request_id
        if self._lora.pop(rid, None) is None:
            return
        self._begun.discard(rid)
        reason, out = str(request.get_finished_reason()), request.num_output_tokens
        if self._finished is not None:
            self._finished[rid] = (reason, out)
        else:
            self._requests.put(ev.Abort(t=_now(), id=rid, step=self.i, reason=reason, out=out))

    @guarded
    def scheduled(self, output: Any, t0: float, t1: float) -> None:
        """After schedule()."""
        scheduler, counts = self.scheduler, output.num_scheduled_tokens
        i, self.i = self.i, self.i + 1
        self._scheduled = True
        added, self._added = self._added, []
        preempted, self._preempted = self._preempted, []
        if not (counts or added or preempted):
            return
        cached = output.scheduled_cached_reqs
        position = dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        kinds = dict.fromkeys(cached.resumed_req_ids, "R")
        for new in output.scheduled_new_reqs:
            # The second model runner is given resumed requests as if they were new.
            kinds[new.req_id] = "R" if new.req_id in self._begun else "N"
            position[new.req_id] = new.num_computed_tokens
            self._begun.add(new.req_id)
        kind, lora = kinds.get, self._lora
        step = ev.Step(
            i=i,
            t0=t0,
            t1=t1,
            added=added,
            sched=[(rid, n, position[rid], kind(rid, "C")) for rid, n in counts.items()],
            tokens=output.total_num_scheduled_tokens,
            preempted=preempted,
            nrun=len(scheduler.running),
            nwait=len(scheduler.waiting) + len(scheduler.kv_holding_waiting),
            nskip=len(scheduler.deferred_waiting),
            free=scheduler.kv_cache_manager.block_pool.get_num_free_blocks(),
            loras=sorted({lora[rid] for rid in counts} - {0}),
        )
        if counts:
            self._open[id(output)] = (output, step)
            setattr(output, STEP, i)
        else:
            self._steps.put(step)

    @guarded
    def updating(self) -> None:
        """Before update_from_output()."""
        self._finished = {}

    @guarded
    def updated(self, output: Any, t2: float, t3: float) -> None:
        """After update_from_output()."""
        finished, self._finished = self._finished, None
        # With async scheduling an iteration may only collect: vLLM 0.32 v1/engine/core.py
        # step_with_batch_queue(), when nothing is left to schedule.
        self.i += not self._scheduled
        self._scheduled = False
        _, step = self._open.pop(id(output), (None, None))
        if step is not None:
            step.t2, step.t3, step.fin = t2, t3, finished or {}
            self._steps.put(step)


def _short(block_hash: Any) -> str:
    """Eight bytes of a block's hash: equal blocks, equal text."""
    if isinstance(block_hash, bytes | bytearray):
        return bytes(block_hash[:8]).hex()
    return format(hash(block_hash) & 0xFFFFFFFFFFFFFFFF, "016x")


def _tap(scheduler: Any) -> EngineTap | None:
    tap: EngineTap | None = scheduler.__dict__.get(_ATTRIBUTE)
    return tap if tap is not None and tap.writer.active else None


def follow(place: Place) -> Patch:
    """Follows every Scheduler that this process makes."""

    def patch(module: ModuleType) -> None:
        scheduler = module.Scheduler
        wrap(scheduler, "__init__", _made(place))
        wrap(scheduler, "schedule", _scheduled)
        wrap(scheduler, "update_from_output", _updated)
        wrap(scheduler, "add_request", _after("arrived"))
        wrap(scheduler, "_preempt_request", _after("preempted"))
        wrap(scheduler, "_free_request", _after("freed"))
        wrap(scheduler, "shutdown", _flushed(place))

    return patch


# The wrappers call the original outside of any guard of ours: its errors are the server's.


def _made(place: Place) -> Wrapper:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            original(self, *args, **kwargs)
            if place.writer.active:
                try:
                    self.__dict__[_ATTRIBUTE] = EngineTap(place, self)
                except Exception as error:  # the server must start
                    place.writer.fail(f"the engine core: {type(error).__name__}: {error}")

        return __init__

    return make


def _scheduled(original: Callable[..., Any]) -> Callable[..., Any]:
    def schedule(self: Any, *args: Any, **kwargs: Any) -> Any:
        tap = _tap(self)
        if tap is None:
            return original(self, *args, **kwargs)
        t0 = _now()
        output = original(self, *args, **kwargs)
        tap.scheduled(output, t0, _now())
        return output

    return schedule


def _updated(original: Callable[..., Any]) -> Callable[..., Any]:
    def update_from_output(self: Any, output: Any, *args: Any, **kwargs: Any) -> Any:
        tap = _tap(self)
        if tap is None:
            return original(self, output, *args, **kwargs)
        tap.updating()
        t2 = _now()
        result = original(self, output, *args, **kwargs)
        tap.updated(output, t2, _now())
        return result

    return update_from_output


def _after(name: str) -> Wrapper:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def method(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(self, request, *args, **kwargs)
            tap = _tap(self)
            if tap is not None:
                getattr(tap, name)(request)
            return result

        return method

    return make


def _flushed(place: Place) -> Wrapper:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def shutdown(self: Any, *args: Any, **kwargs: Any) -> Any:
            if _tap(self) is not None:
                place.writer.flush()
            return original(self, *args, **kwargs)

        return shutdown

    return make
