"""What a person sees of a running sweep: a bar on a terminal, lines in a log; all on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
)
from rich.table import Column
from rich.text import Text

_LINE_EVERY_S = 10.0


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """For what is said on stderr: where nobody can hear it (a full disk), the sweep goes on.

    Nothing more is said then: what waits in the stream's buffer is dropped with it.
    """
    try:
        yield
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stderr.fileno())
        os.close(nowhere)


class ProgressView:
    """Shows configurations/s, simulated hours/s, time left and failures; an `Observer`."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._live = self._console.is_terminal
        self._title = title
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=6)),
            MofNCompleteColumn(),
            _Rates(self),
            console=self._console,
            expand=True,
            disable=not self._live,
        )
        self._task = self._progress.add_task(title, total=None)
        self._rows = self._kept = self._base_rows = self._part_rows = self._failures = 0
        self._base_s = self._part_s = 0.0
        self._began = self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live:
            self._progress.stop()

    def started(self, rows: int, kept_rows: int, kept_failures: int) -> None:
        """See `Observer`."""
        self._rows, self._kept, self._failures = rows, kept_rows, kept_failures
        self._began = self._last_line = time.monotonic()
        if kept_rows:
            self._tell(f"{kept_rows:,} of {rows:,} configurations are there already")
        self._progress.update(self._task, total=rows, completed=kept_rows)
        if self._live:
            self._progress.start()

    def advanced(self, rows: int, simulated_s: float) -> None:
        """See `Observer`."""
        self._part_rows, self._part_s = rows, simulated_s
        self._show()

    def finished_part(self, part: int, rows: int, simulated_s: float, failures: int) -> None:
        """See `Observer`."""
        self._base_rows += rows
        self._base_s += simulated_s
        self._part_rows, self._part_s = 0, 0.0
        self._failures += failures
        self._show()

    def text(self, unit: str = "configurations/s") -> str:
        """`3.1 configurations/s, 3.1 simulated h/s, 0 failed, ETA 0:42`."""
        elapsed = max(time.monotonic() - self._began, 1e-9)
        done = self._base_rows + self._part_rows
        hours = (self._base_s + self._part_s) / 3600.0
        parts = [
            f"{_short(done / elapsed)} {unit}",
            f"{_short(hours / elapsed)} simulated h/s",
            f"{self._failures:,} failed",
        ]
        left = self._rows - self._kept - done
        if done:
            clock = f"ETA {_clock(left * elapsed / done)}" if left else f"took {_clock(elapsed)}"
            parts.append(clock)
        return ", ".join(parts)

    def _show(self) -> None:
        done = self._kept + self._base_rows + self._part_rows
        self._progress.update(self._task, completed=done)
        now = time.monotonic()
        if not self._live and (now - self._last_line >= _LINE_EVERY_S or done == self._rows):
            if done == self._rows and self._part_rows:
                return  # the part is not on disk yet: its own line follows
            self._last_line = now
            self._tell(f"{self._title}: {done:,}/{self._rows:,}, {self.text()}")

    def _tell(self, line: str) -> None:
        with heard():
            self._console.print(line, highlight=False, soft_wrap=True)


class _Rates(ProgressColumn):
    """The rates, beside the bar."""

    def __init__(self, view: ProgressView) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self._view = view

    def render(self, task: Task) -> Text:
        """See rich."""
        return Text(self._view.text("conf/s"))


def _short(rate: float) -> str:
    """Three figures, and no exponent: `3.14`, `829`, `3,720`."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
