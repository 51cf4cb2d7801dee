"""Whether recordings are of one kind of server, and what that kind is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pytwin.calibrate.recordings.columns import RecordedRun
from pytwin.errors import DataError

# What one profile cannot be two of: name for people -> how to read it.
_ONE_OF: dict[str, Callable[[RecordedRun], Any]] = {
    "vLLM versions": lambda run: run.vllm.split("+")[0],
    "models": lambda run: run.recording.header.model.get("name"),
    "dtypes": lambda run: run.recording.header.model.get("dtype"),
    "quantizations": lambda run: run.recording.header.model.get("quantization"),
    "KV cache dtypes": lambda run: run.recording.header.kv.get("cache_dtype"),
    "devices": lambda run: run.recording.worker.device if run.recording.worker else None,
    "tensor_parallel_size": lambda run: run.recording.header.server.get("tensor_parallel_size"),
    "enforce_eager": lambda run: run.recording.header.model.get("enforce_eager"),
    "async_scheduling": lambda run: run.asynchronous,
    "LoRA dtypes": lambda run: (
        run.recording.header.lora.get("lora_dtype") if run.config.get("max_loras") else None
    ),
}

# Settings of a case that are settings of EngineConfig too.
_SETTINGS = {
    "max_num_seqs": "max_num_seqs",
    "max_num_batched_tokens": "max_num_batched_tokens",
    "max_num_scheduled_tokens": "max_num_scheduled_tokens",
    "max_num_active_seqs": "max_num_active_seqs",
    "block_size": "block_size",
    "enable_prefix_caching": "enable_prefix_caching",
    "enable_chunked_prefill": "enable_chunked_prefill",
    "policy": "scheduling_policy",
    "async_scheduling": "async_scheduling",
    "long_prefill_token_threshold": "long_prefill_token_threshold",
    "long_prefill_token_threshold_adaptive": "long_prefill_token_threshold_adaptive",
    "scheduler_reserve_full_isl": "scheduler_reserve_full_isl",
    "watermark": "watermark",
    "max_model_len": "max_model_len",
}


def check_one_kind(runs: Sequence[RecordedRun]) -> None:
    """DataError where the runs cannot be of one kind of server, naming two that differ."""
    names = [run.name for run in runs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"two recordings are called {twice}: rename one of the directories")
    for what, value_of in _ONE_OF.items():
        stated = [(run.name, value_of(run)) for run in runs]
        stated = [(name, value) for name, value in stated if value is not None]
        for name, value in stated[1:]:
            if value != stated[0][1]:
                raise DataError(
                    f"recordings differ in {what} ({stated[0][0]}: {stated[0][1]}, {name}: "
                    f"{value}): fit each kind of server by itself"
                )


def device_name(run: RecordedRun) -> str:
    """The device as a profile names it; "" where the recording does not tell."""
    worker = run.recording.worker
    return "-".join(worker.device.lower().split()) if worker is not None else ""


def server_settings(run: RecordedRun) -> dict[str, Any]:
    """One run's settings under the names of EngineConfig."""
    found = {ours: run.config[theirs] for theirs, ours in _SETTINGS.items() if theirs in run.config}
    utilization = run.recording.header.kv.get("gpu_memory_utilization")
    if utilization:
        found["gpu_memory_utilization"] = utilization
    override = run.recording.header.kv.get("num_gpu_blocks_override")
    if override:
        found["num_gpu_blocks_override"] = int(override)
    if run.config.get("max_loras"):
        found["lora_preload"] = bool(run.recording.preloaded)
    return found


def common_settings(runs: Sequence[RecordedRun]) -> tuple[dict[str, Any], list[str]]:
    """Settings that all runs share, and the names of those that differ."""
    each = [server_settings(run) for run in runs]
    shared = {
        name: value
        for name, value in each[0].items()
        if all(name in other and other[name] == value for other in each)
    }
    differ = sorted({name for other in each for name in other} - set(shared))
    return shared, differ
