"""Starting a vLLM server with the recorder, waiting until it answers, and stopping it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

# A stop gives the engine this long to end by itself before it is killed.
STOP_S = 30.0


class ServerError(RuntimeError):
    """The server did not come up; the message names its log."""


@dataclass(frozen=True)
class Server:
    """A running server."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path
    started_s: float


@contextmanager
def serve(
    python: Path,
    arguments: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str],
    wait_s: float = 900.0,
) -> Iterator[Server]:
    """`vllm serve` with these arguments on a free port, until the block ends.

    Args:
        python: of the environment that holds vLLM.
        arguments: behind `vllm serve`.
        log: takes what the server prints.
        environment: set on top of this process's.
        wait_s: for its first answer.

    Raises:
        ServerError: it ended, or did not answer in time.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(python), "-m", "vllm.entrypoints.cli.main", "serve", *arguments]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    begun = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    try:
        _wait(process, port, log, begun + wait_s)
        yield Server(port, process, log, time.monotonic() - begun)
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the server, as an operator would; then SIGKILL to what is left of its group."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path, deadline: float) -> None:
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerError(f"vllm serve ended with {process.returncode}: see {log}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise ServerError(f"vllm serve did not answer in time: see {log}")
