"""What was learned from the measured profiles: read from, and written to, `learned.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pytwin.calibrate.prior.architecture import Architecture
from pytwin.calibrate.prior.config_json import architecture_of
from pytwin.calibrate.prior.memory import MemoryConstants
from pytwin.errors import ConfigError, DataError

_HERE = Path(__file__).parent
FILE = _HERE / "learned.json"
_MODELS = _HERE / "models.json"


@dataclass(frozen=True)
class Loads:
    """Adapter loads: host time per tensor copied, file time per tensor and byte.

    padded_us_per_copy: more, where the slot is wider than the adapter. pcie_efficiency: least
    share of the host link's data sheet figure that the measured loads prove.
    """

    us_per_copy: float
    padded_us_per_copy: float
    disk_us_per_copy: float
    disk_us_per_byte: float
    pcie_efficiency: float


@dataclass(frozen=True)
class Learned:
    """Factors of the drivers, constants of memory, loads and front end, and their spreads.

    profiles: what they were learned from (name, gpu, model, digest). step: factor per driver.
    queue: step terms of the waiting queue. frontend: terms of the profile's `frontend`. early_eos:
    as in a profile. spread: relative standard deviations by the names of a profile's
    `uncertainty.factors`, on the measured GPU; that of KV memory in bytes, as kv_bytes, that of
    throughput by early ends, as throughput. ranges: what all the profiles measured.
    """

    profiles: tuple[dict[str, str], ...]
    step: dict[str, float]
    queue: list[dict[str, Any]]
    loads: Loads
    frontend: dict[str, list[dict[str, Any]]]
    early_eos: float | dict[str, float]
    memory: MemoryConstants
    spread: dict[str, float]
    ranges: dict[str, list[float]]

    @property
    def gpus(self) -> set[str]:
        """GPUs that the profiles were measured on."""
        return {profile["gpu"] for profile in self.profiles}

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def from_document(data: dict[str, Any]) -> Learned:
    """The inverse of `Learned.document`."""
    return Learned(
        profiles=tuple(data["profiles"]),
        step=data["step"],
        queue=data["queue"],
        loads=Loads(**data["loads"]),
        frontend=data["frontend"],
        early_eos=data["early_eos"],
        memory=MemoryConstants(**data["memory"]),
        spread=data["spread"],
        ranges=data["ranges"],
    )


@lru_cache(maxsize=1)
def shipped() -> Learned:
    """What the package learned from its own profiles.

    Raises
    ------
    DataError: the file is absent or damaged (an installation that was tampered with).
    """
    try:
        return from_document(json.loads(FILE.read_text(encoding="utf-8")))
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(
            f"learned efficiencies ({FILE}) cannot be read ({type(error).__name__}): "
            "python -m pytwin.calibrate.prior.learn writes them anew"
        ) from None


@lru_cache(maxsize=1)
def _configs() -> dict[str, dict[str, Any]]:
    models: dict[str, dict[str, Any]] = json.loads(_MODELS.read_text(encoding="utf-8"))["models"]
    return models


def known_models() -> list[str]:
    """Models whose shapes are in the package, sorted."""
    return sorted(_configs())


def known_config(name: str) -> dict[str, Any]:
    """The keys of a known model's config.json that priors read.

    Raises
    ------
    ConfigError: unknown, with the known ones.
    """
    if name not in _configs():
        raise ConfigError(
            f"model ({name}) is unknown: known are {', '.join(known_models())}; for another give "
            "its config.json"
        )
    return dict(_configs()[name])


def known_architecture(name: str) -> Architecture:
    """The shapes of a known model."""
    return architecture_of(known_config(name), where=name)
