"""The newest public release of vLLM beside the twin: told, never a failure."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from .reference.stubs import DECIDING
from .versions import VERSIONS, EngineVersion
from .wheels import newest_release, vllm_sources


@dataclass(frozen=True)
class ChangedFile:
    """A deciding file of vLLM with the lines that a release added and removed."""

    path: str
    added: int
    removed: int

    def row(self) -> dict[str, str | int]:
        """As a row of a table."""
        return {"file": self.path, "added": self.added, "removed": self.removed}


def newest() -> tuple[str, EngineVersion]:
    """The newest release that pip finds, and the twin's version that stands nearest to it.

    Raises:
        WheelError: pip finds nothing.
    """
    return newest_release(), VERSIONS[-1]


def changed_files(old: str, new: str) -> list[ChangedFile]:
    """Which of the files that decide differ between two releases, most changed first.

    Raises:
        WheelError: a release cannot be fetched.
    """
    roots = vllm_sources(old), vllm_sources(new)
    changed = []
    for module in sorted(DECIDING):
        path = Path(*module.split(".")).with_suffix(".py")
        before, after = (_lines(root / path) for root in roots)
        if before != after:
            # The first two lines name the files.
            lines = list(difflib.unified_diff(before, after, n=0))[2:]
            added, removed = (sum(x.startswith(sign) for x in lines) for sign in "+-")
            changed.append(ChangedFile(str(path), added, removed))
    return sorted(changed, key=lambda c: -(c.added + c.removed))


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
