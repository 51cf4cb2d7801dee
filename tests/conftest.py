"""What many tests share: a toy profile, the way to the traces, the command line."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

import pytwin as pt

# Deadlines would time the machine, and tests never time.
settings.register_profile("pytwin", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("pytwin")

ROOT = Path(__file__).resolve().parent.parent
TOY = str(ROOT / "tests" / "data" / "toy.json")
LLAMA = "llama-3.1-8b-instruct@h100-64gb"
QWEN = "qwen-2.5-7b-instruct@h100-64gb"


@dataclass(frozen=True)
class Outcome:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def toy() -> Callable[..., pt.EngineConfig]:
    """A server on which every step takes 10 ms, with any settings."""

    def server(**settings: object) -> pt.EngineConfig:
        return pt.EngineConfig(**{"profile": TOY, "max_loras": 8, **settings})

    return server


@pytest.fixture
def cli() -> Callable[..., Outcome]:
    """`cli("simulate", ...)` runs the command line in this process."""
    from pytwin.cli import main

    def run(*arguments: object) -> Outcome:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(argument) for argument in arguments])
        return Outcome(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def traces() -> Path:
    """The directory of real runs; tests that need it are skipped where it is absent."""
    shared = Path(os.environ.get("PYTWIN_SHARED", ROOT.parent / "shared"))
    if not (shared / "traces" / "runs.parquet").is_file():
        pytest.skip(f"no real runs at {shared / 'traces'}: set PYTWIN_SHARED")
    return shared / "traces"
