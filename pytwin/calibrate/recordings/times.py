"""How long steps took, from the times of the engine core's process.

Without asynchronous scheduling a step lasts from its schedule() to the next one: schedule, execute,
update, and what the process does in between (the gap). With it, executions run back to back while
the host works ahead: a step lasts from the end of the one before to its own end, seen as the
distance of successive updates, wherever the host really waited for both; elsewhere the device's own
events tell, where they were recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pytwin.record.events import Step
from pytwin.record.read import Recording

FloatArray = npt.NDArray[np.float64]

# An update that begins this much after the host was ready for it was waited for (ms).
_WAITED_MS = 0.05
# Steps known by updates and by the device's events, to tell one from the other.
_BOTH_WAYS = 30
# What is missing of a step's time where the engine went idle behind it, when nothing tells (ms).
_UNKNOWN_GAP_MS = 0.1


class TimedLoad(Protocol):
    """What is needed to know of an adapter load."""

    @property
    def source(self) -> str:
        """Disk or memory."""

    @property
    def ms(self) -> float:
        """How long it took."""

    @property
    def position(self) -> int:
        """Number of its step; -1 before the first one."""


def add_times(
    columns: dict[str, FloatArray],
    recording: Recording,
    steps: Sequence[Step],
    loads: Sequence[TimedLoad],
    *,
    asynchronous: bool,
) -> None:
    """Add the columns of times and loads to those of the features (see `RecordedRun.steps`)."""
    size = len(steps)
    for source in ("disk", "memory"):
        places = [load.position for load in loads if load.source == source and load.position >= 0]
        columns[f"loads_{source}"] = np.bincount(places, minlength=size).astype(np.float64)
    columns["load_ms"] = np.zeros(size)
    for load in loads:
        if load.position >= 0:
            columns["load_ms"][load.position] += load.ms
    t0, t1, t2, t3 = (
        np.array([_time(step, name) for step in steps]) for name in ("t0", "t1", "t2", "t3")
    )
    columns["schedule_ms"] = 1e3 * (t1 - t0)
    columns["update_ms"] = 1e3 * (t3 - t2)
    if asynchronous:
        _asynchronous_times(columns, recording, steps, (t0, t1, t2, t3))
    else:
        _synchronous_times(columns, recording, (t0, t1, t2, t3))
    columns["duration_ms"] -= columns["load_ms"]


def _time(step: Step, name: str) -> float:
    value = getattr(step, name)
    return float("nan") if value is None else float(value)


def _synchronous_times(
    columns: dict[str, FloatArray], recording: Recording, times: tuple[FloatArray, ...]
) -> None:
    t0, t1, t2, t3 = times
    columns["execute_ms"] = 1e3 * (t2 - t1) - columns["load_ms"]
    gap = np.full(len(t0), np.nan)
    index = columns["index"]
    # The next schedule() followed at once if nothing lies between and somebody was left to serve.
    follows = (index[1:] == index[:-1] + 1) & _left_over(recording, columns["index"])[:-1]
    gap[:-1][follows] = 1e3 * (t0[1:] - t3[:-1])[follows]
    columns["gap_ms"] = gap
    usual = float(np.nanmedian(gap)) if follows.any() else _UNKNOWN_GAP_MS
    lasted = 1e3 * (t3 - t0) + np.where(np.isnan(gap), usual, gap)
    columns["duration_ms"] = lasted
    columns["end_s"] = t0 + 1e-3 * lasted


def _left_over(recording: Recording, index: FloatArray) -> npt.NDArray[np.bool_]:
    """Per step, whether requests were in the engine when it had ended."""
    alive: set[str] = set()
    left = {}
    for step in recording.step_events:
        alive.update(step.added)
        alive.difference_update(step.fin)
        left[step.i] = bool(alive)
    return np.array([left[int(i)] for i in index])


def _asynchronous_times(
    columns: dict[str, FloatArray],
    recording: Recording,
    steps: Sequence[Step],
    times: tuple[FloatArray, ...],
) -> None:
    _, t1, t2, _ = times
    calls = [recording.executions.get(step.i) for step in steps]
    launched = np.array([
        t if call is None else max(t, call.call.t + call.call.dt)
        for t, call in zip(t1, calls, strict=True)
    ])  # fmt: skip
    columns["execute_ms"] = 1e3 * (t2 - launched)
    columns["gap_ms"] = np.full(len(t1), np.nan)
    index = columns["index"]
    follows = index[1:] == index[:-1] + 1
    # An update that the host waited for begins when the execution ends; one that it came late to
    # says nothing about the execution.
    waited = np.zeros(len(t1), dtype=bool)
    waited[:-1] = follows & (1e3 * (t2[:-1] - launched[1:]) > _WAITED_MS)
    duration = np.full(len(t1), np.nan)
    behind = follows & waited[1:] & waited[:-1] & (launched[1:] <= t2[:-1])
    duration[1:][behind] = 1e3 * (t2[1:] - t2[:-1])[behind]
    alone = np.append(False, follows & (launched[1:] > t2[:-1])) & waited
    duration[alone] = 1e3 * (t2 - launched)[alone]
    on_device = np.array([
        np.nan if call is None or call.gpu_s is None else 1e3 * call.gpu_s for call in calls
    ])  # fmt: skip
    columns["duration_ms"] = _filled(duration, on_device)
    columns["end_s"] = t2
    # From when the host had nothing to wait for to the next launch: from the end of the execution
    # that it waited for, else from the launch before.
    host = np.full(len(t1), np.nan)
    known = follows[1:] & follows[:-1]
    free = np.where(waited[:-2], t2[:-2], launched[1:-1])
    host[2:][known] = 1e3 * (launched[2:] - free)[known]
    columns["host_ms"] = np.where(host > 0, host, np.nan)


def _filled(seen: FloatArray, on_device: FloatArray) -> FloatArray:
    """Durations that the updates do not tell, from the device's own clock.

    The device's events leave out what lies between two executions: scaled by what the steps take
    that are known both ways.
    """
    both = ~np.isnan(seen) & (on_device > 0)
    ratio = float(np.median(seen[both] / on_device[both])) if both.sum() >= _BOTH_WAYS else 1.0
    return np.where(np.isnan(seen), on_device * ratio, seen)
