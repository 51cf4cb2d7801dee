"""One sweep per directory: a lock that dies with its process."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from pytwin.errors import DataError

LOCK_NAME = "sweep.lock"


class DirectoryLock:
    """`sweep.lock` in a directory, holding the owner's pid and host, locked with `flock`.

    The system drops the lock when its owner ends, however it ends; a file left behind is
    therefore stale, and is taken over.

    Raises
    ------
    DataError: another process holds it, or the file cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK_NAME
        self._descriptor = -1

    def __enter__(self) -> Self:
        while self._descriptor < 0:
            try:
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise DataError(f"{self._path} cannot be written: {error.strerror}") from None
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = self._owner(descriptor)
                os.close(descriptor)
                raise DataError(
                    f"{self._path.parent} is in use by another sweep ({owner}): "
                    "wait for it, or choose another directory"
                ) from None
            except OSError as error:
                os.close(descriptor)
                raise DataError(
                    f"{self._path} cannot be locked: {error.strerror}; use a local directory"
                ) from None
            # Its last owner may have removed the file between our open and our lock.
            if self._is_current(descriptor):
                self._descriptor = descriptor
            else:
                os.close(descriptor)
        owner = json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n"
        # A full disk must not forbid the lock: the text is only for the message above.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, owner.encode(), 0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._descriptor)
        self._descriptor = -1

    def _is_current(self, descriptor: int) -> bool:
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        ours = os.fstat(descriptor)
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    @staticmethod
    def _owner(descriptor: int) -> str:
        try:
            owner = json.loads(os.pread(descriptor, 4096, 0))
            return f"pid {owner['pid']} on {owner['host']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "owner unknown"
