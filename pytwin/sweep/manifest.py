"""`manifest.json`: what a directory of results was made from, and by what."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import platform
import socket
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pytwin import _core
from pytwin.catalog import load_profile
from pytwin.errors import DataError, PytwinError
from pytwin.sweep.expand import Design
from pytwin.sweep.fingerprint import code_digests
from pytwin.sweep.spec import seed_values
from pytwin.workload import ShareGpt

MANIFEST_NAME = "manifest.json"
SCHEMA = 1

_IDENTITY = (
    "schema", "pytwin_version", "core_version", "spec", "code", "profiles", "lengths", "columns",
)  # fmt: skip
# Manifests of before have none: they can be read, and not gone on with.
_LATER = {"code"}


def new_manifest(
    design: Design, columns: Mapping[str, Any], workers: int, engine: str = "local"
) -> dict[str, Any]:
    """The manifest of a sweep that starts now.

    `spec`, `pytwin_version`, `code`, `profiles`, `lengths` and `columns` decide the results: a
    resumed sweep must have them all alike. The rest (host, commit, times) is for people.
    """
    spec = design.spec
    profiles, lengths = _digests(design)
    return {
        "schema": SCHEMA,
        "name": spec.name,
        "status": "running",
        "pytwin_version": version("pytwin"),
        "core_version": _core.__version__,
        "code": code_digests(),
        "spec_sha256": spec.sha256(),
        "spec": spec.canonical(),
        "seeds": list(seed_values(spec)),
        "profiles": profiles,
        "lengths": lengths,
        "rows": design.n_rows,
        "part_rows": design.part_rows,
        "parts": design.n_parts,
        "columns": {name: str(dtype) for name, dtype in columns.items()},
        "created": now(),
        "finished": None,
        "engine": engine,
        "workers": workers,
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "polars": version("polars"),
        "git_commit": _git_commit(),
        "summary": None,
    }


def now() -> str:
    """The time of day, UTC, to the second."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a directory.

    Raises
    ------
    DataError: there is none, or it is unreadable.
    """
    path = directory / MANIFEST_NAME
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{directory} holds no sweep: it has no {MANIFEST_NAME}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise DataError(
            f"{path} is damaged (no JSON): restore it, or sweep into another directory"
        ) from None
    if isinstance(manifest, dict) and manifest.get("schema", SCHEMA) != SCHEMA:
        raise DataError(
            f"{path} has schema {manifest['schema']}, this version of pytwin has {SCHEMA}: "
            "sweep into another directory"
        )
    if not isinstance(manifest, dict) or not all(
        name in manifest for name in _IDENTITY if name not in _LATER
    ):
        raise DataError(
            f"{path} is damaged (keys are missing): restore it, or sweep into another directory"
        )
    return manifest


class ChangedError(DataError):
    """The directory holds a sweep whose results would differ from the one asked for."""


def refuse_changes(directory: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse to go on with a sweep whose results would differ from those already there.

    Raises
    ------
    ChangedError: names the first thing that changed, from what to what.
    """
    for name in _IDENTITY:
        there = old.get(name, {}) if name in _LATER else old[name]
        if there != new[name]:
            change = _change(name, there, new[name])
            raise ChangedError(
                f"{directory} holds a sweep with another {change}: "
                "undo the change, or sweep into another directory"
            )


def _change(name: str, old: Any, new: Any) -> str:
    """`grid.max_loras ([8] there, [8, 16] here)`: the first difference, as deep as it goes."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if old.get(key) != new.get(key):
                return _change(f"{name}.{key}", old.get(key), new.get(key))
        return f"{name} (other order of keys)"
    return f"{name} ({_shown(old)} there, {_shown(new)} here)"


def _shown(value: Any) -> str:
    text = "nothing" if value is None else " ".join(json.dumps(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def _digests(design: Design) -> tuple[dict[str, str | None], dict[str, str]]:
    """SHA-256 of each profile and of each length table that rows may use.

    A profile that cannot be read is None here, and an error in each of its rows.
    """
    profiles: dict[str, str | None] = {}
    lengths: dict[str, str] = {}
    for name in sorted(design.values_of("profile")):
        try:
            profile = load_profile(name)
        except PytwinError:
            profiles[name] = None
            continue
        profiles[name] = hashlib.sha256(profile.text.encode()).hexdigest()
        try:
            table = ShareGpt().resolve(profile).table
        except PytwinError:
            continue  # a profile without a table: only other length laws can be used with it
        if table is not None:
            digest = hashlib.sha256()
            for array in (table.prompt_tokens, table.output_tokens, table.weights):
                digest.update(array.tobytes())
            lengths[table.name] = digest.hexdigest()
    return profiles, lengths


def _git_commit() -> str | None:
    """Commit of the checkout that the package lies in; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(  # noqa: S603 - our own words only
            [  # noqa: S607 - whichever git the user has
                "git",
                "-C",
                str(root),
                "describe",
                "--always",
                "--dirty",
                "--abbrev=40",
            ],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
