"""The representative steps on which laws of step time are compared, and the groups of terms."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pytwin.calibrate.terms import (
    CONFIG_FEATURES,
    STEP_FEATURES,
    Component,
    Factor,
    FloatArray,
    Part,
    part_values,
)

_SLOTS = (0, 8, 16, 32, 64, 96, 128, 192, 256, 384)
_RANKS = (8, 16, 32)
_SEQS = (1, 4, 8, 16, 32, 64, 100, 128, 192, 256, 384, 500)
_ADAPTERS = (0, 1, 4, 16, 32, 64, 100, 184)
# (context tokens per request, prompt tokens in the step): short, usual and long contexts; steps
# that carry a usual prompt, several, and a step full of prompts.
_SHAPES = ((60, 0), (362, 0), (900, 0), (362, 100), (362, 400), (362, 1500))
_TOKENS = 2048
_PROMPT = 230
# Served traffic consists of decodes, few of its steps carry prompts.
_KIND_SHARES = {
    "decode without LoRA": 0.2,
    "decode, idle slots": 0.2,
    "decode, active adapters": 0.4,
    "with a prompt": 0.2,
}
GROUPS = ("batch", "slots", "adapters")
QUEUE = {"waiting", "skipped"}  # features of the waiting queue


def representative() -> dict[str, FloatArray]:
    """Features of some ten thousand steps: 1 to 500 requests, 0 to 384 slots, 0 to 184 adapters."""
    columns: dict[str, list[float]] = {name: [] for name in CONFIG_FEATURES + STEP_FEATURES}
    for row in _rows():
        for name, values in columns.items():
            values.append(float(row.get(name, 0.0)))  # queues are empty
    return {name: np.array(values) for name, values in columns.items()}


def _rows() -> Iterator[dict[str, float]]:
    for slots in _SLOTS:
        for rank in _RANKS if slots else (0,):
            for seqs in _SEQS:
                for adapters in sorted({min(count, slots, seqs) for count in _ADAPTERS}):
                    for context, prompt in _SHAPES:
                        if seqs + prompt > _TOKENS:
                            continue
                        started = -(-prompt // _PROMPT)
                        yield {
                            "lora": slots > 0,
                            "max_loras": slots,
                            "max_lora_rank": rank,
                            "max_cpu_loras": slots,
                            "served_adapters": slots,
                            "prefill_tokens": prompt,
                            "prefill_seqs": started,
                            "decode_seqs": seqs,
                            "seqs": seqs + started,
                            "tokens": seqs + prompt,
                            "context_tokens": context * seqs,
                            "adapters": adapters,
                            "lora_seqs": seqs if adapters else 0,
                            "running": seqs + started,
                        }


def weights(features: dict[str, FloatArray]) -> FloatArray:
    """How much each step's error counts: every kind by its share, however many steps it has."""
    masks = kinds(features)
    weight = np.zeros(len(features["tokens"]))
    for kind, share in _KIND_SHARES.items():
        weight[masks[kind]] = np.sqrt(share / masks[kind].sum())
    return weight


def kinds(features: dict[str, FloatArray]) -> dict[str, np.ndarray]:
    """Masks of the kinds of steps that reports tell apart."""
    decode, lora = features["prefill_tokens"] == 0, features["lora"] > 0
    active = features["adapters"] > 0
    return {
        "decode": decode,
        "decode without LoRA": decode & ~lora,
        "decode, idle slots": decode & lora & ~active,
        "decode, active adapters": decode & active,
        "with a prompt": ~decode,
        "all": np.ones(len(decode), dtype=bool),
    }


def features_of(factors: tuple[Factor, ...] | list[Factor]) -> set[str]:
    """Names of the features in a product."""
    return {factor if isinstance(factor, str) else str(factor["of"]) for factor in factors}


def group_of(factors: tuple[Factor, ...] | list[Factor]) -> str:
    """The group whose error a term shares: adapters, slots, batch, or "" for the constant."""
    names = features_of(factors)
    if names & {"adapters", "lora_seqs"}:
        return "adapters"
    if names & {"max_loras", "max_lora_rank", "lora"}:
        return "slots"
    return "batch" if names else ""


def shares(
    components: list[Component], coefficients: FloatArray, features: dict[str, FloatArray]
) -> dict[str, FloatArray]:
    """Each group's share of each step's predicted time."""
    size = len(features["tokens"])
    groups = {name: np.zeros(size) for name in (*GROUPS, "")}
    for entry, coefficient in zip(components, coefficients, strict=True):
        for part in entry.parts:
            scaled = Part(part.weight * float(coefficient), part.factors)
            groups[group_of(part.factors)] += part_values(scaled, features)
    total = np.sum(list(groups.values()), axis=0)
    return {name: groups[name] / total for name in GROUPS}
