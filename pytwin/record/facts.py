"""What a server is: its settings, model and memory, read from vLLM's own objects."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import Any

from . import events as ev

# Read for the twin's decisions; the names are those of a conformance case as well.
_SCHEDULER = (
    "max_num_seqs",
    "max_num_batched_tokens",
    "policy",
    "async_scheduling",
    "long_prefill_token_threshold",
    "long_prefill_token_threshold_adaptive",
    "enable_chunked_prefill",
    "max_num_scheduled_tokens",
    "max_num_active_seqs",
    "watermark",
    "scheduler_reserve_full_isl",
)
_MODEL = ("model", "tokenizer", "dtype", "quantization", "max_model_len", "enforce_eager", "seed")
_CACHE = (
    "block_size",
    "hash_block_size",
    "gpu_memory_utilization",
    "cache_dtype",
    "num_gpu_blocks",
    "num_gpu_blocks_override",
    "kv_cache_memory_bytes",
    "kv_cache_size_tokens",
    "prefix_caching_hash_algo",
)
_LORA = (
    "max_loras",
    "max_cpu_loras",
    "max_lora_rank",
    "lora_dtype",
    "fully_sharded_loras",
    "target_modules",
    "specialize_active_lora",
)
_PARALLEL = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel_size",
    "enable_expert_parallel",
    "world_size",
    "distributed_executor_backend",
)
_COMPILATION = ("mode", "cudagraph_mode", "cudagraph_capture_sizes", "max_cudagraph_capture_size")
_SCALARS = (str, int, float, bool, type(None))


def header_of(scheduler: Any, run: str, now: float) -> ev.Header:
    """The header of a recording of this scheduler."""
    config = scheduler.vllm_config
    return ev.Header(
        vllm=_version("vllm"),
        config=_case_config(scheduler),
        t=now,
        unix=time.time() - (time.monotonic() - now),
        scheduler=type(scheduler).__name__,
        format=ev.FORMAT,
        run=run,
        pytwin=_version("pytwin"),
        server={
            **_taken(config.scheduler_config, ("max_num_queued_reqs", "stream_interval")),
            **_taken(config.parallel_config, _PARALLEL),
            **_taken(getattr(config, "compilation_config", None), _COMPILATION),
            **_taken(config, ("performance_mode", "optimization_level", "use_v2_model_runner")),
            "python": sys.version.split()[0],
        },
        model=_model(config.model_config),
        lora=_taken(config.lora_config, _LORA),
        kv=_kv(scheduler),
        unmodelled=_unmodelled(scheduler),
    )


def _case_config(scheduler: Any) -> dict[str, Any]:
    cache, lora = scheduler.cache_config, scheduler.lora_config
    found = _taken(scheduler.scheduler_config, _SCHEDULER)
    found["async_scheduling"] = bool(found.get("async_scheduling"))
    return {
        "num_blocks": cache.num_gpu_blocks,
        "block_size": scheduler.block_size,
        "max_model_len": scheduler.max_model_len,
        "max_loras": lora.max_loras if lora else 0,
        "max_cpu_loras": lora.max_cpu_loras if lora else None,
        "enable_prefix_caching": bool(cache.enable_prefix_caching),
        **found,
    }


def _model(config: Any) -> dict[str, Any]:
    found = _taken(config, _MODEL)
    served = getattr(config, "served_model_name", None)
    if served is not None:
        found["name"] = served if isinstance(served, str) else next(iter(served), "")
    shapes = getattr(config, "hf_text_config", None)
    if shapes is not None:
        found["config"] = {
            key: value for key, value in shapes.to_dict().items() if isinstance(value, _SCALARS)
        }
        found["config"]["architectures"] = list(getattr(shapes, "architectures", None) or [])
    return found


def _kv(scheduler: Any) -> dict[str, Any]:
    found = _taken(scheduler.cache_config, _CACHE)
    tensors = getattr(getattr(scheduler, "kv_cache_config", None), "kv_cache_tensors", None)
    if tensors:
        found["bytes"] = sum(int(tensor.size) for tensor in tensors)
    return found


def _unmodelled(scheduler: Any) -> list[str]:
    """Features in use that pytwin has no setting for; decisions may differ from the twin's."""
    config = scheduler.vllm_config
    used = [
        name
        for name in ("speculative_config", "kv_transfer_config", "ec_transfer_config")
        if getattr(config, name, None) is not None
    ]
    parallel, model = config.parallel_config, config.model_config
    used += [
        name
        for name in ("pipeline_parallel_size", "decode_context_parallel_size")
        if getattr(parallel, name, 1) > 1
    ]
    if getattr(model, "runner_type", "generate") != "generate":
        used.append("runner_type")
    if getattr(model, "is_multimodal_model", False):
        used.append("multimodal")
    if getattr(config.scheduler_config, "prefill_schedule_interval", 1) > 1:
        used.append("prefill_schedule_interval")
    groups = getattr(getattr(scheduler, "kv_cache_config", None), "kv_cache_groups", None)
    if groups is not None and len(groups) > 1:
        used.append("kv_cache_groups")
    return used


def _taken(source: Any, names: Iterable[str]) -> dict[str, Any]:
    """The attributes that exist, as JSON: enums and dtypes by their text."""
    return {name: plain(getattr(source, name)) for name in names if hasattr(source, name)}


def plain(value: Any) -> Any:
    """A value that JSON can hold."""
    if isinstance(value, _SCALARS):
        return value if type(value) in _SCALARS else _unwrapped(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return str(getattr(value, "name", value))


def _unwrapped(value: Any) -> Any:
    """A str or int of a derived kind (an enum's member) as what it derives from."""
    name = getattr(value, "name", None)
    return name if name is not None else str(value)


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    module = sys.modules.get(package)
    told = vars(module).get("__version__") if module is not None else None
    if isinstance(told, str):
        return told
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
