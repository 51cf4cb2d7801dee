"""What makes a step take its time, as physical quantities of a model on a GPU.

Each driver is a component of the step-time law (`pytwin.calibrate.terms`) whose unit is known
without measuring: microseconds at the data sheet's bandwidth or FLOP/s, numbers of kernels, of
thread blocks, of requests. What is learned is one factor per driver (for bandwidth and FLOP/s the
inverse of the efficiency, else the microseconds of one), shared by all models and GPUs.

LoRA's kernels follow vLLM 0.8.5 lora/ops/triton_ops/lora_shrink.py and lora_expand.py: grids span
all slots; shrink splits its sum over 64 blocks below 128 tokens and 8 from there on, one block per
32 tokens and 16 ranks; expand has one per 64 tokens and 128 columns of its widest slice. CUDA
graphs pad batches to multiples of 8, so the switch comes at 121 tokens, and end at 512.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import ceil

from pytwin.calibrate.prior.architecture import Architecture
from pytwin.calibrate.prior.gpus import Gpu
from pytwin.calibrate.terms import Component, Factor, Part, component

SPLIT_TOKENS = 121
_LARGE: Factor = {"of": "tokens", "at_least": SPLIT_TOKENS}
_EAGER: Factor = {"of": "tokens", "at_least": 513}
_BEYOND_GRAPHS: Factor = {"of": "tokens", "above": 512}
_MORE_RANKS: Factor = {"of": "max_lora_rank", "above": 16}
_KERNELS_PER_GROUP = 2


@dataclass(frozen=True)
class Grid:
    """Thread blocks of a model's LoRA kernels per slot, summed over layers and groups.

    shrink_split: of shrink per part of its split sum, block of tokens and block of ranks.
    expand: of expand per block of tokens. kernels: launches per step.
    """

    shrink_split: int
    expand: int
    kernels: int


def grid(model: Architecture) -> Grid:
    """The kernels' grids of a model."""
    groups = model.lora_groups
    return Grid(
        shrink_split=model.layers * model.lora_slices,
        expand=model.layers
        * sum(len(group.outputs) * ceil(max(group.outputs) / 128) for group in groups),
        kernels=model.layers * len(groups) * _KERNELS_PER_GROUP,
    )


def _times(parts: list[Part], weight: float, *factors: Factor) -> list[Part]:
    return [Part(part.weight * weight, (*factors, *part.factors)) for part in parts]


def _rank_blocks(parts: list[Part]) -> list[Part]:
    """Once per block of 16 ranks."""
    return parts + _times(parts, 1 / 16, _MORE_RANKS)


def _shrink_idle() -> list[Part]:
    """Parts of the split sum x blocks of 32 tokens: 64 x ceil(t / 32), from 121 on 8 x t / 32."""
    few = [Part(64.0, ())]
    few += [Part(64.0, ({"of": "tokens", "at_least": edge},)) for edge in (33, 65, 97)]
    # All four steps are reached before the switch, which takes 256 off and starts at 8 x 4.
    return [
        *few,
        Part(8 * 4 - 64.0 * 4, (_LARGE,)),
        Part(8 / 32, ({"of": "tokens", "above": 128},)),
    ]


def _expand_idle() -> list[Part]:
    """Blocks of 64 tokens, the last one on average half full."""
    return [
        Part(1.0, ()),
        Part(0.5, ({"of": "tokens", "at_least": 65},)),
        Part(1 / 64, ({"of": "tokens", "above": 64},)),
    ]


def _expert_parts(model: Architecture, scale: float) -> list[Part]:
    """Weights of the experts that a batch of tokens reaches: E (1 - (1 - k / E)^tokens) of E.

    Concave in tokens, so a sum of min(tokens, knot): exact at the knots.
    """
    share = 1 - model.experts_per_token / model.experts
    reached = {0: 0.0, **{n: 1 - share**n for n in (1, 2, 4, 8, 16, 32, 64, 128)}}
    knots = sorted(reached)
    slopes = [(reached[b] - reached[a]) / (b - a) for a, b in pairwise(knots)] + [0.0]
    return [
        Part(scale * (slopes[i] - slopes[i + 1]), ({"of": "tokens", "at_most": knots[i + 1]},))
        for i in range(len(knots) - 1)
    ]


