"""The memory model: KV tokens against slots and rank, and which servers cannot start.

    lora      = max_loras * (slot + per_rank * max_lora_rank) + fixed
                + sum over stacked tensors of allocated(max_loras * max_lora_rank * bytes)
    overhead  = max(overhead_min, overhead + overhead_per_seq * max_num_seqs)
    available = gpu * gpu_memory_utilization - weights - lora - overhead

The overhead is the peak of the profiling run: up to about 250 sequences a forward pass of
max_num_batched_tokens sets it, beyond that the sampler, whose logits (14 bytes per sequence and
vocabulary entry) grow with max_num_seqs.

PyTorch's caching allocator rounds each stacked LoRA tensor (c10/cuda/CUDACachingAllocator.cpp): up
to 1 MiB it is packed, below 10 MiB it shares a segment of 20 MiB with its likes, above that it is
rounded up to 2 MiB. Without this the KV tokens of a server are off by up to 5 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

GIB = 1024**3
MIB = 1024**2
BLOCK_TOKENS = 16
MEMORY_ERRORS = ("oom_cuda", "no_kv_memory", "kv_smaller_than_max_model_len")
# vLLM 0.8.5 on a GPU of less than 70 GiB, where the command line does not say.
_DEFAULT_SEQS = 256
# Families measured on the V1 engine.
_V1 = ~pl.col("family").str.contains("^(motivation|perf)")


@dataclass(frozen=True)
class ModelShape:
    """What a model's config.json and its GPU state.

    layers, kv_heads, head_dim: of the attention; dtype_bytes: of weights and cache;
    max_model_len in tokens; gpu_bytes: memory of the GPU as its driver reports it. lora_dims:
    (width, how many per layer) of the LoRA tensors: one of the input's width per slice of a
    linear layer (A), one of each slice's output width (B).
    """

    layers: int
    kv_heads: int
    head_dim: int
    dtype_bytes: int
    max_model_len: int
    gpu_bytes: float
    lora_dims: tuple[tuple[int, int], ...] = ()

    @property
    def lora_tensors(self) -> list[dict[str, int]]:
        """Stacked LoRA tensors: bytes per slot and rank of one, and how many there are."""
        return [
            {"bytes": width * self.dtype_bytes, "count": count * self.layers}
            for width, count in self.lora_dims
        ]

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values per token."""
        return self.layers * 2 * self.kv_heads * self.head_dim * self.dtype_bytes


