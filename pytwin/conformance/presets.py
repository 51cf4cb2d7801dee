"""The named settings that random cases are made for."""

from __future__ import annotations

from typing import Any

from .versions import EngineVersion

Settings = dict[str, Any]

ANYTHING = "anything"

_PRESSURE: Settings = {"num_blocks": 61, "max_model_len": 512}
_TIGHT: Settings = {**_PRESSURE, "max_num_seqs": 32, "max_num_batched_tokens": 256}

PRESETS: dict[str, Settings] = {
    # One mechanism each.
    "easy": {},
    "no_lora": {"max_loras": 0},
    "pressure": _TIGHT,
    "lora": {"max_loras": 2, "max_cpu_loras": 3, "max_num_seqs": 16},
    "longprefill": {
        "long_prefill_token_threshold": 32,
        "max_num_batched_tokens": 128,
        "max_num_seqs": 48,
    },
    "adaptive": {
        "long_prefill_token_threshold": 16,
        "long_prefill_token_threshold_adaptive": True,
        "max_num_batched_tokens": 128,
    },
    "nofull": {**_TIGHT, "scheduler_reserve_full_isl": False, "max_num_batched_tokens": 64},
    "watermark": {"num_blocks": 81, "watermark": 0.1, "max_model_len": 512},
    "noch": {
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": 2048,
        "num_blocks": 101,
        "max_model_len": 512,
    },
    "active": {"max_num_active_seqs": 5, "max_num_seqs": 32, "async_scheduling": True},
    "sched_lt_batched": {**_PRESSURE, "max_num_scheduled_tokens": 100, "block_size": 32},
    "big": {
        "num_blocks": 20_000,
        "max_num_seqs": 256,
        "max_num_batched_tokens": 2048,
        "max_model_len": 8192,
        "max_loras": 16,
    },
    # Adapters.
    "lora_pressure": {
        "num_blocks": 81,
        "max_loras": 3,
        "max_cpu_loras": 4,
        "max_num_seqs": 24,
        "max_num_batched_tokens": 192,
        "max_model_len": 512,
    },
    "lora_thrash": {**_TIGHT, "max_loras": 3, "max_cpu_loras": 3},  # no spare CPU place
    "lora_one": {**_TIGHT, "max_loras": 1},
    "lora_many": {"max_loras": 8, "max_cpu_loras": 12, "max_num_seqs": 48, "num_blocks": 161},
    # Prefix caching.
    "prefix": {"num_blocks": 101, "enable_prefix_caching": True, "max_model_len": 512},
    "prefix_pressure": {**_PRESSURE, "enable_prefix_caching": True},
    "prefix_lora_thrash": {
        **_TIGHT,
        "enable_prefix_caching": True,
        "max_loras": 2,
        "max_cpu_loras": 2,
    },
    "prefix_block1": {
        "enable_prefix_caching": True,
        "block_size": 1,
        "num_blocks": 161,
        "max_model_len": 96,
    },
    "prefix_block8": {
        "enable_prefix_caching": True,
        "block_size": 8,
        "num_blocks": 61,
        "max_model_len": 256,
    },
    # Asynchronous scheduling.
    "async_pressure": {**_TIGHT, "async_scheduling": True},
    "async_lora": {"max_loras": 2, "max_cpu_loras": 3, "async_scheduling": True},
    "prefix_async": {
        "num_blocks": 101,
        "enable_prefix_caching": True,
        "max_model_len": 512,
        "async_scheduling": True,
    },
    "prefix_lora_async": {
        **_PRESSURE,
        "enable_prefix_caching": True,
        "async_scheduling": True,
        "max_loras": 2,
    },
    # Priority.
    "priority": {**_PRESSURE, "policy": "priority"},
    "priority_watermark": {**_PRESSURE, "policy": "priority", "watermark": 0.15},
    "priority_budget": {
        "policy": "priority",
        "num_blocks": 41,
        "block_size": 4,
        "max_model_len": 128,
        "max_num_batched_tokens": 16,
        "max_num_seqs": 32,
        "scheduler_reserve_full_isl": False,
    },
    "priority_prefix_async": {
        **_PRESSURE,
        "policy": "priority",
        "enable_prefix_caching": True,
        "async_scheduling": True,
    },
    "async_prio_lora": {
        **_PRESSURE,
        "policy": "priority",
        "async_scheduling": True,
        "max_loras": 3,
        "max_cpu_loras": 3,
    },
    # Small and odd sizes.
    "shortlen": {"max_model_len": 96, "num_blocks": 40, "async_scheduling": True},
    "tiny_len": {"max_model_len": 24, "num_blocks": 9, "block_size": 4, "max_num_seqs": 8},
    "block1": {"block_size": 1, "num_blocks": 400, "max_model_len": 256},
    "block32": {"block_size": 32, "num_blocks": 25, "max_model_len": 512},
    "one_seq": {"max_num_seqs": 1, "num_blocks": 41, "max_model_len": 512},
    "tiny_budget": {**_PRESSURE, "max_num_batched_tokens": 7, "max_num_seqs": 16},
    # Every setting drawn anew for each case.
    ANYTHING: {},
}


def presets_for(version: EngineVersion) -> dict[str, Settings]:
    """The presets that use no setting which `version` lacks."""
    return {
        name: settings
        for name, settings in PRESETS.items()
        if all(settings.get(key, unused) == unused for key, unused in version.absent.items())
    }
