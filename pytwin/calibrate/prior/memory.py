"""GPU memory from first principles: a model's shapes, a GPU's bytes, four learned constants.

    weights  = tensors of vLLM's modules, each as PyTorch's allocator counts it
    overhead = what is outside PyTorch + gaps between weight tensors + peak of the profiling run:
               a forward pass of max_num_batched_tokens, or the sampler on max_num_seqs
    slots    = stacked LoRA tensors (pytwin.calibrate.memory), embeddings and logits among them

The learned constants are bytes outside the tensors (CUDA context, libraries, workspaces), bytes of
the sampler per sequence and vocabulary entry, and what switching LoRA on takes once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pytwin.calibrate.memory import MIB, allocated
from pytwin.calibrate.prior.architecture import Architecture
from pytwin.calibrate.prior.gpus import Gpu

# vLLM 0.8.5 config.py LoRAConfig: lora_extra_vocab_size, lora_vocab_padding_size.
_EXTRA_VOCAB = 256
_LORA_VOCAB_PADDING = 256


@dataclass(frozen=True)
class MemoryConstants:
    """What shapes do not tell, learned from measured profiles.

    forward_bytes: overhead beside the activations of a forward pass. sampler_bytes: overhead
    beside the sampler's tensors. sampler_bytes_per_logit: peak of the sampler per sequence and
    vocabulary entry. lora_fixed_bytes: once, when LoRA is on.
    """

    forward_bytes: float
    sampler_bytes: float
    sampler_bytes_per_logit: float
    lora_fixed_bytes: float


def counted(size: float) -> float:
    """Bytes that PyTorch counts as allocated for a tensor of `size` bytes.

    c10/cuda/CUDACachingAllocator.cpp: a block of 10 MiB or more keeps the rest of its 2 MiB
    rounding unless that is more than 1 MiB, which is split off as a free block.
    """
    if size < 10 * MIB:
        return -(-size // 512) * 512
    rounded = allocated(size)
    return rounded if rounded - size <= MIB else size


def weights_bytes(model: Architecture) -> float:
    """What loading the model takes, as vLLM logs it ("Model loading took ... GiB")."""
    return sum(counted(elements * model.dtype_bytes) for elements in model.tensors())


def gap_bytes(model: Architecture) -> float:
    """Free rests of the weights' memory segments: neither weights nor usable for the KV cache."""
    sizes = [elements * model.dtype_bytes for elements in model.tensors()]
    return sum(allocated(size) - counted(size) for size in sizes if size >= 10 * MIB)


def forward_peak_bytes(model: Architecture, tokens: int) -> float:
    """Activations of a forward pass at its peak: the MLP's input halves, its product, residuals."""
    width = 3 * model.intermediate * max(model.experts_per_token, 1) + 2 * model.hidden
    return float(tokens * width * model.dtype_bytes)


def lora_tensors(model: Architecture) -> list[dict[str, int]]:
    """Stacked LoRA tensors by size: bytes per slot and unit of rank, and how many there are."""
    counts: dict[int, int] = {}
    for group in model.lora_groups:
        for width in (*[group.inputs] * len(group.outputs), *group.outputs):
            counts[width] = counts.get(width, 0) + model.layers
    if model.lora_embeddings:
        vocab = model.vocab + _EXTRA_VOCAB
        padded = -(-vocab // _LORA_VOCAB_PADDING) * _LORA_VOCAB_PADDING
        for width in (vocab, padded, model.hidden, model.hidden):
            counts[width] = counts.get(width, 0) + 1
    return [
        {"bytes": width * model.dtype_bytes, "count": counts[width]} for width in sorted(counts)
    ]


def lora_slot_bytes(model: Architecture, max_num_seqs: int) -> int:
    """Of one slot whatever its rank: added vocabulary's embeddings twice, its logits twice.

    vLLM 0.8.5 lora/layers.py: embeddings_tensors of VocabParallelEmbeddingWithLoRA and of
    LogitsProcessorWithLoRA; the latter's lora_logits in the sampler's profiling run, and a copy.
    """
    if not model.lora_embeddings:
        return 0
    return 2 * _EXTRA_VOCAB * (model.hidden + max_num_seqs) * model.dtype_bytes


def predict(
    model: Architecture,
    gpu: Gpu,
    constants: MemoryConstants,
    *,
    max_num_seqs: int,
    max_num_batched_tokens: int,
) -> dict[str, Any]:
    """The profile's `memory` section; the sampler's and the forward pass's peak at these limits."""
    gaps = gap_bytes(model)
    per_seq = constants.sampler_bytes_per_logit * model.vocab
    forward = constants.forward_bytes + gaps + forward_peak_bytes(model, max_num_batched_tokens)
    sampler = constants.sampler_bytes + gaps
    # The profiling run must fit beside weights and slots, or the server dies of it.
    peak = max(forward, sampler + per_seq * max_num_seqs) + constants.lora_fixed_bytes
    return {
        "gpu_bytes": round(gpu.memory_bytes),
        "weights_bytes": round(weights_bytes(model)),
        "kv_bytes_per_token": model.kv_bytes_per_token,
        "lora_slot_bytes": lora_slot_bytes(model, max_num_seqs),
        "lora_slot_bytes_per_rank": 0,
        "lora_fixed_bytes": round(constants.lora_fixed_bytes),
        "lora_tensors": lora_tensors(model),
        "overhead_min_bytes": round(forward),
        "overhead_bytes": round(sampler),
        "overhead_bytes_per_seq": round(per_seq),
        "overhead_bytes_per_slot": 0,
        "load_reserve_bytes": round(peak),
    }


def learn(
    model: Architecture, memory: Mapping[str, Any], max_num_batched_tokens: int
) -> MemoryConstants:
    """The constants that make `predict` give a measured profile's `memory` section."""
    gaps = gap_bytes(model)
    return MemoryConstants(
        forward_bytes=memory["overhead_min_bytes"]
        - gaps
        - forward_peak_bytes(model, max_num_batched_tokens),
        sampler_bytes=memory["overhead_bytes"] - gaps,
        sampler_bytes_per_logit=memory["overhead_bytes_per_seq"] / model.vocab,
        lora_fixed_bytes=float(memory["lora_fixed_bytes"]),
    )


def mean(several: list[MemoryConstants]) -> MemoryConstants:
    """The mean of the constants of several profiles."""
    names = asdict(several[0])
    return MemoryConstants(
        **{name: sum(getattr(one, name) for one in several) / len(several) for name in names}
    )