def drivers(model: Architecture, gpu: Gpu) -> list[Component]:
    """The drivers of a model on a GPU; the order is that of the learned factors."""
    blocks = grid(model)
    per_byte, per_flop = 1e6 / gpu.bandwidth, 1e6 / gpu.flops
    waves = 1e-3 * 132 / gpu.sms
    knee = max(8, round(gpu.ridge_tokens / 2))
    read = [
        Part(model.dense_bytes_read * per_byte, ()),
        Part(model.kv_bytes_per_token * per_byte, ("context_tokens",)),
    ]
    if model.experts:
        read += _expert_parts(model, model.expert_bytes * per_byte)
    flops = model.flops_per_token * per_flop
    idle_shrink = _times(_rank_blocks(_shrink_idle()), waves * blocks.shrink_split, "max_loras")
    idle_expand = _times(_expand_idle(), waves * blocks.expand, "max_loras")
    active_split = waves * blocks.shrink_split
    return [
        Component("read", tuple(read), "weights and KV cache over memory bandwidth"),
        component("host", "host work of a step: schedule, launch, collect", scale=1000.0),
        Component(
            "products",
            (
                Part(flops, ("tokens",)),
                Part(model.flops_per_sequence * per_flop, ("seqs",)),
            ),
            "matrix products, overlapped with reading the weights",
        ),
        component(
            "products beyond the ridge",
            "matrix products, no longer hidden behind reading the weights",
            {"of": "tokens", "above": knee},
            scale=flops,
        ),
        component("requests", "host work per request: input, sampling, output", "seqs"),
        component("lora requests", "LoRA metadata and sampling, per request", "lora", "seqs"),
        component(
            "lora kernels", "launches of LoRA kernels", "lora", scale=float(blocks.kernels)
        ),
        component(
            "first adapter", "LoRA kernels that find work, however little",
            {"of": "adapters", "at_most": 1}, scale=float(blocks.kernels),
        ),
        Component("idle shrink", tuple(idle_shrink), "idle slots, blocks of the shrink kernels"),
        Component("idle expand", tuple(idle_expand), "idle slots, blocks of the expand kernels"),
        Component(
            "active expand",
            (Part(waves * blocks.expand, ("adapters",)),),
            "active adapters, blocks of the expand kernels",
        ),
        Component(
            "active shrink",
            tuple(
                _times(
                    _rank_blocks([Part(64.0, ()), Part(-56.0, (_LARGE,))]), active_split, "adapters"
                )
            ),
            "active adapters, blocks of the shrink kernels",
        ),
        Component(
            "active shrink tokens",
            tuple(
                _times(
                    [
                        Part(64 / 120, ({"of": "tokens", "at_most": SPLIT_TOKENS - 1},)),
                        Part(-64.0, (_LARGE,)),
                    ],
                    active_split,
                    "adapters",
                )
            ),
            "active adapters, blocks of the shrink kernels that a fuller batch no longer hides",
        ),
        component(
            "adapter weights", "weights of the adapters in the batch over memory bandwidth",
            "max_lora_rank", "adapters", scale=model.lora_bytes_per_rank * per_byte,
        ),
        component(
            "adapters tokens", "an active adapter's blocks of tokens", "adapters", "tokens",
            scale=waves * (blocks.shrink_split * 8 / 32 + blocks.expand / 64),
        ),
        component(
            "second wave", "more active adapters than multiprocessors, per request",
            {"of": "adapters", "above": gpu.sms}, "seqs", scale=waves * blocks.expand / 64,
        ),
        component("eager", "launches without a CUDA graph", _EAGER, scale=float(model.layers)),
        component(
            "lora activations", "inputs and outputs of LoRA kernels over memory bandwidth",
            "lora", _BEYOND_GRAPHS, scale=model.lora_activation_bytes * per_byte,
        ),
    ]  # fmt: skip
