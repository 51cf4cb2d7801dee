"""The measurement campaign: its plan, its client, its way through a run. No vLLM."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from calibration.campaign import measure, report
from calibration.campaign.client import Sent, drive
from calibration.campaign.measure import Bench
from calibration.campaign.plan import (
    CPU_START_S,
    GPU_START_S,
    Burst,
    Poisson,
    Run,
    cpu_plan,
    gpu_plan,
    total_s,
)
from calibration.campaign.server import serve
from tests.conftest import ROOT

from .conftest import write

SCRIPT = Path(__file__).with_name("fake_vllm_serve.py")


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An executable that takes the place of vLLM's Python."""
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {SCRIPT} "$@"\n')
    path.chmod(0o755)
    return path


# -- the plan ------------------------------------------------------------------------------------


def test_one_gpu_takes_less_than_two_hours() -> None:
    assert total_s(gpu_plan(), GPU_START_S) < 2 * 3600
    assert total_s(cpu_plan(), CPU_START_S) < 1800


@pytest.mark.parametrize("plan", [gpu_plan(), cpu_plan()], ids=["gpu", "cpu"])
def test_a_plan_is_one_that_vllm_takes(plan: list[Run]) -> None:
    assert len({run.name for run in plan}) == len(plan)
    assert any(run.held_out for run in plan)
    for run in plan:
        assert run.tells
        assert run.max_cpu_loras >= run.max_loras
        requests = run.requests()
        assert requests == run.requests()  # the same each time
        assert [r.t for r in requests] == sorted(r.t for r in requests)
        assert len({r.id for r in requests}) == len(requests)
        assert all(r.prompt_len >= 1 and r.max_tokens >= 1 for r in requests)
        assert (run.max_loras == 0) == (run.adapters == 0)
        assert all(run.adapter_rank(k + 1) <= run.max_lora_rank for k in range(run.adapters))


def test_what_judges_is_measured_without_being_fitted_on_and_once_without_the_recorder() -> None:
    for plan in (gpu_plan(), cpu_plan()):
        by_name = {run.name: run for run in plan}
        off = by_name["held-out-off"]
        assert not off.recorded
        assert off.requests() == by_name["held-out"].requests()
        seeds = [run.seed for run in plan if any(isinstance(p, Poisson) for p in run.phases)]
        assert len(set(seeds)) == len(seeds) - 1  # the one without the recorder repeats


def test_cpu_rates_stay_low() -> None:
    rates = [p.rate_rps for run in cpu_plan() for p in run.phases if isinstance(p, Poisson)]
    assert rates
    assert max(rates) <= 3.0


def test_bursts_cycle_over_the_adapters() -> None:
    run = Run("r", "x", [Burst([1, 3], 8, 2, 2, 5.0)], 2, 2, 16, (8, 16))
    assert [(r.t, r.prompt_len, r.max_tokens, r.lora) for r in run.requests()] == [
        (0.0, 8, 2, "r8-1"), (5.0, 8, 2, "r8-1"), (5.0, 8, 2, "r16-2"), (5.0, 8, 2, "r8-1"),
    ]  # fmt: skip
    assert run.load_s == 10.0


# -- the client and a run ------------------------------------------------------------------------


def test_the_client_notes_every_token(python: Path, tmp_path: Path) -> None:
    sent = [Sent("q0", 0.0, 5, 3), Sent("q1", 0.05, 9, 8, "r8-1"), Sent("q2", 0.0, 1, 2, "unknown")]
    with serve(python, ["m"], log=tmp_path / "log", environment={}, wait_s=30) as server:
        told = asyncio.run(drive(sent, port=server.port, model="base", vocab=50, timeout_s=20))
    rows = told["requests"]
    assert [(r["id"], r["n_out"], len(r["token_times"])) for r in rows[:2]] == [
        ("q0", 3, 3), ("q1", 8, 8),
    ]  # fmt: skip
    assert [r["status"] for r in rows[:2]] == ["ok", "ok"]
    assert "404" in rows[2]["status"]
    for row in rows[:2]:
        assert row["token_times"] == sorted(row["token_times"])
        assert told["start"] + row["t"] <= row["sent"] <= row["token_times"][0]
    assert told["duration_s"] > 0.05


