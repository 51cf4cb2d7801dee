"""What the first worker does, followed there (vLLM 0.32, v1/worker and lora)."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from types import ModuleType
from typing import Any

from . import events as ev
from .device import worker_of
from .engine_tap import STEP
from .hooks import Patch, Place, guarded, wrap

_now = time.monotonic
_PENDING_EVENTS = 64  # CUDA events that wait to be read; beyond that the oldest are given up


class WorkerTap:
    """Follows one worker. Methods are called on its thread."""

    def __init__(self, place: Place, wrapper: Any) -> None:
        config = wrapper.vllm_config
        rank = int(getattr(config.parallel_config, "data_parallel_index", 0) or 0)
        base = place.run if rank == 0 else f"{place.run}-dp{rank}"
        self.writer = place.writer
        self._wrapper = wrapper
        self._channel, run = place.writer.open(place.base, base, "worker.jsonl")
        self._channel.put(ev.File(format=ev.FORMAT, run=run, t=_now()))
        self._told = False
        self._k = 0
        self._order: list[int] = []
        self._loaded: set[int] = set()  # adapters read from disk; the others are vLLM's dummies
        self._evicting = False
        self._clock = GpuClock()

    def _put(self, event: ev.Event) -> None:
        if not self._told:  # by the first event the model and its caches are in place
            self._told = True
            self._channel.put(worker_of(self._wrapper))
        self._channel.put(event)

    @guarded
    def begin(self) -> None:
        """Before execute_model()."""
        self._order = []
        self._clock.begin(self._k)

    @guarded
    def executed(self, output: Any, t: float, dt: float, sampled: bool) -> None:
        """After execute_model(); `sampled`: it returned the tokens as well."""
        counts = output.num_scheduled_tokens
        self._put(
            ev.Exec(
                k=self._k,
                t=t,
                dt=dt,
                tokens=output.total_num_scheduled_tokens,
                reqs=len(counts),
                lora_order=self._order,
                step=getattr(output, STEP, None),
            )
        )
        self._k += 1
        if sampled:
            self._timed()

    @guarded
    def sampled(self, t: float, dt: float) -> None:
        """After sample_tokens()."""
        self._put(ev.Sample(t=t, dt=dt))
        self._timed()

    def _timed(self) -> None:
        for k, dt in self._clock.end():
            self._put(ev.Gpu(k=k, dt=dt))

    @guarded
    def visiting(self, requests: Any) -> None:
        """Before _apply_adapters(): the order in which the set will be walked."""
        self._order = [request.lora_int_id for request in requests if request]

    @guarded
    def loaded(self, lora_id: int, rank: int, t: float, dt: float) -> None:
        """After _load_adapter()."""
        self._loaded.add(lora_id)
        self._put(ev.LoraLoad(t=t, id=lora_id, dt=dt, rank=rank))

    @guarded
    def activated(self, lora_id: int, slots: Any, t: float, dt: float) -> None:
        """After activate_adapter() that had to copy."""
        if lora_id in self._loaded:
            self._put(ev.LoraActivate(t=t, id=lora_id, slot=slots.index(lora_id), dt=dt))

    @guarded
    def deactivating(self, lora_id: int, slots: Any) -> None:
        """Before _deactivate_adapter()."""
        if lora_id in self._loaded and lora_id in slots:
            self._put(ev.LoraDeactivate(t=_now(), id=lora_id))

    @guarded
    def evicting(self, begins: bool) -> None:
        """Around remove_oldest_adapter()."""
        self._evicting = begins

    @guarded
    def removing(self, lora_id: int, model: Any) -> None:
        """Before _on_remove() of either cache; only the CPU cache holds models."""
        if self._evicting and model is not None and lora_id in self._loaded:
            self._put(ev.LoraEvict(t=_now(), id=lora_id))


class GpuClock:
    """Times executions with CUDA events: no synchronisation, read when they have passed.

    With async scheduling the host runs ahead of the GPU, so a host time says little. An event pair
    around a step does: its first event passes when the step before has left the GPU.
    """

    def __init__(self) -> None:
        torch: Any = sys.modules.get("torch")
        self._event: Any = None
        if torch is not None and torch.cuda.is_available() is True:
            self._event = torch.cuda.Event
        self._first: Any = None
        self._k = 0
        self._waiting: deque[tuple[int, Any, Any]] = deque()

    def begin(self, k: int) -> None:
        """Marks the start of execution `k` on the current stream."""
        if self._event is not None:
            self._k, self._first = k, self._event(enable_timing=True)
            self._first.record()

    def end(self) -> list[tuple[int, float]]:
        """Marks the end; the executions that have been measured by now, (k, seconds)."""
        if self._event is None:
            return []
        if self._first is not None:
            last = self._event(enable_timing=True)
            last.record()
            self._waiting.append((self._k, self._first, last))
            self._first = None
        done: list[tuple[int, float]] = []
        while self._waiting and self._waiting[0][2].query():
            k, first, last = self._waiting.popleft()
            done.append((k, first.elapsed_time(last) / 1000.0))
        if len(self._waiting) > _PENDING_EVENTS:
            self._waiting.popleft()
        return done


# One worker per process follows its own adapters; the LoRA classes know nothing of workers.
_current: list[WorkerTap] = []


def _tap() -> WorkerTap | None:
    return _current[-1] if _current and _current[-1].writer.active else None


def follow_steps(place: Place) -> Patch:
    """Follows the first rank's worker from the moment its caches exist."""

    def initialized(original: Callable[..., Any]) -> Callable[..., Any]:
        def initialize_from_config(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(self, *args, **kwargs)
            if place.writer.active and self.global_rank == 0:
                try:
                    _current.append(WorkerTap(place, self))
                except Exception as error:
                    place.writer.fail(f"the worker: {type(error).__name__}: {error}")
            return result

        return initialize_from_config

    def execute(original: Callable[..., Any]) -> Callable[..., Any]:
        def execute_model(self: Any, output: Any, *args: Any, **kwargs: Any) -> Any:
            tap = _tap()
            if tap is None:
                return original(self, output, *args, **kwargs)
            tap.begin()
            t = _now()
            result = original(self, output, *args, **kwargs)
            tap.executed(output, t, _now() - t, result is not None)
            return result

        return execute_model

    def patch(module: ModuleType) -> None:
        wrap(module.WorkerWrapperBase, "initialize_from_config", initialized)
        wrap(module.WorkerWrapperBase, "execute_model", execute)

    return patch


def follow_sampling(place: Place) -> Patch:
    """Follows sample_tokens(), which the GPU's and the CPU's worker share."""
    del place

    def sample(original: Callable[..., Any]) -> Callable[..., Any]:
        def sample_tokens(self: Any, *args: Any, **kwargs: Any) -> Any:
            tap = _tap()
            if tap is None:
                return original(self, *args, **kwargs)
            t = _now()
            result = original(self, *args, **kwargs)
            tap.sampled(t, _now() - t)
            return result

        return sample_tokens

    def patch(module: ModuleType) -> None:
        wrap(module.Worker, "sample_tokens", sample)

    return patch


def follow_loads(place: Place) -> Patch:
    """Follows the worker's LoRA manager: the order of a step's adapters, reads from disk."""
    del place

    def apply(original: Callable[..., Any]) -> Callable[..., Any]:
        def _apply_adapters(self: Any, requests: Any, *args: Any, **kwargs: Any) -> Any:
            tap = _tap()
            if tap is not None:
                tap.visiting(requests)
            return original(self, requests, *args, **kwargs)

        return _apply_adapters

    def load(original: Callable[..., Any]) -> Callable[..., Any]:
        def _load_adapter(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            t = _now()
            model = original(self, request, *args, **kwargs)
            tap = _tap()
            if tap is not None:
                tap.loaded(request.lora_int_id, getattr(model, "rank", 0), t, _now() - t)
            return model

        return _load_adapter

    def patch(module: ModuleType) -> None:
        wrap(module.LRUCacheWorkerLoRAManager, "_apply_adapters", apply)
        wrap(module.WorkerLoRAManager, "_load_adapter", load)

    return patch


def follow_slots(place: Place) -> Patch:
    """Follows both LRU caches of adapters."""
    del place

    def patch(module: ModuleType) -> None:
        wrap(module.LRUCacheLoRAModelManager, "activate_adapter", _activated)
        wrap(module.LRUCacheLoRAModelManager, "remove_oldest_adapter", _evicting)
        wrap(module.LoRAModelManager, "_deactivate_adapter", _deactivating)
        wrap(module.AdapterLRUCache, "_on_remove", _removing)

    return patch


def _activated(original: Callable[..., Any]) -> Callable[..., Any]:
    def activate_adapter(self: Any, lora_id: int, *args: Any, **kwargs: Any) -> Any:
        t = _now()
        copied = original(self, lora_id, *args, **kwargs)
        tap = _tap()
        if copied and tap is not None:
            tap.activated(lora_id, self.lora_index_to_id, t, _now() - t)
        return copied

    return activate_adapter


def _deactivating(original: Callable[..., Any]) -> Callable[..., Any]:
    def _deactivate_adapter(self: Any, lora_id: int, *args: Any, **kwargs: Any) -> Any:
        tap = _tap()
        if tap is not None:
            tap.deactivating(lora_id, self.lora_index_to_id)
        return original(self, lora_id, *args, **kwargs)

    return _deactivate_adapter


def _evicting(original: Callable[..., Any]) -> Callable[..., Any]:
    def remove_oldest_adapter(self: Any, *args: Any, **kwargs: Any) -> Any:
        tap = _tap()
        if tap is None:
            return original(self, *args, **kwargs)
        tap.evicting(True)
        try:
            return original(self, *args, **kwargs)
        finally:
            tap.evicting(False)

    return remove_oldest_adapter


def _removing(original: Callable[..., Any]) -> Callable[..., Any]:
    def _on_remove(self: Any, key: int, value: Any, *args: Any, **kwargs: Any) -> Any:
        tap = _tap()
        if tap is not None:
            tap.removing(key, value)
        return original(self, key, value, *args, **kwargs)

    return _on_remove
