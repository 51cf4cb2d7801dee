"""The terms from which a law for recorded steps may be chosen, with their physical reasons.

A step is host work (schedule, update, what lies between two steps) and an execution. Only the host
sees the waiting queue, so `waiting` is no candidate for the execution: a queue and a slow machine
often come together, and a law must not take one for the other. The forms are those of
docs/background/cost-model.md; what is tied to one GPU's kernels there (the switch at 121 tokens,
132 multiprocessors) is not assumed here: bends of the cost per token are looked for at powers of
two.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pytwin.calibrate.terms import CONFIG_FEATURES, Component, Factor, component, part_values

FloatArray = npt.NDArray[np.float64]

# Steps on which a term must be seen at work, and values that it must take (those of the
# configuration in different runs), before it may enter a law.
MIN_STEPS = 30
MIN_VALUES = 2
MIN_CONFIG_VALUES = 3
_BENDS = (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
_ANY_PROMPT: Factor = {"of": "prefill_tokens", "positive": True}
_ACTIVE: Factor = {"of": "adapters", "at_most": 1}
# The largest CUDA graph that vLLM captures when nothing else is said.
GRAPH_TOKENS = 512


def host_candidates() -> list[Component]:
    """Host work of a step without asynchronous scheduling."""
    return [
        component("host base", "schedule, update and the engine's loop"),
        component("host seqs", "host work per request: schedule, update, output", "seqs"),
        component("host new", "host work per request with a prompt", "prefill_seqs"),
        component("host waiting", "the scheduler's walk over the waiting queue", "waiting"),
    ]


def step_candidates(graph_tokens: int | None) -> list[Component]:
    """The execution of a step; `graph_tokens` is the largest CUDA graph, None without graphs."""
    found = [
        component("base", "weights read once per step, launches"),
        component("tokens", "matrix products, per token", "tokens"),
        *(
            component(
                f"tokens>{bend}",
                f"matrix products, per token above {bend}",
                {"of": "tokens", "above": bend},
            )
            for bend in _BENDS
        ),
        component("seqs", "input, attention and sampling, per request", "seqs"),
        component("context", "KV cache read by attention", "context_tokens"),
        component("prompt", "a step with prompt tokens", _ANY_PROMPT),
        component("new", "input and attention set up, per request with a prompt", "prefill_seqs"),
        component("prefill", "attention and input of prompt tokens", "prefill_tokens"),
        *(
            component(
                f"prefill>{bend}",
                f"attention of prompt tokens above {bend}",
                {"of": "prefill_tokens", "above": bend},
            )
            for bend in (64, 256, 1024)
        ),
        component("active", "first adapter of a batch", _ACTIVE),
        component("active tokens", "LoRA kernels: any adapter, every token", _ACTIVE, "tokens"),
        component("active prefill", "LoRA kernels: any adapter, every prompt token", _ACTIVE,
                  "prefill_tokens"),
        component("active seqs", "LoRA kernels: any adapter, every request", _ACTIVE, "seqs"),
        component("adapters", "kernels of an active adapter", "adapters"),
        component("lora seqs", "LoRA work per request with an adapter", "lora_seqs"),
        component("adapters tokens", "an active adapter, per token", "adapters", "tokens"),
        component("adapters seqs", "an active adapter, per request", "adapters", "seqs"),
        component("adapters prefill", "an active adapter, per prompt token", "adapters",
                  "prefill_tokens"),
        component("lora", "LoRA metadata prepared in every step", "lora"),
        component("lora tokens", "LoRA kernels, per token", "lora", "tokens"),
        component("slots", "idle slots of the kernels' grid", "max_loras"),
        component("slots tokens", "idle slots, per token", "max_loras", "tokens"),
        component("slots adapters", "slots walked for every active adapter", "max_loras",
                  "adapters"),
        component("rank adapters", "an active adapter, per unit of max_lora_rank", "max_lora_rank",
                  "adapters"),
        component("rank tokens", "LoRA kernels, per token and unit of max_lora_rank",
                  "max_lora_rank", "tokens"),
    ]  # fmt: skip
    if graph_tokens is not None:
        beyond = {"of": "tokens", "at_least": graph_tokens + 1}
        found.append(component("eager", "launches without a CUDA graph", beyond))
    return found


def extra_load_candidates() -> list[Component]:
    """What a load costs beyond the worker's own timing of it (a copy still on its way)."""
    return [
        component("load disk", "a load's cost beyond its host time", "loads_disk"),
        component("load memory", "a load's cost beyond its host time", "loads_memory"),
    ]


def async_candidates() -> list[Component]:
    """Host time of an iteration under asynchronous scheduling."""
    return [
        component("base", "schedule, launch and update"),
        component("seqs", "host work per request", "seqs"),
        component("new", "host work per request with a prompt", "prefill_seqs"),
        component("waiting", "the scheduler's walk over the waiting queue", "waiting"),
    ]


def egress_candidates() -> list[Component]:
    """From the end of a step until its tokens are at the client."""
    return [
        component("base", "way to the API server and on to the client"),
        component("seqs", "detokenizer and streaming, per request", "seqs"),
        component("new", "first tokens of requests", "prefill_seqs"),
    ]


def load_candidates() -> list[Component]:
    """One adapter load."""
    return [
        component("base", "fixed part of a load"),
        component("rank", "bytes moved, per rank", "rank"),
        component(
            "padded", "strided copy into a slot wider than the adapter",
            {"of": "rank_padding", "positive": True},
        ),
    ]  # fmt: skip


def identified(
    candidates: list[Component], features: Mapping[str, FloatArray], rows: npt.NDArray[np.bool_]
) -> tuple[list[Component], dict[str, str]]:
    """Candidates that the rows can tell, and why not the others.

    A term that never varies is the constant under another name; one of the configuration needs
    runs at several settings, or a slow run is taken for a costly setting.
    """
    kept: list[Component] = []
    left: dict[str, str] = {}
    for entry in candidates:
        factors = [factor for part in entry.parts for factor in part.factors]
        names = [factor if isinstance(factor, str) else str(factor["of"]) for factor in factors]
        settings = [name for name in names if name in CONFIG_FEATURES]
        few = next(
            (n for n in settings if len(np.unique(features[n][rows])) < MIN_CONFIG_VALUES), None
        )
        if few is not None and not (few == "lora" and len(np.unique(features[few][rows])) == 2):
            left[entry.name] = (
                f"{few} took {len(np.unique(features[few][rows]))} value(s) in these runs, "
                f"{MIN_CONFIG_VALUES} are needed"
            )
            continue
        values = np.sum([part_values(part, features) for part in entry.parts], axis=0)[rows]
        if not factors:
            kept.append(entry)
        elif np.count_nonzero(values) < MIN_STEPS:
            left[entry.name] = f"seen on {np.count_nonzero(values)} steps, {MIN_STEPS} are needed"
        elif len(np.unique(values)) < MIN_VALUES:
            left[entry.name] = "never varied: part of the constant"
        else:
            kept.append(entry)
    return kept, left
