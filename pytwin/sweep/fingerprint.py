"""What decides the bits of a result besides its inputs: the code, by its content."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from pytwin import _core

# The modules that turn a specification into the core's documents, and its answers into a frame.
MODULES = (
    "catalog.py",
    "config.py",
    "simulation.py",
    "sweep/designs.py",
    "sweep/expand.py",
    "sweep/keys.py",
    "sweep/rows.py",
    "sweep/spec.py",
    "sweep/where.py",
    "workload/*.py",
)
"""As patterns under the package's directory."""


@lru_cache(maxsize=1)
def code_digests() -> dict[str, str]:
    """SHA-256 of the compiled core (`core`) and of the modules that feed it (`python`).

    A core that was built anew has the version of the old one: only its content tells them apart.
    """
    package = Path(__file__).resolve().parents[1]
    files = sorted(path for pattern in MODULES for path in package.glob(pattern))
    python = hashlib.sha256()
    for path in files:
        python.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    core = hashlib.sha256(Path(_core.__file__).read_bytes()).hexdigest()
    return {"core": core, "python": python.hexdigest()}
