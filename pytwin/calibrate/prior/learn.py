"""Learns the priors' efficiencies from measured profiles: seconds, no traces.

    python -m pytwin.calibrate.prior.learn [-o pytwin/calibrate/prior/learned.json] [PROFILE ...]

Profiles (names or files; default: the shipped ones of known models and GPUs) are evaluated on ten
thousand representative steps; one factor per physical driver is fitted to all of them together by
least squares on relative errors. Rerun it whenever a shipped profile changes; a test holds that
the file in the package belongs to the profiles in the package.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pytwin.calibrate.prior import memory, steps
from pytwin.calibrate.prior.architecture import Architecture
from pytwin.calibrate.prior.drivers import drivers
from pytwin.calibrate.prior.gpus import Gpu, known_gpus, load_gpu
from pytwin.calibrate.prior.learned import (
    FILE,
    Learned,
    Loads,
    known_architecture,
    known_models,
)
from pytwin.calibrate.terms import FloatArray, design, evaluate
from pytwin.catalog import Profile, load_profile, shipped_profiles

COMMAND = "python -m pytwin.calibrate.prior.learn"
# The measured servers' limit on a step's tokens: sets the profiling run's activations.
_DEFAULT_TOKENS = 2048
_LEARNED_FROM = (
    "model", "gpu", "server", "lengths", "early_eos", "step_time", "load_time", "frontend",
    "memory", "ranges",
)  # fmt: skip
FRONTEND = ("ingress", "egress", "first_request", "poll")


class Measured:
    """A measured profile with its model's shapes and its GPU's figures."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.model: Architecture = known_architecture(profile.model)
        self.gpu: Gpu = load_gpu(str(profile.data["gpu"]))
        self.components = drivers(self.model, self.gpu)
        self.features = steps.representative()
        self.step_us: FloatArray = evaluate(profile.data["step_time"]["terms"], self.features)
        self.design = design(self.components, self.features)

    @property
    def told(self) -> dict[str, str]:
        """Which profile this is, for the record."""
        return {
            "name": self.profile.name,
            "model": self.profile.model,
            "gpu": self.gpu.key,
            "sha256": digest(self.profile),
        }


def digest(profile: Profile) -> str:
    """Of what priors learn from in a profile; its record of errors may change freely."""
    data = {key: profile.data.get(key) for key in _LEARNED_FROM}
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def learn(measured: Sequence[Measured], spread: Mapping[str, float] | None = None) -> Learned:
    """The factors that serve these profiles best together.

    spread: take these standard deviations instead of estimating them, which needs at least two
    profiles (each is predicted from the others).
    """
    factors = step_factors(measured)
    names = [entry.name for entry in measured[0].components]
    learned = Learned(
        profiles=tuple(one.told for one in measured),
        step={name: short(value) for name, value in zip(names, factors, strict=True)},
        loads=_loads(measured),
        queue=shared_terms([_queue_terms(one) for one in measured]),
        frontend={
            key: shared_terms([one.profile.data["frontend"].get(key, []) for one in measured])
            for key in FRONTEND
        },
        early_eos=_early_eos(measured),
        memory=memory.mean([memory_constants(one) for one in measured]),
        spread={} if spread is None else dict(spread),
        ranges=_ranges(measured),
    )
    if spread is None and len(measured) > 1:
        from pytwin.calibrate.prior.spread import spread_of

        learned.spread.update(spread_of(measured))
    return learned


def short(value: float) -> float:
    """Six significant digits."""
    return float(f"{value:.6g}")


def geometric(values: Sequence[float]) -> float:
    """The geometric mean; 0 where any is."""
    return float(np.exp(np.mean(np.log(values)))) if min(values) > 0 else 0.0


def step_factors(measured: Sequence[Measured]) -> FloatArray:
    """Bounded least squares on relative errors: reading cannot be faster than the data sheet."""
    from scipy.optimize import lsq_linear  # slow to import

    weight = steps.weights(measured[0].features)
    matrix = np.concatenate(
        [one.design / one.step_us[:, None] * weight[:, None] for one in measured]
    )
    target = np.tile(weight, len(measured))
    scale = np.linalg.norm(matrix, axis=0)
    scale[scale == 0] = 1.0
    lower = np.zeros(matrix.shape[1])
    names = [entry.name for entry in measured[0].components]
    lower[names.index("read")] = scale[names.index("read")]
    solution = lsq_linear(matrix / scale, target, bounds=(lower, np.inf), method="bvls").x / scale
    return np.asarray(np.maximum(solution, 0.0), dtype=np.float64)


def _queue_terms(one: Measured) -> list[dict[str, Any]]:
    """Step terms of the waiting queue alone: host work, the same for every model and GPU."""
    terms = one.profile.data["step_time"]["terms"]
    return [term for term in terms if steps.features_of(term["factors"]) & steps.QUEUE]


