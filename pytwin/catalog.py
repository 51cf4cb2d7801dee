"""The profiles that the package ships, and any other profile file."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pytwin.errors import ConfigError

PROFILE_SCHEMA = 1
_PROFILES = Path(__file__).parent / "profiles"


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
    def server(self) -> Mapping[str, Any]:
        """Settings of the measured server: the defaults of `EngineConfig`."""
        return dict(self.data.get("server", {}))

    @property
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
    shipped = _PROFILES / f"{profile}.json"
    if "/" not in profile and shipped.is_file():
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
    missing = [key for key in ("name", "model", "engine_version", "memory") if key not in data]
    if missing:
        raise ConfigError(f"profile ({path}) lacks {', '.join(missing)}: refit it")
    inside = path.parent == _PROFILES
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Profile(key=data["name"] if inside else f"{data['name']}#{digest}", text=text, data=data)
