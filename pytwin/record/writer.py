"""Writing a recording from inside a server: buffered, bounded, out of the way.

Lines are encoded where the event happens (a few microseconds) and written by one thread, twice a
second, so a killed process loses at most the last half second and a torn last line. Encoding in
the thread instead would hold the interpreter's lock for longer at a time and delay the server.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from multiprocessing.util import Finalize
from pathlib import Path

import msgspec

from . import events as ev

FLUSH_S = 0.5
BUFFER_BYTES = 64 << 20  # not yet written; beyond that the disk does not keep up
_LOG = logging.getLogger("vllm.pytwin.record")  # below "vllm", whose handlers the server sets up
_encode = msgspec.json.Encoder().encode


class Channel:
    """One file of a recording. `put` may be called from one thread; a flush from another."""

    def __init__(self, writer: Writer, path: Path) -> None:
        self.path = path
        # Exclusive: a recording is never appended to by a second run.
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self._writer = writer
        self._pending: deque[bytes] = deque()  # append and popleft are atomic
        self._unmarked = False  # lines were written since the last mark
        self.lines = 0

    def put(self, event: ev.Event) -> None:
        """Queues one line."""
        line = _encode(event)
        self._pending.append(line)
        self.lines += 1
        self._writer.queued += len(line) + 1

    def flush(self) -> int:
        """Writes what is queued; the number of bytes.

        Raises:
            OSError: the disk is full or gone.
        """
        taken = [self._pending.popleft() for _ in range(len(self._pending))]
        if not taken:
            if not self._unmarked:
                return 0
            self._unmarked = False
            taken = [_encode(ev.Mark(t=time.monotonic(), cost=self._cost()))]
        else:
            self._unmarked = True
        taken.append(b"")
        data = memoryview(b"\n".join(taken))
        done = 0
        while done < len(data):
            done += os.write(self._fd, data[done:])
        return done

    def end(self, reason: str) -> None:
        """Writes the last line and closes the file.

        Raises:
            OSError: the disk is full or gone.
        """
        self.put(ev.End(t=time.monotonic(), reason=reason, lines=self.lines, cost=self._cost()))
        try:
            self.flush()
        finally:
            os.close(self._fd)

    def _cost(self) -> float:
        """The process's cost is booked on its first file."""
        return self._writer.cost_s if self._writer.first is self else 0.0


class Writer:
    """All files that this process writes, and the thread that writes them.

    Attributes:
        active: False once the recorder has given up or was closed; nothing is recorded then.
        cost_s: seconds spent in the recorder's own code on the server's threads.
        queued: bytes that were ever queued.
    """

    def __init__(self, max_bytes: int) -> None:
        self.active = True
        self._max_bytes = max_bytes
        self._start()
        # vLLM may fork its engine core from the process that loaded the plug-in: the child begins
        # anew, and what the parent has queued is the parent's to write.
        os.register_at_fork(after_in_child=self._start)

    def _start(self) -> None:
        self.cost_s = 0.0
        self.queued = 0
        self._written = 0
        self._channels: list[Channel] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self, base: Path, run: str, name: str) -> tuple[Channel, str]:
        """Opens `name` in the run's directory; also returns the directory's name.

        It is `RUN-2`, `RUN-3`, ... if an earlier server of the same process tree left one in `RUN`.

        Raises:
            OSError: the directory cannot be written.
        """
        for number in range(1, 1000):
            directory = base / (run if number == 1 else f"{run}-{number}")
            directory.mkdir(parents=True, exist_ok=True)
            try:
                channel = Channel(self, directory / name)
            except FileExistsError:
                continue
            with self._lock:
                self._channels.append(channel)
            if self._thread is None:
                # Runs at the end of a process whether Python or multiprocessing ends it.
                Finalize(None, self.close, exitpriority=100)
                self._thread = threading.Thread(target=self._run, name="pytwin-record", daemon=True)
                self._thread.start()
            return channel, directory.name
        raise FileExistsError(f"{base / run} exists a thousand times")

    def flush(self) -> None:
        """Writes all that is queued."""
        try:
            with self._lock:
                self._written += sum(channel.flush() for channel in self._channels)
        except (OSError, ValueError) as error:
            self.fail(f"cannot write: {error}")
            return
        if self.queued - self._written > BUFFER_BYTES:
            self.fail(f"the disk is too slow: {BUFFER_BYTES >> 20} MiB wait")
        elif self._written > self._max_bytes:
            self.fail(f"PYTWIN_RECORD_MAX_MB ({self._max_bytes >> 20}) is reached")

    def fail(self, reason: str) -> None:
        """Ends the recording for good, in one line of the log; the server goes on."""
        if not self.active:
            return
        self.active = False
        _LOG.warning("pytwin record: recording stopped (%s); the server goes on", reason)
        self._finish(f"stopped: {reason}")

    @property
    def first(self) -> Channel | None:
        """The first file that this process opened."""
        return self._channels[0] if self._channels else None

    def close(self) -> None:
        """Ends the recording at the server's end."""
        if self.active:
            self.active = False
            self._finish("closed")

    def _finish(self, reason: str) -> None:
        self._stop.set()
        with self._lock:
            for channel in self._channels:
                with contextlib.suppress(OSError):  # said already, or nothing more can be said
                    channel.end(reason)
            self._channels.clear()

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_S):
            self.flush()
