"""Sweeps on the machines of a Ray cluster: parts are its tasks, the files stay with the driver.

A part is the same bytes wherever it is made: a worker with other code or another polars refuses.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import socket
import tempfile
import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pytwin.catalog import load_profile
from pytwin.errors import ConfigError, DataError, PytwinError
from pytwin.simulation import Twin
from pytwin.sweep.engine import MadePart, Progress, default_workers, simulated_s, status_counts
from pytwin.sweep.expand import Design, Row
from pytwin.sweep.fingerprint import code_digests
from pytwin.sweep.keys import Key
from pytwin.sweep.rows import simulate_rows
from pytwin.sweep.store import encode

# How often a part is begun anew when its worker or its machine is lost.
_RETRIES = 8
# Parts in work per core of the cluster: the second one waits where the first is simulated.
_AHEAD = 2
_POLL_S = 0.2
_KNOCK_S = 5.0
# A cluster of our own holds a few parts at a time, of a few MB each.
_OBJECT_STORE_BYTES = 128 * 1024 * 1024


@dataclass(frozen=True)
class _Common:
    """What every part of a sweep needs: sent to each machine once."""

    columns: list[Key]
    identity: dict[str, str]
    profiles: dict[str, str]


class RayEngine:
    """Parts as tasks of a Ray cluster; a context manager that holds the connection.

    Parameters
    ----------
    workers: parts in work at once; by default twice as many as the cluster has cores, with one
        core each.
    address: of a running cluster (HOST:PORT); left out, the one that runs on this machine, else
        one is started here, and ends with the context. "local" starts one in any case.

    Raises
    ------
    ConfigError: Ray is not installed, or no cluster answers at `address`.
    """

    def __init__(self, workers: int | None = None, address: str | None = None) -> None:
        self._ray = _import_ray()
        self._limit = workers
        self._address = address
        self._owns_connection = False
        self.workers = workers or default_workers()

    def __enter__(self) -> Self:
        if not self._ray.is_initialized():
            self._connect()
            self._owns_connection = True
        self.workers = self._limit or self._cores()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._owns_connection:
            self._ray.shutdown()
            self._owns_connection = False

    def make(self, design: Design, parts: Sequence[int], progress: Progress) -> Generator[MadePart]:
        """See `Engine`; a lost worker's part is begun anew elsewhere."""
        ray = self._ray
        common = ray.put(_Common(design.columns, identity(), _own_profiles(design)))
        task = ray.remote(num_cpus=1, max_retries=_RETRIES, retry_exceptions=False)(simulate_part)
        waiting = deque(parts)
        running: dict[Any, int] = {}
        limit, looked = self._width(), time.monotonic()
        try:
            while waiting or running:
                if time.monotonic() - looked > 1.0:  # machines come and go
                    limit, looked = self._width(), time.monotonic()
                while waiting and len(running) < limit:
                    part = waiting.popleft()
                    rows = list(design.rows(*design.part_range(part)))
                    running[task.remote(common, part, rows)] = part
                finished, _ = ray.wait(list(running), num_returns=1, timeout=_POLL_S)
                for reference in finished:
                    yield self._answer(reference, running.pop(reference))
                if not finished:
                    progress(0, 0.0)
        finally:
            if not self._owns_connection:  # else they end with it
                for reference in running:
                    ray.cancel(reference, force=True)

    def _connect(self) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        address = self._address or os.environ.get("RAY_ADDRESS")
        if address == "local":
            self._start(options)
        elif address is not None:
            self._connect_to(address, options)
        else:
            try:
                self._ray.init(address="auto", **options)
            except ConnectionError:
                self._start(options)

    def _connect_to(self, address: str, options: dict[str, Any]) -> None:
        try:
            _knock(address)  # Ray itself would try for a quarter of an hour
            self._ray.init(address=address, **options)
        except Exception as error:  # Ray has no one class for what may be wrong there
            raise ConfigError(
                f"address ({address}) leads to no Ray cluster that answers "
                f"({_first_line(error)}): start one with ray start --head, or leave it out; one "
                "that asks for a token needs RAY_AUTH_MODE=token"
            ) from None

    def _start(self, options: dict[str, Any]) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            self._ray.init(
                address="local",
                num_cpus=self._limit or default_workers(),
                object_store_memory=_OBJECT_STORE_BYTES,
                include_dashboard=False,
                **options,
            )
        except Exception as error:
            raise DataError(
                f"a Ray cluster cannot be started here ({_first_line(error)}): start one with ray "
                "start --head and give its address, or leave out --engine ray"
            ) from None

    def _cores(self) -> int:
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def _width(self) -> int:
        return self._limit or _AHEAD * self._cores()

    def _answer(self, reference: Any, part: int) -> MadePart:
        errors = self._ray.exceptions
        try:
            made: MadePart = self._ray.get(reference)
        except errors.RayTaskError as error:
            raise _of_worker(error, part) from None
        except errors.RayError as error:
            raise DataError(
                f"part {part} was lost {_RETRIES + 1} times with its worker "
                f"({type(error).__name__}): look after the cluster's memory and machines, then go "
                "on with --resume"
            ) from None
        return made


