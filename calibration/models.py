"""The models of the shipped profiles and the server on which they were measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pytwin.calibrate.memory import GIB, ModelShape

# "total capacity of 63.43 GiB" in the servers' own out-of-memory messages: a 64 GB Hopper card.
GPU = "h100-64gb"
GPU_BYTES = 63.43 * GIB

# Settings of the measured server (a fork of vLLM 0.8.5, V1 engine).
ENGINE_VERSION = "0.8.5"
BLOCK_TOKENS = 16
SERVER: dict[str, Any] = {
    "max_num_seqs": 2048,
    "max_num_batched_tokens": 2048,
    "enable_prefix_caching": False,
    "gpu_memory_utilization": 0.9,
    "block_size": BLOCK_TOKENS,
}


@dataclass(frozen=True)
class Model:
    """A measured model: its name, its config.json's shapes and its length table.

    loads_fitted: whether a load's time under traffic is fitted, or is the logged host time: what
    simulates ml_test better (docs/background/cost-model.md).
    """

    name: str
    shape: ModelShape
    lengths: str
    loads_fitted: bool

    @property
    def profile(self) -> str:
        """Name of its profile."""
        return f"{self.name}@{GPU}"


def _lora_dims(hidden: int, kv_width: int, intermediate: int) -> tuple[tuple[int, int], ...]:
    """LoRA tensors per layer of a Llama-like block: widths and how many of each.

    qkv (3 slices), o, gate_up (2 slices) read `hidden`, down reads `intermediate`; they write
    hidden (q, o, down), kv_width (k, v) and intermediate (gate, up).
    """
    return ((hidden, 6 + 3), (intermediate, 1 + 2), (kv_width, 2))


MODELS = (
    Model(
        "llama-3.1-8b-instruct",
        ModelShape(32, 8, 128, 2, 131_072, GPU_BYTES, _lora_dims(4096, 1024, 14_336)),
        "sharegpt-llama-3",
        loads_fitted=True,
    ),
    Model(
        "qwen-2.5-7b-instruct",
        ModelShape(28, 4, 128, 2, 32_768, GPU_BYTES, _lora_dims(3584, 512, 18_944)),
        "sharegpt-qwen-2.5",
        loads_fitted=False,
    ),
)

# Two runs whose adapters were swapped in the published logs (a fraction of the nominal arrivals).
KNOWN_BAD = (
    "ml_test/llama-3.1-8b-instruct/rate_3.2-1.6-0.025_size_16-16-16/_64_192_16_",
    "ml_test/llama-3.1-8b-instruct/rate_3.2-1.6-0.025_size_16-16-16/_64_256_16_",
)
# What is fitted; the rest of the measured families is for judging only.
FITTED = ("est_memory", "est_loading", "est_default_latency", "est_latency_overhead", "ml_test")
HELD_OUT = ("dt_real",)
