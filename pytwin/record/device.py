"""What a worker runs on, and what its model, adapters and cache take there."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from . import events as ev


def worker_of(wrapper: Any) -> ev.Worker:
    """The `worker` line of a vLLM worker; what cannot be found out stays None."""
    torch: Any = sys.modules.get("torch")
    runner = getattr(wrapper, "model_runner", None)
    told = ev.Worker(rank=int(wrapper.global_rank), torch=str(getattr(torch, "__version__", "")))
    if torch is not None and torch.cuda.is_available():
        device = torch.cuda.current_device()
        told.device = str(torch.cuda.get_device_name(device))
        told.device_memory = int(torch.cuda.get_device_properties(device).total_memory)
    else:
        told.device = _processor()
        told.device_memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        told.threads = int(torch.get_num_threads()) if torch is not None else None
    model = getattr(runner, "model", None)
    if model is not None:
        told.weights = _bytes(model.parameters())
    manager = getattr(getattr(runner, "lora_manager", None), "_adapter_manager", None)
    if manager is not None:
        told.lora = _bytes(_slot_tensors(manager.modules.values()))
    caches = getattr(runner, "kv_caches", None)
    if caches:
        told.kv = _bytes(_flat(caches))
    return told


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
