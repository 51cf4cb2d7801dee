"""The plug-in in a process shaped like vLLM 0.32: what it records, and that it harms nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from pytwin.record import events as ev
from pytwin.record.read import read_recording

SCRIPT = Path(__file__).with_name("fake_server.py")


def serve(directory: Path | None, fault: str = "none", **environment: str) -> tuple[str, str]:
    """What the server printed, and its log."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("PYTWIN_RECORD")}
    if directory is not None:
        variables["PYTWIN_RECORD"] = str(directory)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), fault],
        capture_output=True, text=True, check=False, env=variables | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def unrecorded() -> str:
    return serve(None)[0]


def test_vllm_finds_it() -> None:
    found = {entry.name: entry.value for entry in entry_points(group="vllm.general_plugins")}
    assert found["pytwin_record"] == "pytwin.record.plugin:register"


def test_nothing_happens_unless_asked_for(tmp_path: Path, unrecorded: str) -> None:
    assert "heavy []\nvllm []\n" in unrecorded
    assert serve(tmp_path / "out")[0] == unrecorded
    assert serve(None, PYTWIN_RECORD="")[0] == unrecorded


def test_what_is_recorded(tmp_path: Path) -> None:
    serve(tmp_path)
    read = read_recording(tmp_path)
    assert read.closed
    assert read.header.vllm == "0.32.0"
    assert read.header.config["max_num_seqs"] == 8
    assert read.header.config["async_scheduling"] is False
    assert read.header.lora["max_lora_rank"] == 8
    assert read.header.model == {"model": "tiny", "dtype": "float32"}
    assert read.worker is not None
    steps = read.step_events
    assert [[list(entry) for entry in s.sched] for s in steps] == [
        [["a", 9, 0, "N"]],
        [["a", 1, 9, "C"], ["b", 4, 0, "N"], ["c", 5, 0, "N"]],
        [["a", 1, 10, "C"], ["b", 1, 4, "C"], ["c", 1, 5, "C"]],
        [["c", 1, 6, "C"], ["d", 4, 0, "N"]],
        [["c", 5, 0, "R"]],  # as vLLM's second model runner is told of it: among the new ones
    ]
    assert [s.added for s in steps] == [["a"], ["b", "c"], [], ["d"], []]
    assert [s.preempted for s in steps] == [[], [], [], [], ["c"]]
    assert [s.loras for s in steps] == [[1], [1, 2], [1, 2], [3], []]
    assert [s.fin for s in steps] == [
        {}, {}, {"a": ("length", 3)}, {"d": ("length", 1)}, {"c": ("length", 4)}
    ]  # fmt: skip
    assert [s.free for s in steps] == [11] * 5
    assert all(s.t0 <= s.t1 <= (s.t2 or 0) <= (s.t3 or 0) for s in steps)
    (abort,) = read.of(ev.Abort)
    assert (abort.id, abort.step, abort.reason, abort.out) == ("b", 3, "abort", 2)
    requests = {e.id: e for e in read.of(ev.Req)}
    assert (requests["b"].step, requests["b"].lora, requests["c"].lora) == (1, 2, None)
    assert requests["a"].blocks == ["00" * 8, "01" * 8]
    assert [e.name for e in read.of(ev.Adapter)] == ["l1", "l2", "l3"]
    (served,) = read.of(ev.Served)
    assert (served.id, served.ttft, served.out) == ("a", 0.5, 3)


def test_what_the_worker_does_is_recorded(tmp_path: Path) -> None:
    serve(tmp_path)
    read = read_recording(tmp_path)
    calls = [e.call for e in read.executions.values()]
    assert [c.tokens for c in calls] == [9, 10, 3, 5, 5]
    assert [c.step for c in calls] == [0, 1, 2, 3, 4]
    assert [c.lora_order for c in calls] == [[1], [1, 2], [1, 2], [3], []]
    assert all(e.sample_s is not None for e in read.executions.values())
    happened = [
        [type(e).__name__, e.id, getattr(e, "slot", None)]
        for execution in read.executions.values()
        for e in execution.lora
    ]
    assert happened == [  # and nothing of the warm-up's dummy
        ["LoraLoad", 1, None], ["LoraActivate", 1, 0],
        ["LoraLoad", 2, None], ["LoraActivate", 2, 1],
        ["LoraLoad", 3, None], ["LoraEvict", 1, None], ["LoraDeactivate", 1, None],
        ["LoraActivate", 3, 0],
    ]  # fmt: skip


def test_modules_imported_before_are_followed_too(tmp_path: Path) -> None:
    serve(tmp_path, "imported before")
    assert len(read_recording(tmp_path).step_events) == 5


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("another vLLM", "vllm.v1.core.sched.scheduler is not as in vLLM 0.32"),
        ("strange output", "scheduled: AttributeError"),
    ],
)
def test_a_fault_ends_the_recording_and_not_the_server(
    tmp_path: Path, fault: str, said: str
) -> None:
    out, log = serve(tmp_path, fault)
    assert out == serve(None, fault)[0]
    warnings = [line for line in log.splitlines() if "pytwin record" in line]
    assert len(warnings) == 1
    assert said in warnings[0]
    assert "the server goes on" in warnings[0]


def test_an_error_of_vllms_own_stays_its_own(tmp_path: Path) -> None:
    out, log = serve(tmp_path, "raise")
    assert 'raised "vLLM\'s own"' in out
    assert "pytwin record" not in log


@pytest.mark.parametrize(
    ("directory", "environment", "said"),
    [
        ("/proc/none", {}, "recording stopped"),
        ("out", {"PYTWIN_RECORD_MAX_MB": "many"}, "PYTWIN_RECORD_MAX_MB (many) must be"),
    ],
)
def test_a_bad_setting_is_one_line_and_the_server_starts(
    tmp_path: Path, unrecorded: str, directory: str, environment: dict[str, str], said: str
) -> None:
    out, log = serve(tmp_path / directory, **environment)
    assert out == unrecorded
    assert sum("pytwin record" in line for line in log.splitlines()) == 1
    assert said in log
