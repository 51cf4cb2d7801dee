from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytwin.conformance.client import Reference, ReferenceUnavailableError
from pytwin.conformance.versions import engine_version
from pytwin.conformance.wheels import WheelError

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The project's shared material, where this checkout has it."""
    path = Path(os.environ.get("PYTWIN_SHARED") or REPOSITORY.parent / "shared")
    if not path.is_dir():
        pytest.skip(f"no shared material at {path}: set PYTWIN_SHARED")
    return path


@pytest.fixture(scope="session")
def reference_of() -> Iterator[Callable[[str], Reference]]:
    """vLLM's own code, one process per version and test worker."""
    running: dict[str, Reference] = {}
    missing: dict[str, str] = {}

    def get(version: str) -> Reference:
        if version not in running and version not in missing:
            try:
                running[version] = Reference.of(engine_version(version))
            except (WheelError, ReferenceUnavailableError) as error:
                missing[version] = str(error)
        if version in missing:
            pytest.skip(f"vLLM's own code is not to be had: {missing[version]}")
        return running[version]

    yield get
    for reference in running.values():
        reference.close()