def allocated(size: float) -> float:
    """Bytes that PyTorch's caching allocator takes for a stacked tensor of `size` bytes."""
    if size <= MIB:
        return size
    if size < 10 * MIB:
        return 20 * MIB / (20 * MIB // size)
    return 2 * MIB * -(-size // (2 * MIB))


def lora_bytes(memory: Mapping[str, Any], max_loras: int, max_lora_rank: int) -> float:
    """GPU memory of all slots; 0 with LoRA off."""
    if not max_loras:
        return 0.0
    slot = memory["lora_slot_bytes"] + memory["lora_slot_bytes_per_rank"] * max_lora_rank
    tensors = sum(
        entry["count"] * allocated(max_loras * max_lora_rank * entry["bytes"])
        for entry in memory.get("lora_tensors", [])
    )
    return float(memory["lora_fixed_bytes"] + max_loras * slot + tensors)


def kv_tokens(
    memory: Mapping[str, Any],
    max_loras: int,
    max_lora_rank: int,
    max_num_seqs: int,
    utilization: float = 0.9,
) -> int:
    """KV tokens of a server (whole blocks), as the core computes them; 0 where none fit."""
    overhead = max(
        memory["overhead_min_bytes"],
        memory["overhead_bytes"] + memory["overhead_bytes_per_seq"] * max_num_seqs,
    )
    free = (
        memory["gpu_bytes"] * utilization
        - memory["weights_bytes"]
        - lora_bytes(memory, max_loras, max_lora_rank)
        - overhead
    )
    return max(0, int(free // (memory["kv_bytes_per_token"] * BLOCK_TOKENS)) * BLOCK_TOKENS)


def outcome(
    memory: Mapping[str, Any],
    max_loras: int,
    max_lora_rank: int,
    max_num_seqs: int,
    max_model_len: int,
) -> str:
    """Whether a server starts: "ok", or the error that keeps the server from starting."""
    loaded = memory["weights_bytes"] + lora_bytes(memory, max_loras, max_lora_rank)
    if loaded + memory["load_reserve_bytes"] > memory["gpu_bytes"]:
        return "oom_cuda"
    tokens = kv_tokens(memory, max_loras, max_lora_rank, max_num_seqs)
    if tokens < BLOCK_TOKENS:
        return "no_kv_memory"
    return "ok" if tokens >= max_model_len else "kv_smaller_than_max_model_len"


def fit(calib_memory: pl.DataFrame, runs: pl.DataFrame, shape: ModelShape) -> dict[str, Any]:
    """Memory parameters of one model, from the rows of its servers (V1 engine)."""
    table = _rows(calib_memory, runs).filter(pl.col("kv_cache_tokens_logged").is_not_null())
    if table.filter(pl.col("enable_lora")).height < 3:
        raise ValueError("calib_memory must hold at least 3 LoRA rows with kv_cache_tokens_logged")
    per_token = shape.kv_bytes_per_token
    requested = 0.9 * shape.gpu_bytes
    cache = table["kv_cache_tokens_logged"].to_numpy() * float(per_token)
    base = ~table["enable_lora"].to_numpy()
    seqs = table["max_num_seqs"].to_numpy().astype(float)
    weights = float(np.median(table["model_load_gib"].to_numpy()[base])) * GIB
    rest = requested - weights - cache  # slots and overhead
    floor = float(np.median(rest[base & (seqs <= 250)]))
    steep = base & (seqs >= 600)
    per_seq, intercept = np.polyfit(seqs[steep], rest[steep], 1)

    measured = table["enable_lora"].to_numpy() & (seqs >= 600)
    slots = table["max_loras"].to_numpy().astype(float)[measured]
    ranks = table["max_lora_rank"].to_numpy().astype(float)[measured]
    design = np.stack([np.ones_like(slots), slots, slots * ranks], axis=1)
    stacked = [
        lora_bytes(_only(shape.lora_tensors), int(count), int(rank))
        for count, rank in zip(slots, ranks, strict=True)
    ]
    beyond = rest[measured] - intercept - per_seq * seqs[measured] - np.array(stacked)
    fixed, slot, per_rank = _least_absolute(design, beyond, 1.0 / cache[measured])
    # A model without LoRA on its embeddings has no part that ignores the rank.
    if slot < 0:
        fixed, per_rank = _least_absolute(design[:, [0, 2]], beyond, 1.0 / cache[measured])
        slot = 0.0
    per_rank = max(per_rank, 0.0)
    memory = {
        "gpu_bytes": round(shape.gpu_bytes),
        "weights_bytes": round(weights),
        "kv_bytes_per_token": per_token,
        "lora_slot_bytes": round(slot),
        "lora_slot_bytes_per_rank": round(per_rank),
        "lora_fixed_bytes": max(0, round(fixed)),
        "lora_tensors": shape.lora_tensors,
        "overhead_min_bytes": round(floor),
        "overhead_bytes": round(intercept),
        "overhead_bytes_per_seq": round(per_seq),
        "overhead_bytes_per_slot": 0,
        "load_reserve_bytes": 0,
    }
    memory["load_reserve_bytes"] = round(_load_reserve(memory, calib_memory, runs))
    return memory


def _least_absolute(
    design: npt.NDArray[np.float64], target: npt.NDArray[np.float64],
    weight: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:  # fmt: skip
    """Least absolute deviations by reweighting: the allocator's rounding gives far outliers."""
    scale = np.abs(design).max(axis=0)
    factor = weight.copy()
    for _ in range(60):
        solution = (
            np.linalg.lstsq(design / scale * factor[:, None], target * factor, rcond=None)[0]
            / scale
        )
        residual = np.abs(design @ solution - target) * weight
        factor = weight / np.sqrt(np.maximum(residual, 1e-6))
    return np.asarray(solution, dtype=np.float64)


def _only(tensors: list[dict[str, int]]) -> dict[str, Any]:
    return {
        "lora_slot_bytes": 0,
        "lora_slot_bytes_per_rank": 0,
        "lora_fixed_bytes": 0,
        "lora_tensors": tensors,
    }


def _rows(calib_memory: pl.DataFrame, runs: pl.DataFrame) -> pl.DataFrame:
    known = runs.select("run_idx", "max_num_seqs")
    return (
        calib_memory.filter(_V1)
        .join(known, on="run_idx", how="left")
        .with_columns(
            pl.col("max_loras").fill_null(0),
            pl.col("max_lora_rank").fill_null(0),
            pl.col("max_num_seqs").fill_null(_DEFAULT_SEQS),
        )
    )


def _load_reserve(
    memory: Mapping[str, Any], calib_memory: pl.DataFrame, runs: pl.DataFrame
) -> float:
    """Memory that must stay free while weights and slots load: midway between both outcomes."""
    table = _rows(calib_memory, runs)
    taken = [
        lora_bytes(memory, slots, rank)
        for slots, rank in table.select("max_loras", "max_lora_rank").iter_rows()
    ]
    free = memory["gpu_bytes"] - memory["weights_bytes"] - pl.Series("free", taken)
    table = table.with_columns(free)
    crashed = table.filter(pl.col("error_class") == "oom_cuda")["free"]
    loaded = table.filter(
        (pl.col("status") == "ok")
        | pl.col("error_class").is_in(["no_kv_memory", "kv_smaller_than_max_model_len"])
    )["free"]
    if crashed.is_empty():
        return 0.0
    # Far below zero an allocation fails whatever is reserved: only the nearest failure tells.
    nearest = np.array([crashed.to_numpy().max(), loaded.to_numpy().min()])
    return max(0.0, float(nearest.mean()))


def judge(
    memory: Mapping[str, Any], calib_memory: pl.DataFrame, runs: pl.DataFrame, max_model_len: int
) -> dict[str, Any]:
    """KV errors on LoRA rows, and how often can / cannot start is right (percent)."""
    table = _rows(calib_memory, runs)
    errors = []
    for row in table.filter(
        pl.col("kv_cache_tokens_logged").is_not_null(), pl.col("enable_lora")
    ).iter_rows(named=True):
        tokens = kv_tokens(memory, row["max_loras"], row["max_lora_rank"], row["max_num_seqs"])
        errors.append(abs(tokens / row["kv_cache_tokens_logged"] - 1))
    right = wrong_reason = total = 0
    for row in table.filter(
        (pl.col("status") == "ok") | pl.col("error_class").is_in(MEMORY_ERRORS)
    ).iter_rows(named=True):
        said = outcome(
            memory, row["max_loras"], row["max_lora_rank"], row["max_num_seqs"], max_model_len
        )
        real = "ok" if row["status"] == "ok" else row["error_class"]
        total += 1
        right += (said == "ok") == (real == "ok")
        wrong_reason += (said == "ok") == (real == "ok") and said != real
    relative = np.array(errors)
    return {
        "kv_tokens_mape_percent": round(100 * float(relative.mean()), 2),
        "kv_tokens_worst_percent": round(100 * float(relative.max()), 2),
        "kv_tokens_within_1.5_percent": f"{int((relative <= 0.015).sum())}/{len(relative)}",
        "can_start_right": f"{right}/{total}",
        "right_with_another_reason": wrong_reason,
    }
