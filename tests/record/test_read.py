"""Whole recordings read; broken, truncated, mixed and empty ones are errors in one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytwin.errors import DataError
from pytwin.record import events as ev
from pytwin.record.read import RecordingError, read_recording, recordings

from .conftest import (
    RUN,
    header,
    lines,
    requests_file,
    step,
    steps_file,
    worker_file,
    write,
)


def test_a_whole_recording(recording: Path) -> None:
    read = read_recording(recording)
    assert read.name == "run"
    assert read.header.config["num_blocks"] == 21
    assert read.worker is not None
    assert read.worker.device == "a processor"
    assert (read.closed, read.stopped, read.torn) == (True, "", ())
    assert read.cost_s == pytest.approx(0.003)
    assert [s.i for s in read.step_events] == [0, 2, 3]
    assert sorted(read.executions) == [0, 2, 3]
    assert read.preloaded == [9]
    assert [type(e).__name__ for e in read.executions[0].lora] == ["LoraLoad", "LoraActivate"]
    assert read.executions[2].gpu_s == 0.39


def test_a_directory_that_holds_one_recording_stands_for_it(recording: Path) -> None:
    assert read_recording(recording.parent).path == recording
    (recording.parent / "notes.txt").write_text("of the day")
    (recording / "frontend-7.jsonl").write_bytes(lines([ev.File(format=1, run=RUN)]))
    assert recordings(recording.parent) == [recording]


def test_an_api_servers_file_alone_is_no_recording(tmp_path: Path) -> None:
    (tmp_path / "frontend-7.jsonl").write_bytes(lines([ev.File(format=1, run=RUN)]))
    with pytest.raises(RecordingError, match="holds no recording"):
        recordings(tmp_path)


# -- what is wrong with a recording, and how it is told ------------------------------------------


def cut(make: Callable[[], list[ev.Event]], number: int) -> list[ev.Event]:
    events = make()
    del events[number]
    return events


BROKEN = {
    "a line that is no JSON": (
        {"steps": lines(steps_file()[:2]) + b"{oops}\n" + lines(steps_file()[2:])},
        r"steps\.jsonl line 3 .* is broken",
    ),
    "a line of another kind": (
        {"worker": lines(worker_file()[:1]) + b'{"e":"laughter"}\n' + lines(worker_file()[1:])},
        r"worker\.jsonl line 2 .* is broken",
    ),
    "a field that is missing": (
        {"requests": lines(requests_file()[:1]) + b'{"e":"req","id":"a"}\n'},
        r"requests\.jsonl line 2 .* is broken \(.*missing required field",
    ),
    "bytes that are no text": ({"steps": b"\xff\xfe\n" + lines(steps_file())}, "line 1 .* broken"),
    "an empty line inside": (
        {"steps": lines(steps_file()[:2]) + b"\n" + lines(steps_file()[2:])},
        "line 3 .* broken",
    ),
    "an empty file": ({"worker": b""}, r"worker\.jsonl is empty"),
    "no steps' file": ({"steps": None}, "has no header"),
    "no requests' file": ({"requests": None}, r"has no requests\.jsonl"),
    "no header": ({"steps": steps_file()[1:]}, "has no header"),
    "two headers": ({"steps": [header(), *steps_file()]}, "has 2 headers"),
    "no first line": ({"worker": worker_file()[1:]}, r"worker\.jsonl lacks its first line"),
    "no step": ({"steps": [header()]}, "is empty: no request was served"),
    "a newer format": (
        {
            "steps": [header(format=7), *steps_file()[1:]],
            "requests": [ev.File(format=7, run=RUN), *requests_file()[1:]],
            "worker": None,
        },
        "has format 7, this pytwin reads 0 to 1: update pytwin",
    ),
    "files of two formats": (
        {"worker": [ev.File(format=2, run=RUN), *worker_file()[1:]]},
        r"mixes the formats \[1, 2\]",
    ),
    "files of two runs": (
        {"worker": [ev.File(format=1, run="another"), *worker_file()[1:]]},
        "mixes the runs",
    ),
    "a step that is missing": ({"steps": cut(steps_file, 2)}, "steps are missing before step 3"),
    "a step twice": ({"steps": [*steps_file()[:3], steps_file()[2]]}, "step 2 occurs twice"),
    "a request twice": (
        {"requests": [*requests_file(), requests_file()[1]]},
        "a request id occurs twice",
    ),
    "a request that is missing": (
        {"requests": cut(requests_file, 3)},
        r"schedules b, which requests\.jsonl lacks",
    ),
    "a step of other tokens": (
        {"steps": [header(), step(0, [("a", 6, 0, "N")], tokens=7)]},
        "step 0 holds other tokens than it says",
    ),
}


@pytest.mark.parametrize("what", sorted(BROKEN))
def test_a_broken_recording_is_told_in_one_line(tmp_path: Path, what: str) -> None:
    changed, message = BROKEN[what]
    with pytest.raises(DataError, match=message) as caught:
        read_recording(write(tmp_path / "run", **changed))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "worker",
    [
        cut(worker_file, 8),  # an execution in the middle
        [*worker_file()[:6], ev.Exec(k=0, t=2.2, dt=0.4, tokens=99, step=0), worker_file()[-1]],
        [
            *worker_file()[:-1],
            *(ev.Exec(k=3 + k, t=9.0 + k, dt=0.1, tokens=1, step=9 + k) for k in range(3)),
            worker_file()[-1],
        ],
    ],
)
def test_a_worker_of_another_run_is_an_error(tmp_path: Path, worker: list[ev.Event]) -> None:
    read = read_recording(write(tmp_path / "run", worker=worker))
    with pytest.raises(RecordingError, match="the worker's steps are not the scheduler's"):
        _ = read.executions
    with pytest.raises(RecordingError):
        _ = read.steps


def test_a_step_in_flight_at_the_end_may_be_known_to_one_side(tmp_path: Path) -> None:
    worker = [*worker_file(), ev.Exec(k=3, t=7.0, dt=0.1, tokens=1, step=4)]
    assert sorted(read_recording(write(tmp_path / "run", worker=worker)).executions) == [0, 2, 3]


def test_without_a_worker_there_are_no_executions(tmp_path: Path) -> None:
    read = read_recording(write(tmp_path / "run", worker=None))
    assert read.executions == {}
    assert read.steps["exec_s"].null_count() == read.steps.height


def test_two_runs_ask_which_one(tmp_path: Path) -> None:
    write(tmp_path / "b")
    write(tmp_path / "a")
    assert [path.name for path in recordings(tmp_path)] == ["a", "b"]
    with pytest.raises(RecordingError, match="holds 2 recordings: give one of"):
        read_recording(tmp_path)


# -- torn and unfinished -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["steps", "requests", "worker"])
def test_a_torn_last_line_is_an_error_unless_dropped(tmp_path: Path, name: str) -> None:
    whole = lines({"steps": steps_file, "requests": requests_file, "worker": worker_file}[name]())
    torn = write(tmp_path / "run", **{name: whole + b'{"e":"step","i":4,"t0":6.'})
    with pytest.raises(RecordingError, match=f"{name}.jsonl of .* ends in a torn line .*--torn"):
        read_recording(torn)
    read = read_recording(torn, torn="drop")
    assert read.torn == (f"{name}.jsonl",)
    assert read.closed is False
    assert len(read.step_events) == 3


def test_a_last_line_without_its_end_is_whole_if_it_reads(tmp_path: Path) -> None:
    path = write(tmp_path / "run", steps=lines(steps_file()).rstrip(b"\n"))
    assert read_recording(path).torn == ()


def test_a_server_killed_at_work_is_not_closed(tmp_path: Path) -> None:
    read = read_recording(write(tmp_path / "run", worker=worker_file()[:8]))
    assert read.closed is False
    assert sorted(read.executions) == [0]
    assert read.steps["exec_s"].to_list() == [0.4, None, None]


def test_a_recorder_that_gave_up_says_why(tmp_path: Path) -> None:
    ended = [*steps_file()[:-1], ev.End(t=6.0, reason="stopped: the disk is full")]
    read = read_recording(write(tmp_path / "run", steps=ended))
    assert read.stopped == "stopped: the disk is full"
    assert read.closed is False


@given(data=st.data())
def test_no_cut_of_a_file_goes_unnoticed(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Cut anywhere: an error, or a recording that says that its end is missing."""
    make = {"steps": steps_file, "requests": requests_file, "worker": worker_file}
    name = data.draw(st.sampled_from(sorted(make)))
    whole = lines(make[name]()).rstrip(b"\n")
    at = data.draw(st.integers(0, len(whole) - 1))
    path = write(tmp_path_factory.mktemp("cut") / "run", **{name: whole[:at]})
    told = ""
    try:
        told = f"closed is {read_recording(path).closed}"
    except RecordingError as error:
        told = str(error)
    assert re.search("torn|is empty|lacks|no header|no requests|no request was|closed is Fa", told)


@given(data=st.data())
def test_no_missing_line_of_steps_goes_unnoticed(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """But for the last, which a killed server may not have written."""
    count = data.draw(st.integers(3, 12))
    events: list[ev.Event] = [header()]
    events += [step(i, [("a", 1, i, "N" if i == 0 else "C")]) for i in range(count)]
    gone = data.draw(st.integers(1, count - 1))
    worker = [
        worker_file()[0],
        *(ev.Exec(k=i, t=2.2 + i, dt=0.1, tokens=1, step=i) for i in range(count)),
    ]
    requests = requests_file()[:2]
    directory = tmp_path_factory.mktemp("gap")
    whole = read_recording(write(directory / "run", steps=events, worker=worker, requests=requests))
    assert len(whole.executions) == count
    del events[gone]
    broken = write(directory / "broken", steps=events, worker=worker, requests=requests)
    with pytest.raises(RecordingError, match=r"steps are missing|mixes|header"):
        read_recording(broken)