def shared_terms(lists: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Terms of equal factors averaged over profiles: geometrically if every profile has them."""
    found: dict[str, tuple[dict[str, Any], list[float]]] = {}
    for terms in lists:
        for term in terms:
            key = json.dumps(term["factors"])
            found.setdefault(key, (dict(term), []))[1].append(float(term["coefficient"]))
    averaged = []
    for term, values in found.values():
        everywhere = len(values) == len(lists) and min(values) > 0
        mean = geometric(values) if everywhere else sum(values) / len(lists)
        averaged.append({**term, "coefficient": short(mean)})
    return averaged


# Terms of a profile's `load_time` that priors can scale: list and factors.
LOAD_TERMS: dict[str, tuple[str, list[Any]]] = {
    "us_per_copy": ("memory", []),
    "padded_us_per_copy": ("memory", [{"of": "rank_padding", "positive": True}]),
    "disk_us_per_copy": ("disk", []),
    "disk_us_per_byte": ("disk", ["rank"]),
}


def load_figures(one: Measured) -> dict[str, float]:
    """A profile's loads per tensor copied, and per byte of the adapter's file.

    Raises
    ------
    ValueError: the profile has a term of another form.
    """
    model, section = one.model, one.profile.data["load_time"]
    found = {}
    for name, (key, factors) in LOAD_TERMS.items():
        per = model.lora_bytes_per_rank if factors == ["rank"] else copies(model)
        chosen = [term["coefficient"] for term in section[key] if term["factors"] == factors]
        found[name] = sum(chosen) / per
    known = [(key, factors) for key, factors in LOAD_TERMS.values()]
    for key in ("memory", "disk"):
        for term in section[key]:
            if (key, term["factors"]) not in known:
                raise ValueError(
                    f"load_time.{key} of {one.profile.name} has a term of factors "
                    f"{term['factors']}: teach pytwin/calibrate/prior/learn.py to scale it"
                )
    return found


def copies(model: Architecture) -> int:
    """Tensors that are copied into a slot: A and B of every slice of every layer."""
    return 2 * model.layers * model.lora_slices


def _loads(measured: Sequence[Measured]) -> Loads:
    figures = [load_figures(one) for one in measured]
    proven = []
    for one, figure in zip(measured, figures, strict=True):
        seconds = figure["us_per_copy"] * copies(one.model) / 1e6
        size = one.model.lora_bytes_per_rank * one.profile.ranges["rank"][1]
        proven.append(size / seconds / one.gpu.pcie)
    means = {name: short(geometric([figure[name] for figure in figures])) for name in LOAD_TERMS}
    return Loads(**means, pcie_efficiency=short(min(1.0, max(proven))))


def early_eos_of(one: Measured) -> dict[str, float]:
    """Chance that a request ends early: once, and per token of its output length."""
    given = one.profile.data.get("early_eos", 0.0)
    if isinstance(given, Mapping):
        return {
            "probability": float(given.get("probability", 0.0)),
            "per_token": float(given.get("per_token", 0.0)),
        }
    return {"probability": float(given), "per_token": 0.0}


def _early_eos(measured: Sequence[Measured]) -> float | dict[str, float]:
    """The mean; in the plain form where no profile needs the other."""
    every = [early_eos_of(one) for one in measured]
    mean = {name: short(float(np.mean([one[name] for one in every]))) for name in every[0]}
    return mean if mean["per_token"] else mean["probability"]


def memory_constants(one: Measured) -> memory.MemoryConstants:
    """The memory constants that one profile shows."""
    tokens = one.profile.server.get("max_num_batched_tokens", _DEFAULT_TOKENS)
    return memory.learn(one.model, one.profile.data["memory"], int(tokens))


def _ranges(measured: Sequence[Measured]) -> dict[str, list[float]]:
    """What every profile measured."""
    every = [one.profile.ranges for one in measured]
    shared = [name for name in every[0] if all(name in ranges for ranges in every)]
    return {
        name: [max(r[name][0] for r in every), min(r[name][1] for r in every)] for name in shared
    }


def measured_profiles(names: Sequence[str] = ()) -> list[Measured]:
    """The named profiles, or all shipped ones measured on a known GPU with a known model."""
    if names:
        return [Measured(load_profile(name)) for name in names]
    profiles = [load_profile(name) for name in shipped_profiles()]
    return [
        Measured(profile)
        for profile in profiles
        if not profile.is_prior
        and profile.model in known_models()
        and profile.data.get("gpu") in known_gpus()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Learn the priors' efficiencies from profiles.")
    parser.add_argument("profiles", nargs="*", help="names or files; default: the shipped ones")
    parser.add_argument("-o", "--out", type=Path, default=FILE)
    given = parser.parse_args(arguments)
    learned = learn(measured_profiles(given.profiles))
    told = {"command": COMMAND, "date": dt.date.today().isoformat(), **learned.document()}
    given.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