def test_a_server_that_is_gone_is_a_status(tmp_path: Path) -> None:
    sent = [Sent("q0", 0.0, 5, 3)]
    asyncio.run(drive(sent, port=9, model="base", vocab=50, timeout_s=5))
    assert "Error" in sent[0].status


@pytest.fixture
def bench(python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(measure, "SILENCE_S", 0.0)
    config = tmp_path / "config.json"
    config.write_text('{"vocab_size": 50}')
    recording = write(tmp_path / "recording")
    return Bench(
        python=python, model="tiny", config=config, adapters=tmp_path / "adapters",
        out=tmp_path / "out", serve_flags=["--enforce-eager"],
        environment={"FAKE_RECORDING": str(recording)}, timeout_s=20,
    )  # fmt: skip


RUN = Run("small", "nothing", [Burst([2], 4, 3, 2, 0.1)], 2, 3, 16, (8, 16), 40)


def test_a_run_leaves_its_recording_beside_the_clients_times(bench: Bench) -> None:
    assert measure.measure(bench, RUN).startswith("2 of 2 requests, 3 steps")
    folder = bench.folder(RUN)
    names = {path.name for path in folder.iterdir()}
    assert names == {"steps.jsonl", "requests.jsonl", "worker.jsonl", "client.json", "done.json",
                     "server.log"}  # fmt: skip
    words = (folder / "server.log").read_text()
    assert (
        "serve tiny --served-model-name base --enforce-eager --num-gpu-blocks-override 40 "
        "--enable-lora --max-loras 2 --max-cpu-loras 3 --max-lora-rank 16 --lora-modules r8-1="
    ) in words
    assert len(json.loads((folder / "client.json").read_text())["requests"]) == 2
    assert measure.measure(bench, RUN) == "done before"


def test_without_the_recorder_nothing_is_recorded(bench: Bench) -> None:
    off = Run("off", "nothing", RUN.phases, 2, 3, 16, recorded=False)
    assert measure.measure(bench, off).startswith("2 of 2 requests, 0 steps")
    assert not list(bench.folder(off).glob("*.jsonl"))


def test_a_server_that_does_not_start_is_an_answer(bench: Bench) -> None:
    broken = Bench(**{**vars(bench), "model": "broken"})
    assert measure.measure(broken, RUN).startswith("FAILED: vllm serve ended with 1")
    assert "no memory for the KV cache" in (bench.folder(RUN) / "failed.txt").read_text()


def test_a_server_that_recorded_nothing_is_an_answer(bench: Bench, tmp_path: Path) -> None:
    bench.environment["FAKE_RECORDING"] = str(write(tmp_path / "empty", steps=b""))
    assert "steps.jsonl is empty" in measure.measure(bench, RUN)
    assert not (bench.folder(RUN) / "done.json").exists()


# -- the report ----------------------------------------------------------------------------------


def test_the_plan_is_printed() -> None:
    command = [sys.executable, "-m", "calibration.campaign", "--plan"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.count("\n| ") == len(gpu_plan()) + 1
    assert "hours, 120 s per server start included" in done.stdout


def test_a_report_takes_its_place_in_a_document(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.update(page, "new\n")
    assert page.read_text() == f"before\n{report.BEGIN}\nnew\n{report.END}\nafter\n"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="has no marks"):
        report.update(page, "new\n")


def test_tables() -> None:
    rows = [{"a": 1, "b": 0.123456}, {"a": "x|y", "c": None}]
    assert (
        report.table(rows)
        == "| a | b | c |\n| --- | --- | --- |\n| 1 | 0.1235 |  |\n| x\\|y |  |  |\n"
    )