def simulate_part(common: _Common, part: int, rows: list[Row]) -> MadePart:
    """One part, on a worker.

    Raises
    ------
    ConfigError: this worker's code would give other bytes than the driver's.
    """
    for name, here in identity().items():
        there = common.identity.get(name)
        if here != there:
            raise ConfigError(
                f"{name} on {socket.gethostname()} ({_short(here)}) must be that of the driver "
                f"({_short(there)}): install the same pytwin and polars on every machine"
            )
    twin = _twin(fresh=False)
    if twin.crowded:
        twin = _twin(fresh=True)
    places = _placed(tuple(sorted(common.profiles.items())))
    frame = simulate_rows(twin, rows, common.columns, 1, profiles=places)
    return MadePart(part, frame.height, encode(frame), status_counts(frame), simulated_s(rows))


def identity() -> dict[str, str]:
    """What must be alike on every machine for a part to have the same bytes."""
    return {
        "pytwin": version("pytwin"),
        "polars": version("polars"),
        **{f"code.{name}": digest for name, digest in code_digests().items()},
    }


_twins: list[Twin] = []


def _twin(*, fresh: bool) -> Twin:
    """The twin of this process, kept from part to part."""
    if fresh or not _twins:
        _twins[:] = [Twin()]
    return _twins[0]


def _own_profiles(design: Design) -> dict[str, str]:
    """The text of each profile that is a file of the user's, by the name that rows give it."""
    texts = {}
    for name in sorted(design.values_of("profile")):
        try:
            profile = load_profile(name)
        except PytwinError:
            continue  # an error in each of its rows
        if profile.key != profile.name:
            texts[name] = profile.text
    return texts


@lru_cache(maxsize=8)
def _placed(profiles: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Write profiles where this worker can read them; path by name."""
    if not profiles:
        return {}
    directory = Path(tempfile.mkdtemp(prefix="pytwin-profiles-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    places = {}
    for number, (name, text) in enumerate(profiles):
        path = directory / f"{number}.json"
        path.write_text(text, encoding="utf-8")
        places[name] = str(path)
    return places


def _of_worker(error: Any, part: int) -> PytwinError:
    """An exception that a worker raised, in one line."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, PytwinError):
        return type(cause)(str(cause))
    text = str(error)
    if "No module named 'pytwin" in text:
        return ConfigError(
            f"the cluster's workers have no pytwin: install pytwin {version('pytwin')} on every "
            "machine"
        )
    reason = _first_line(cause) if cause is not None else _last_line(text)
    return DataError(f"part {part} failed on a worker ({reason}): please report it")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "unknown")


def _knock(address: str) -> None:
    """Whether anything answers at HOST:PORT; other addresses ("auto") are Ray's to judge.

    Raises
    ------
    OSError: nothing does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()


def _short(digest: str | None) -> str:
    return "nothing" if digest is None else digest[:12]


def _import_ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise ConfigError(
            "engine (ray) needs Ray, which is not installed: pip install 'pytwin[ray]'"
        ) from None
    return ray
