"""Buffered, bounded, and lost only by the last half second."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import pytest

from pytwin.record import events as ev
from pytwin.record import writer as module
from pytwin.record.writer import Writer

from .conftest import read_json

LOG = "vllm.pytwin.record"


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread writes: only the test does."""
    monkeypatch.setattr(module, "FLUSH_S", 1e6)


def abort(number: int) -> ev.Abort:
    return ev.Abort(t=1.0, id=f"request-{number}", step=number)


@pytest.mark.usefixtures("slow")
def test_lines_are_written_in_order_at_a_flush_and_then_marked(tmp_path: Path) -> None:
    writer = Writer(1 << 30)
    channel, run = writer.open(tmp_path, "run", "requests.jsonl")
    for number in range(1000):
        channel.put(abort(number))
    assert (tmp_path / run / "requests.jsonl").read_bytes() == b""
    writer.flush()
    assert [e["step"] for e in read_json(channel.path)] == list(range(1000))
    writer.flush()
    writer.flush()  # one mark per silence
    assert [e["e"] for e in read_json(channel.path)][999:] == ["abort", "mark"]
    channel.put(abort(7))
    writer.flush()
    writer.close()
    assert [e["e"] for e in read_json(channel.path)][1000:] == ["mark", "abort", "end"]
    assert read_json(channel.path)[-1]["reason"] == "closed"


def test_a_thread_writes_within_the_second(tmp_path: Path) -> None:
    writer = Writer(1 << 30)
    channel, _ = writer.open(tmp_path, "run", "steps.jsonl")
    channel.put(abort(1))
    for _ in range(1000):  # the condition ends it; the bound only keeps a failure short
        if channel.path.stat().st_size:
            break
        time.sleep(0.01)
    assert read_json(channel.path)[0]["id"] == "request-1"
    writer.close()


@pytest.mark.usefixtures("slow")
def test_a_second_server_of_the_process_gets_a_directory_of_its_own(tmp_path: Path) -> None:
    writer = Writer(1 << 30)
    names = [writer.open(tmp_path, "run", "steps.jsonl")[1] for _ in range(3)]
    assert names == ["run", "run-2", "run-3"]
    assert writer.open(tmp_path, "run", "worker.jsonl")[1] == "run"
    writer.close()


@pytest.mark.usefixtures("slow")
def test_a_recording_ends_at_its_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = Writer(1 << 20)
    channel, _ = writer.open(tmp_path, "run", "requests.jsonl")
    with caplog.at_level(logging.WARNING, LOG):
        for number in range(40_000):
            channel.put(abort(number))
        writer.flush()
    assert not writer.active
    assert [record.message for record in caplog.records] == [
        "pytwin record: recording stopped (PYTWIN_RECORD_MAX_MB (1) is reached); the server goes on"
    ]
    last = read_json(channel.path)[-1]
    assert (last["e"], last["reason"]) == ("end", "stopped: PYTWIN_RECORD_MAX_MB (1) is reached")


@pytest.mark.usefixtures("slow")
def test_memory_is_bounded_when_the_disk_does_not_keep_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUFFER_BYTES", 10_000)
    writer = Writer(1 << 30)
    channel, _ = writer.open(tmp_path, "run", "requests.jsonl")
    for number in range(100):
        channel.put(abort(number))
    monkeypatch.setattr(module.Channel, "flush", lambda self: 0)
    writer.flush()
    assert writer.active
    for number in range(1000):
        channel.put(abort(number))
    writer.flush()
    assert not writer.active


@pytest.mark.usefixtures("slow")
def test_a_full_disk_ends_the_recording_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer = Writer(1 << 30)
    channel, _ = writer.open(tmp_path, "run", "requests.jsonl")
    channel.put(abort(1))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with caplog.at_level(logging.WARNING, LOG), monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        writer.flush()
        writer.flush()
    assert not writer.active
    assert len(caplog.records) == 1
    assert "No space left on device" in caplog.records[0].message


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", dedent(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


SERVER = """
    import os, signal, sys, time
    from pathlib import Path
    from pytwin.record import events as ev
    from pytwin.record.writer import Writer
    writer = Writer(1 << 30)
    channel, _ = writer.open(Path(sys.argv[1]), "run", "requests.jsonl")
    for number in range(int(sys.argv[2])):
        channel.put(ev.Abort(t=time.monotonic(), id=f"request-{number}", step=number))
"""


def test_a_process_that_ends_closes_its_files(tmp_path: Path) -> None:
    done = run(SERVER, tmp_path, 50)
    assert done.returncode == 0, done.stderr
    events = read_json(tmp_path / "run" / "requests.jsonl")
    assert len(events) == 51
    assert (events[-1]["e"], events[-1]["lines"]) == ("end", 50)


def test_a_killed_process_has_written_all_but_its_last_moment(tmp_path: Path) -> None:
    kill = """
    time.sleep(1.3)
    channel.put(ev.Abort(t=0.0, id="too late", step=0))
    os.kill(os.getpid(), signal.SIGKILL)
    """
    done = run(SERVER + kill, tmp_path, 50)
    assert done.returncode == -9
    events = read_json(tmp_path / "run" / "requests.jsonl")
    assert [e["e"] for e in events] == ["abort"] * 50 + ["mark"]


def test_a_forked_child_writes_nothing_of_its_parents(tmp_path: Path) -> None:
    fork = """
    if os.fork() == 0:
        channel.put(ev.Abort(t=0.0, id="of the child", step=0))
        writer.flush()
        sys.exit(0)
    os.wait()
    """
    done = run(SERVER + fork, tmp_path, 5)
    assert done.returncode == 0, done.stderr
    events = read_json(tmp_path / "run" / "requests.jsonl")
    assert [e["e"] for e in events] == ["abort"] * 5 + ["end"]


def test_a_forked_child_records_for_itself(tmp_path: Path) -> None:
    """vLLM may fork its engine core from the API server, where the plug-in is loaded already."""
    fork = """
    import multiprocessing, sys, time
    from pathlib import Path
    from pytwin.record import events as ev
    from pytwin.record.writer import Writer
    writer = Writer(1 << 30)

    def engine() -> None:
        channel, _ = writer.open(Path(sys.argv[1]), "run", "steps.jsonl")
        channel.put(ev.Abort(t=0.0, id="of the child", step=0))

    if sys.argv[2] == "open":
        parent, _ = writer.open(Path(sys.argv[1]), "run", "requests.jsonl")
        parent.put(ev.Abort(t=0.0, id="of the parent", step=0))
    child = multiprocessing.get_context("fork").Process(target=engine)
    child.start()
    child.join()
    assert child.exitcode == 0
    """
    for parent in ("open", "silent"):
        done = run(fork, tmp_path / parent, parent)
        assert done.returncode == 0, done.stderr
        events = read_json(tmp_path / parent / "run" / "steps.jsonl")
        assert [e["e"] for e in events] == ["abort", "end"]
        assert events[0]["id"] == "of the child"
    (mine, end) = read_json(tmp_path / "open" / "run" / "requests.jsonl")
    assert (mine["id"], end["reason"]) == ("of the parent", "closed")
