"""What of a profile may be wrong, as a few named scale factors, and profiles moved by them.

A profile says in its section `uncertainty` how far each factor may be off (relative standard
deviation of a log-normal law). A perturbed profile is an ordinary profile: the core knows nothing
of uncertainty.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from pytwin.catalog import Profile
from pytwin.errors import ConfigError

FACTORS = (
    "step_time", "batch", "slots", "adapters", "load_time", "frontend", "polls", "kv_memory",
)  # fmt: skip
"""Names of the scale factors.

step_time: every step; batch, slots, adapters: the step's terms in the batch (tokens, sequences,
context), in the LoRA slots, and in the adapters of the batch; load_time: loads of adapters;
frontend: way in and out, first requests; polls: answers to /metrics; kv_memory: tokens of KV cache.
"""

INTERVAL_METRICS = ("total_throughput", "mean_tpot_ms", "mean_itl_ms", "mean_ttft_ms")
"""Metrics whose unexplained spread a profile states."""

REGIMES = ("calm", "queued")
"""Requests wait in the engine's queue (more than `QUEUED_WAITING` on average), or do not."""

QUEUED_WAITING = 5.0

_ADAPTERS = {"adapters", "lora_seqs"}
_SLOTS = {"lora", "max_loras", "max_lora_rank", "max_cpu_loras", "served_adapters"}


@dataclass(frozen=True)
class Uncertainty:
    """What a profile says of its own errors.

    Attributes
    ----------
    factors: relative standard deviation per factor; 0 for those not named.
    residual: metric -> regime -> standard deviation of the logarithm that no factor explains.
    known: the profile has a section `uncertainty`.
    """

    factors: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(FACTORS, 0.0))
    residual: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    known: bool = False

    def residual_of(self, metric: str, regime: str) -> float:
        """Standard deviation of the logarithm of a metric that no factor explains."""
        return float(self.residual.get(metric, {}).get(regime, 0.0))


def uncertainty_of(profile: Profile) -> Uncertainty:
    """The section `uncertainty` of a profile; nothing but zeros where it has none.

    Raises
    ------
    ConfigError: an unknown factor, metric or regime, or a value that is no spread.
    """
    section = profile.data.get("uncertainty")
    if section is None:
        return Uncertainty()
    return read_uncertainty(section, f"profile ({profile.name})")


def read_uncertainty(section: object, where: str) -> Uncertainty:
    """An `uncertainty` section, checked; `where` begins its error lines."""
    if not isinstance(section, Mapping):
        raise ConfigError(f"{where}: uncertainty must be a mapping with factors and residual")
    factors = _spreads(section.get("factors", {}), FACTORS, f"{where}: uncertainty.factors")
    table = section.get("residual", {})
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: uncertainty.residual must be a mapping of metrics")
    residual = {}
    for metric, spreads in table.items():
        if metric not in INTERVAL_METRICS:
            raise ConfigError(
                f"{where}: uncertainty.residual has {metric}, known are "
                f"{', '.join(INTERVAL_METRICS)}"
            )
        residual[metric] = _spreads(spreads, REGIMES, f"{where}: uncertainty.residual.{metric}")
    return Uncertainty({**dict.fromkeys(FACTORS, 0.0), **factors}, residual, known=True)


def _spreads(given: object, known: tuple[str, ...], where: str) -> dict[str, float]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where} must be a mapping of {', '.join(known)}")
    for name, value in given.items():
        if name not in known:
            raise ConfigError(f"{where} has {name}, known are {', '.join(known)}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 3:
            raise ConfigError(f"{where}.{name} ({value!r}) must be a relative spread from 0 to 3")
    return {name: float(value) for name, value in given.items()}


def perturbed(profile: Profile, scales: Mapping[str, float]) -> Profile:
    """The profile with each factor scaled: 1.03 makes steps 3 % longer, KV memory 3 % larger.

    Raises
    ------
    ConfigError: an unknown factor, or a scale that is not positive.
    """
    for name, scale in scales.items():
        if name not in FACTORS:
            raise ConfigError(f"factor ({name}) must be one of {', '.join(FACTORS)}")
        if not 0 < scale < float("inf"):
            raise ConfigError(f"scale ({scale}) of {name} must be a positive number")
    if all(scale == 1 for scale in scales.values()):
        return profile
    return _perturbed(profile, tuple(sorted(scales.items())))


@lru_cache(maxsize=512)  # a validation asks for the same few dozen for every run
def _perturbed(profile: Profile, settings: tuple[tuple[str, float], ...]) -> Profile:
    scales = dict(settings)
    data = copy.deepcopy(dict(profile.data))
    data.pop("uncertainty", None)
    every = scales.get("step_time", 1.0)
    for term in data["step_time"]["terms"]:
        term["coefficient"] *= every * scales.get(_part(term), 1.0)
    for section in ("load_time", "frontend"):
        for part, terms in data.get(section, {}).items():
            for term in terms if isinstance(terms, list) else ():  # not its unit and the like
                term["coefficient"] *= scales.get("polls" if part == "poll" else section, 1.0)
    # KV tokens are what memory is left over the bytes of one.
    data["memory"]["kv_bytes_per_token"] /= scales.get("kv_memory", 1.0)
    text = json.dumps(data)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Profile(key=f"{profile.name}~{digest}", text=text, data=data)


def _part(term: Mapping[str, Any]) -> str:
    """Which of batch, slots and adapters a step's term belongs to; "" for the rest."""
    features = {factor if isinstance(factor, str) else factor["of"] for factor in term["factors"]}
    if features & _ADAPTERS:
        return "adapters"
    if features & _SLOTS:
        return "slots"
    return "batch" if features else ""
