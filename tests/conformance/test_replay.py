from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pytwin.conformance.client import Reference
from pytwin.conformance.replay import RecordingError, recorded_run, recordings, replay
from tests.conftest import Outcome

STEPS = {
    "async_llm_200req_12lora_prefix": 2220,
    "async_llm_200req_8lora": 2468,
    "vllm_serve_bench_100req_8lora": 1225,
}
RUNS = pytest.mark.parametrize("name", sorted(STEPS))


@pytest.fixture
def run(shared: Path, name: str) -> Path:
    path = shared / "cpu-vllm-traces" / name
    if not path.is_dir():
        pytest.skip(f"no recorded run at {path}")
    return path


@RUNS
def test_a_recorded_run_of_a_real_vllm_replays_without_a_difference(run: Path, name: str) -> None:
    result = replay(recorded_run(run))
    assert result.first is None
    assert result.differences == 0
    assert result.steps == STEPS[name]
    assert result.adapter_loads > 20


@RUNS
@pytest.mark.network
def test_so_does_vllms_own_scheduler(
    run: Path, reference_of: Callable[[str], Reference], name: str
) -> None:
    reference = reference_of("0.32")
    result = replay(recorded_run(run), lambda case, version: reference.trace(case))
    assert result.first is None


# -- a small recording, written here ------------------------------------------------------------


def write(directory: Path, core: list[dict[str, Any]], worker: list[dict[str, Any]]) -> Path:
    directory.mkdir(parents=True)
    requests = [event for event in core if event["e"] in ("req", "abort")]
    steps = [event for event in core if event not in requests]
    files = {"steps.jsonl": steps, "requests.jsonl": requests, "worker.jsonl": worker}
    for name, events in files.items():
        (directory / name).write_text("".join(json.dumps(event) + "\n" for event in events))
    return directory


def step(i: int, **changed: Any) -> dict[str, Any]:
    times = {"t0": 2.0 + i, "t1": 2.1 + i, "t2": 2.8 + i, "t3": 2.9 + i}
    event = {"e": "step", "i": i, **times, "added": [], "sched": [], "tokens": 0, "preempted": []}
    return {**event, "nrun": 1, "nwait": 0, "free": 19, "loras": [5], "fin": {}, **changed}


CORE: list[dict[str, Any]] = [
    {"e": "header", "vllm": "0.32.0+cpu", "config": {"num_blocks": 21, "max_loras": 2}},
    {"e": "req", "t": 1.9, "id": "a", "step": 0, "arrival": 9.5, "prompt": 5, "max_tokens": 4}
    | {"lora": 5},
    step(0, added=["a"], sched=[["a", 5, 0, "N"]], tokens=5),
    step(1, sched=[["a", 1, 5, "C"]], tokens=1, fin={"a": ["stop", 2]}),
]
WORKER: list[dict[str, Any]] = [
    {"e": "lora_load", "t": 1.0, "id": 9},
    {"e": "lora_activate", "t": 1.1, "id": 9, "slot": 0},
    {"e": "lora_load", "t": 2.1, "id": 5},
    {"e": "lora_activate", "t": 2.2, "id": 5, "slot": 1},
    {"e": "exec", "k": 0, "t": 2.0, "dt": 0.5, "tokens": 5, "lora_order": [5]},
    {"e": "exec", "k": 1, "t": 3.0, "dt": 0.5, "tokens": 1, "lora_order": [5]},
]


def test_a_recording_becomes_a_case(tmp_path: Path) -> None:
    run = recorded_run(write(tmp_path / "run", CORE, WORKER))
    assert run.version.name == "0.32"
    assert run.case.lora_preload == [9]
    assert run.case.requests[0].stop_at == 2
    assert run.steps[0]["lora_events"] == [["load", 5], ["activate", 5, 1]]
    assert run.steps[1]["lora_events"] == []


def test_the_twin_decides_as_recorded(tmp_path: Path) -> None:
    result = replay(recorded_run(write(tmp_path / "run", CORE, WORKER)))
    assert result.first is None
    assert (result.steps, result.adapter_loads) == (2, 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sched", [["a", 5, 0, "R"]]),
        ("free", 18),
        ("nrun", 2),
        ("nwait", 1),
        ("loras", [6]),
        ("preempted", ["a"]),
        ("fin", {"a": ["stop", 2]}),
        ("added", []),
    ],
)
def test_every_recorded_decision_is_compared(tmp_path: Path, field: str, value: object) -> None:
    core = [*CORE[:2], {**CORE[2], field: value}, CORE[3]]
    result = replay(recorded_run(write(tmp_path / "run", core, WORKER)))
    assert result.differences >= 1
    assert result.first is not None
    assert result.first.step == 0


def test_a_step_that_the_twin_never_makes_is_a_difference(tmp_path: Path) -> None:
    core = [*CORE, step(2, sched=[["a", 1, 6, "C"]], tokens=1)]
    worker = [*WORKER, {"e": "exec", "k": 2, "t": 4.0, "dt": 0.5, "tokens": 1, "lora_order": [5]}]
    result = replay(recorded_run(write(tmp_path / "run", core, worker)))
    assert result.first is not None
    assert result.first.step == 2


def test_directories_of_recordings(tmp_path: Path) -> None:
    write(tmp_path / "b", CORE, WORKER)
    write(tmp_path / "a", CORE, WORKER)
    assert [path.name for path in recordings(tmp_path)] == ["a", "b"]
    assert recordings(tmp_path / "a") == [tmp_path / "a"]


@pytest.mark.parametrize(
    ("core", "message"),
    [
        (CORE[1:], "has no header"),
        (CORE[:2], "no request was served"),
        ([{**CORE[0], "unmodelled": ["speculative_config"]}, *CORE[1:]], "does not model that"),
        ([{**CORE[0], "vllm": "0.9.1"}, *CORE[1:]], "engine version .* is unknown"),
    ],
)
def test_a_bad_recording_is_told_in_one_line(
    tmp_path: Path, core: list[Mapping[str, Any]], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        recorded_run(write(tmp_path / "run", [dict(event) for event in core], WORKER))
    assert "\n" not in str(caught.value)


def test_a_torn_last_line_is_an_error_unless_dropped(
    tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    path = write(tmp_path / "run", CORE, WORKER)
    with (path / "worker.jsonl").open("a") as file:
        file.write('{"e":"exec","k":2')
    done = cli("conformance", "replay", path)
    assert (done.code, done.out) == (2, "")
    assert "--torn drop" in done.err
    done = cli("conformance", "replay", path, "--torn", "drop", "--format", "json")
    assert done.code == 0
    assert json.loads(done.out)[0]["differences"] == 0


def test_no_recording_at_all(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="is no directory"):
        recordings(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordingError, match="holds no recording"):
        recordings(tmp_path / "empty")
