"""What a worker runs on, and what its model, adapters and cache take there."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from . import events as ev


def worker_of(wrapper: Any) -> ev.Worker:
    """The `worker` line of a vLLM worker; what cannot be found out stays None."""
    torch: Any = sys.modules.get("torch")
    told = ev.Worker(rank=int(wrapper.global_rank))
    for find_out in (_device, _memory):
        # A fact that cannot be had is no reason to give up the recording.
        with contextlib.suppress(Exception):
            find_out(told, wrapper, torch)
    return told


def _device(told: ev.Worker, wrapper: Any, torch: Any) -> None:
    del wrapper
    if torch is not None and torch.cuda.is_available() is True:
        device = torch.cuda.current_device()
        told.device = str(torch.cuda.get_device_name(device))
        told.device_memory = int(torch.cuda.get_device_properties(device).total_memory)
    else:
        told.device = _processor()
        told.device_memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if torch is not None:
        told.torch = str(torch.__version__)
        told.threads = int(torch.get_num_threads())


def _memory(told: ev.Worker, wrapper: Any, torch: Any) -> None:
    del torch
    runner = wrapper.model_runner
    told.weights = _bytes(runner.model.parameters())
    told.kv = _bytes(_flat(runner.kv_caches)) or None
    manager = getattr(getattr(runner, "lora_manager", None), "_adapter_manager", None)
    if manager is not None:
        told.lora = _bytes(_slot_tensors(manager.modules.values()))


def _processor() -> str:
    """The processor's name, as Linux tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = (line.partition(":")[2].strip() for line in file if "model name" in line)
            return next(names, platform.machine())
    except OSError:
        return platform.machine()


def _slot_tensors(layers: Iterable[Any]) -> Iterator[Any]:
    """The slots' tensors of LoRA layers: attributes such as lora_a_stacked."""
    for layer in layers:
        for name, value in vars(layer).items():
            if name.startswith("lora_"):
                yield from _flat([value])


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        elif hasattr(value, "untyped_storage"):
            yield value


def _bytes(tensors: Iterable[Any]) -> int:
    """What the tensors occupy, shared storage once."""
    sizes = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = int(storage.nbytes())
    return sum(sizes.values())
