"""Starts the reference process and speaks to it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from pytwin.errors import PytwinError

from .versions import EngineVersion
from .wheels import vllm_sources

# What vLLM's deciding modules import at their top and is not stubbed.
NEEDED = ("msgspec", "cachetools", "numpy")


class ReferenceUnavailableError(PytwinError):
    """vLLM's own code cannot be run here; the message is one line."""


class ReferenceRaisedError(RuntimeError):
    """vLLM's own code raised on a case (an assertion, say): there is no trace to compare with."""


class Reference:
    """vLLM's own scheduler of one version, in a process of its own.

    Args:
        sources: the directory that holds vLLM's files.

    Raises:
        ReferenceUnavailableError: a dependency is missing, or the files do not load.
    """

    def __init__(self, sources: Path) -> None:
        missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            names = " ".join(missing)
            raise ReferenceUnavailableError(
                f"conformance needs {names}: {sys.executable} -m pip install {names}"
            )
        # A fixed hash seed makes the order of vLLM's adapter sets, hence the trace, repeatable.
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        package_root = str(Path(__file__).parents[2])
        paths = [package_root, *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        self._process = subprocess.Popen(  # noqa: S603 -- our own interpreter and module
            [sys.executable, "-m", "pytwin.conformance.reference", "--sources", str(sources)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        if not self._read():
            reason = self._last_words()
            self.close()
            raise ReferenceUnavailableError(
                f"vLLM's files in {sources} do not load ({reason}): remove them, "
                "they are fetched again"
            )

    @classmethod
    def of(cls, version: EngineVersion) -> Reference:
        """The reference of a version, its files fetched where needed.

        Raises:
            WheelError: they cannot be fetched.
            ReferenceUnavailableError: as the constructor.
        """
        return cls(vllm_sources(version.wheel))

    def trace(self, case: Mapping[str, Any]) -> list[str]:
        """The trace of a materialised case, as JSON lines.

        Raises:
            ReferenceRaisedError: vLLM's code raised, or never finishes the case.
        """
        to_process = _pipe(self._process.stdin)
        to_process.write(json.dumps(case, separators=(",", ":")) + "\n")
        to_process.flush()
        lines: list[str] = []
        while line := self._read():
            lines.append(line)
            if line.startswith('{"type":"summary"'):
                return lines
            if line.startswith('{"type": "error"'):
                raise ReferenceRaisedError(json.loads(line)["error"])
        raise ReferenceRaisedError(f"the reference process died: {self._last_words()}")

    def close(self) -> None:
        """Ends the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _read(self) -> str:
        return _pipe(self._process.stdout).readline().rstrip("\n")

    def _last_words(self) -> str:
        self._process.kill()
        lines = _pipe(self._process.stderr).read().strip().splitlines()
        return lines[-1] if lines else "no message"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _pipe(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise RuntimeError("the reference process has no pipe")
    return stream
