"""The timing of GPU steps, with stand-ins for CUDA events: no GPU is needed, none was used."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from pytwin.record.worker_tap import GpuClock


class Stream:
    """A GPU that has done the work up to `now` (ms) of the work queued on it."""

    def __init__(self) -> None:
        self.queued = self.now = 0.0


class Event:
    """As torch.cuda.Event: passes when the work queued before it is done."""

    stream: Stream

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = self.stream.queued

    def query(self) -> bool:
        return self.at <= self.stream.now

    def elapsed_time(self, last: Event) -> float:
        assert last.query(), "asked before it had passed: that would wait"
        return last.at - self.at


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    event = type("TestEvent", (Event,), {"stream": Stream()})
    cuda = SimpleNamespace(is_available=lambda: True, Event=event)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    return event.stream  # type: ignore[attr-defined,no-any-return]


def test_steps_are_timed_once_they_have_passed(stream: Stream) -> None:
    clock = GpuClock()
    clock.begin(0)
    stream.queued += 10.0
    assert clock.end() == []
    clock.begin(1)  # the host runs ahead, as with async scheduling
    stream.queued += 30.0
    stream.now = 10.0
    assert clock.end() == [(0, 0.010)]
    stream.now = 40.0
    clock.begin(2)
    assert clock.end() == [(1, 0.030), (2, 0.0)]


def test_what_never_passes_is_given_up(stream: Stream) -> None:
    clock = GpuClock()
    for k in range(200):
        clock.begin(k)
        stream.queued += 1.0
        assert clock.end() == []
    stream.now = stream.queued
    assert len(clock.end()) <= 64


def test_a_cpu_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for torch in (None, SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False))):
        monkeypatch.setitem(sys.modules, "torch", torch)
        clock = GpuClock()
        clock.begin(0)
        assert clock.end() == []
