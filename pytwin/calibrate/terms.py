"""Cost terms: coefficient times a product of factors, as a profile's JSON states them.

A factor is a feature's name, or that feature bent: `{"of": name, "above": x}` is max(0, v - x),
`{"of": name, "at_most": x}` is min(v, x), `{"of": name, "at_least": x}` is 1 if v >= x else 0,
`{"of": name, "positive": true}` is 1 if v > 0 else 0. The core evaluates the same terms in
integers; this is their meaning in NumPy, for fitting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Factor = str | dict[str, Any]
Features = Mapping[str, FloatArray]

CONFIG_FEATURES = ("lora", "max_loras", "max_lora_rank", "max_cpu_loras", "served_adapters")
STEP_FEATURES = (
    "prefill_tokens",
    "prefill_seqs",
    "decode_seqs",
    "seqs",
    "tokens",
    "context_tokens",
    "adapters",
    "lora_seqs",
    "running",
    "waiting",
)


@dataclass(frozen=True)
class Part:
    """One product of factors inside a law's component, with a fixed weight."""

    weight: float
    factors: tuple[Factor, ...]


@dataclass(frozen=True)
class Component:
    """What one fitted coefficient multiplies: a weighted sum of products of factors.

    name: short, for reports. parts: the products. why: the physical reason.
    """

    name: str
    parts: tuple[Part, ...]
    why: str


def component(name: str, why: str, *factors: Factor, scale: float = 1.0) -> Component:
    """A component of a single product."""
    return Component(name, (Part(scale, factors),), why)


def factor_values(factor: Factor, features: Features) -> FloatArray:
    """One factor on arrays of features. KeyError names an unknown feature."""
    if isinstance(factor, str):
        return features[factor]
    values = features[factor["of"]]
    if "above" in factor:
        return np.asarray(np.maximum(0.0, values - factor["above"]), dtype=np.float64)
    if "at_most" in factor:
        return np.asarray(np.minimum(values, float(factor["at_most"])), dtype=np.float64)
    if "at_least" in factor:
        return np.asarray(values >= factor["at_least"], dtype=np.float64)
    if factor.get("positive"):
        return (values > 0).astype(np.float64)
    raise ValueError(f"factor {factor} must hold one of above, at_most, at_least, positive")


def part_values(part: Part, features: Features) -> FloatArray:
    """A product of factors on arrays of features, times its weight."""
    size = len(next(iter(features.values())))
    values = np.full(size, part.weight)
    for factor in part.factors:
        values = values * factor_values(factor, features)
    return values


def design(components: Sequence[Component], features: Features) -> FloatArray:
    """The design matrix: one row per observation, one column per component."""
    return np.stack(
        [sum(part_values(part, features) for part in entry.parts) for entry in components], axis=1
    )


def to_terms(
    components: Sequence[Component], coefficients: npt.ArrayLike, unit_scale: float
) -> list[dict[str, Any]]:
    """Profile TERMs of a fitted law; zero coefficients are left out, equal products merged.

    `unit_scale` turns the fit's unit into the profile's (1000 for ms -> us).
    """
    merged: dict[str, dict[str, Any]] = {}
    for entry, coefficient in zip(components, np.asarray(coefficients, dtype=float), strict=True):
        if coefficient == 0.0:
            continue
        for part in entry.parts:
            key = repr(part.factors)
            term = merged.setdefault(
                key, {"coefficient": 0.0, "factors": list(part.factors), "why": entry.why}
            )
            if entry.why not in term["why"].split("; "):
                term["why"] += f"; {entry.why}"
            term["coefficient"] += float(coefficient) * part.weight * unit_scale
    for term in merged.values():
        term["coefficient"] = float(f"{term['coefficient']:.6g}")
    return [term for term in merged.values() if term["coefficient"] != 0.0]


def evaluate(terms: Sequence[Mapping[str, Any]], features: Features) -> FloatArray:
    """A profile's law on arrays of features, in the profile's unit."""
    size = len(next(iter(features.values())))
    total = np.zeros(size)
    for term in terms:
        total += part_values(Part(float(term["coefficient"]), tuple(term["factors"])), features)
    return total
