"""Three recorded runs of vLLM 0.32 on a CPU, where they are at hand: fitted on two, held against
the third. The machine had two cores for client and server, and other work to do: single steps
scatter by 10 to 20 % around any law, and the runs differ from each other by 7 to 9 %."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pytwin.calibrate.check import check
from pytwin.calibrate.recordings import fit, read_runs
from tests.conftest import ROOT

RUNS = ("async_llm_200req_12lora_prefix", "async_llm_200req_8lora", "vllm_serve_bench_100req_8lora")


@pytest.fixture(scope="module")
def folder() -> Path:
    shared = Path(os.environ.get("PYTWIN_SHARED", ROOT.parent / "shared"))
    if not (shared / "cpu-vllm-traces" / RUNS[0]).is_dir():
        pytest.skip(f"no recorded runs at {shared / 'cpu-vllm-traces'}: set PYTWIN_SHARED")
    return shared / "cpu-vllm-traces"


@pytest.fixture(scope="module")
def profile(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("real") / "cpu.json"
    result = fit(read_runs([folder / name for name in RUNS[:2]]), model="tiny", gpu="cpu")
    path.write_text(json.dumps(result.document))
    return path


@pytest.fixture(scope="module")
def report(profile: Path, folder: Path) -> dict[str, Any]:
    return check(str(profile), folder / RUNS[2])


def test_terms_are_few_and_physical(profile):
    terms = json.loads(profile.read_text())["step_time"]["terms"]
    assert 3 <= len(terms) <= 9
    assert all(term["coefficient"] > 0 for term in terms)


def test_the_queue_costs_what_the_scheduler_took_and_no_more(profile):
    terms = json.loads(profile.read_text())["step_time"]["terms"]
    waiting = [term["coefficient"] for term in terms if term["factors"] == ["waiting"]]
    # In these runs a queue comes with a slow machine; the walk itself takes microseconds.
    assert sum(waiting) < 10


def test_step_times_of_a_run_not_fitted_on(report):
    every = {row["steps"]: row for row in report["steps"]}
    assert abs(every["all"]["bias_percent"]) < 6
    assert every["all"]["median_error_percent"] < 15
    assert every["prefill"]["median_error_percent"] < 12


def test_end_to_end_on_a_run_not_fitted_on(report):
    assert report["fitted_on"] == "no"
    found = {row["metric"]: row["error_percent"] for row in report["end_to_end"]}
    assert abs(found["output_throughput"]) < 3
    assert abs(found["mean_tpot_ms"]) < 10
    assert abs(found["mean_itl_ms"]) < 10
    assert abs(found["mean_ttft_ms"]) < 25
    assert abs(found["mean_running"]) < 10


def test_a_bench_result_of_the_same_run(profile, folder):
    server = {
        "max_loras": 3, "max_cpu_loras": 5, "max_lora_rank": 32, "num_gpu_blocks_override": 64,
    }  # fmt: skip
    result = check(
        str(profile), folder / RUNS[2] / "client.json", server=server, adapters=8, ranks=(8, 16, 32)
    )
    found = {row["metric"]: row["error_percent"] for row in result["end_to_end"]}
    assert abs(found["output_throughput"]) < 4
    assert abs(found["mean_tpot_ms"]) < 12
