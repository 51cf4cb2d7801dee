"""What the package ships: profiles (JSON) and length tables (npz), found and read."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytwin.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PROFILE_SCHEMA = 1
_HERE = Path(__file__).parent
_PROFILES = _HERE / "profiles"
_LENGTHS = _HERE / "lengths"


@dataclass(frozen=True, eq=False)
class Profile:
    """A calibrated (model, GPU, dtype, engine version), as its JSON file states it.

    Attributes
    ----------
    key: the name under which the core holds it; for a file outside the package it carries a
        digest, so that two files of one name never mix.
    text: the JSON document.
    data: the same, parsed.
    """

    key: str
    text: str
    data: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The profile's own name, for example ``llama-3.1-8b-instruct@h100-64gb``."""
        return str(self.data["name"])

    @property
    def model(self) -> str:
        """The model's name, for example ``llama-3.1-8b-instruct``."""
        return str(self.data["model"])

    @property
    def engine_version(self) -> str:
        """The vLLM version on which it was measured."""
        return str(self.data["engine_version"])

    @property
    def is_prior(self) -> bool:
        """Made from shapes and data sheets (`pytwin calibrate prior`), never measured."""
        return bool(self.data.get("provenance", {}).get("kind") == "prior")

    @property
    def server(self) -> Mapping[str, Any]:
        """Settings of the measured server: the defaults of `EngineConfig`."""
        return dict(self.data.get("server", {}))

    @cached_property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """Measured range of each feature; outside it a result is `extrapolated`."""
        return {name: (float(low), float(high)) for name, (low, high) in self._ranges().items()}

    def _ranges(self) -> dict[str, tuple[float, float]]:
        return dict(self.data.get("ranges", {}))

    @property
    def gpu_bytes(self) -> float:
        """Memory of the GPU in bytes, as the driver reports it."""
        return float(self.data["memory"]["gpu_bytes"])


def shipped_profiles() -> list[str]:
    """Names of the profiles in the package, sorted."""
    return sorted(path.stem for path in _PROFILES.glob("*.json"))


def load_profile(profile: str) -> Profile:
    """A shipped profile by name, or any other by the path of its JSON file.

    Raises
    ------
    ConfigError: neither a shipped name nor a readable profile of schema 1.
    """
    shipped = _shipped_path(profile)
    if shipped is not None:
        with contextlib.suppress(FileNotFoundError):
            return _read_profile(shipped, shipped.stat().st_mtime_ns)
    path = Path(profile)
    if path.suffix == ".json" or path.is_file():
        try:
            return _read_profile(path, path.stat().st_mtime_ns)
        except OSError as error:
            raise ConfigError(f"profile ({profile}) cannot be read: {error.strerror}") from None
    names = shipped_profiles()
    close = difflib.get_close_matches(profile, names, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]}? " if close else ""
    raise ConfigError(
        f"profile ({profile}) is unknown: {hint}shipped are {', '.join(names) or 'none'}; "
        "or give the path of a profile JSON"
    )


@lru_cache(maxsize=64)
def _shipped_path(profile: str) -> Path | None:
    """Where a shipped profile of this name would lie: made once, as sweeps ask for each row."""
    return None if "/" in profile else _PROFILES / f"{profile}.json"


def _wrong_part(data: dict[str, Any]) -> str | None:
    """What the Python side cannot read in a profile; the core checks the cost terms itself."""
    for key in ("name", "model", "engine_version"):
        if not isinstance(data.get(key), str):
            return f"{key} ({data.get(key)!r}) must be a text"
    for key in ("memory", "server", "lengths", "ranges", "provenance"):
        if not isinstance(data.get(key, {}), dict):
            return f"{key} must be a mapping"
    gpu_bytes = data.get("memory", {}).get("gpu_bytes")
    if not isinstance(gpu_bytes, (int, float)) or not gpu_bytes > 0:
        return f"memory.gpu_bytes ({gpu_bytes!r}) must be a positive number of bytes"
    wrong = _wrong_early_eos(data.get("early_eos", 0.0))
    if wrong is not None:
        return wrong
    for name, pair in data.get("ranges", {}).items():
        if not (isinstance(pair, list) and len(pair) == 2) or not all(
            isinstance(end, (int, float)) for end in pair
        ):
            return f"ranges.{name} ({pair!r}) must be [least, greatest]"
    return None


def _wrong_early_eos(law: Any) -> str | None:
    """A probability, or {"probability": p, "per_token": h}: of an output of n tokens p + h n."""
    parts = law if isinstance(law, dict) else {"probability": law}
    if "probability" not in parts or not parts.keys() <= {"probability", "per_token"}:
        return f"early_eos ({law!r}) must be a probability, or hold probability and per_token"
    for name, value in parts.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            label = "early_eos" if name == "probability" else f"early_eos.{name}"
            return f"{label} ({value!r}) must be a probability"
    return None


@lru_cache(maxsize=64)
def _read_profile(path: Path, _mtime_ns: int) -> Profile:
    text = path.read_text(encoding="utf-8")
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"profile ({path}) is not JSON: {error}") from None
    if not isinstance(data, dict) or data.get("schema") != PROFILE_SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise ConfigError(
            f"profile ({path}) has schema {found}, this version reads schema {PROFILE_SCHEMA}: "
            "refit it with pytwin calibrate"
        )
    wrong = _wrong_part(data)
    if wrong is not None:
        raise ConfigError(f"profile ({path}): {wrong}: refit it, or see the reference of profiles")
    inside = path.parent == _PROFILES
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Profile(key=data["name"] if inside else f"{data['name']}#{digest}", text=text, data=data)


@dataclass(frozen=True, eq=False)
class LengthTable:
    """A joint law of (prompt, output) token counts.

    Attributes
    ----------
    name: the table's name in the core; tables of one name are equal.
    prompt_tokens, output_tokens: uint32 arrays of one length.
    weights: float64 array of the same length; need not sum to 1.
    pool_means: mean prompt and output tokens of the pools that the measured runs drew from,
        where the file states them; the table is a sample of them and differs by about 1 %.
    """

    name: str
    prompt_tokens: NDArray[np.uint32]
    output_tokens: NDArray[np.uint32]
    weights: NDArray[np.float64]
    pool_means: tuple[float, float] | None = None

    def means(self) -> tuple[float, float]:
        """Mean prompt and output tokens under the weights."""
        total = float(self.weights.sum())
        prompt = float(self.weights @ self.prompt_tokens) / total
        output = float(self.weights @ self.output_tokens) / total
        return prompt, output


def shipped_lengths() -> list[str]:
    """Names of the length tables in the package, sorted."""
    return sorted(path.stem for path in _LENGTHS.glob("*.npz"))


@lru_cache(maxsize=8)
def load_lengths(name: str) -> LengthTable:
    """A shipped length table: arrays prompt_tokens, output_tokens, count, and `told` about them.

    Raises
    ------
    DataError: no such table in the package.
    """
    import numpy as np

    path = _LENGTHS / f"{name}.npz"
    if not path.is_file():
        raise DataError(
            f"length table ({name}) is unknown: shipped are {', '.join(shipped_lengths())}"
        )
    with np.load(path) as file:
        told = json.loads(str(file["told"]))
        return LengthTable(
            name=name,
            prompt_tokens=file["prompt_tokens"].astype(np.uint32),
            output_tokens=file["output_tokens"].astype(np.uint32),
            weights=file["count"].astype(np.float64),
            pool_means=(told["pool_mean_prompt_tokens"], told["pool_mean_output_tokens"]),
        )
