"""GPU memory, as far as recordings tell: what the server itself reported.

One setting tells no slope but those of first principles: KV bytes per token from the cache's own
size, LoRA bytes in proportion to slots times max_lora_rank (all slots are allocated at that rank).
Where the recordings hold no bytes (an old recorder), the KV capacity in tokens is all that is
known: then one byte stands for one token, and the section says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pytwin.calibrate.recordings.columns import RecordedRun


@dataclass(frozen=True)
class Memory:
    """The section of the profile, and remarks."""

    document: dict[str, Any]
    remarks: tuple[str, ...]


def fit(runs: Sequence[RecordedRun], utilization: float) -> Memory:
    """The memory section that gives the recorded servers' KV blocks."""
    remarks = []
    blocks = {(int(run.config["num_blocks"]), int(run.config["block_size"])) for run in runs}
    # The largest cache: a smaller one is an override or another setting, not another machine.
    run = max(runs, key=lambda r: int(r.config["num_blocks"]) * int(r.config["block_size"]))
    if len(blocks) > 1:
        sizes = ", ".join(f"{run.name} {run.config['num_blocks']}" for run in runs)
        remarks.append(
            f"KV blocks differ between runs ({sizes}): the profile has the largest; set "
            "num_gpu_blocks_override for the others"
        )
    count, size = int(run.config["num_blocks"]), int(run.config["block_size"])
    worker = run.recording.worker
    table = run.recording.header.kv
    kv = float((worker.kv if worker else None) or table.get("bytes") or 0.0)
    weights = float(worker.weights or 0) if worker else 0.0
    lora = float(worker.lora or 0) if worker else 0.0
    device = float(worker.device_memory or 0) if worker else 0.0
    note = "as the server reported it, at one setting: slots and rank by proportion"
    if not kv:
        kv, weights, lora, device = float(count * size), 0.0, 0.0, 0.0
        note = "KV capacity only: one byte stands for one token of KV cache"
        remarks.append("no memory sizes in the recordings: the profile knows the KV tokens only")
    per_token = kv / (count * size)
    if table.get("num_gpu_blocks_override"):
        # The cache was cut down by hand: what the server would have had is what it was given, or
        # unknown.
        count = int(float(table.get("kv_cache_memory_bytes") or 0.0) // (size * per_token)) or count
        remarks.append(
            f"num_gpu_blocks_override ({table['num_gpu_blocks_override']}) set the KV blocks: the "
            + (
                "profile's capacity without it is kv_cache_memory_bytes"
                if table.get("kv_cache_memory_bytes")
                else "capacity without it is unknown"
            )
        )
    # Half a block more than the blocks need, so that rounding down gives just these.
    asked = weights + lora + (count + 0.5) * size * per_token
    # A device that holds more than the share which the server was given: the rest is overhead.
    overhead = max(0.0, device * utilization - asked)
    total = device if overhead else asked / utilization
    slots = float(run.config.get("max_loras") or 0) * float(run.max_lora_rank)
    document = {
        "gpu_bytes": total,
        "weights_bytes": weights,
        "kv_bytes_per_token": per_token,
        "lora_slot_bytes": 0.0,
        "lora_slot_bytes_per_rank": lora / slots if slots else 0.0,
        "lora_fixed_bytes": 0.0,
        "overhead_bytes": overhead,
        "overhead_bytes_per_seq": 0.0,
        "overhead_min_bytes": 0.0,
        "overhead_bytes_per_slot": 0.0,
        "load_reserve_bytes": 0.0,
        "note": note,
    }
    return Memory(document, tuple(remarks))
