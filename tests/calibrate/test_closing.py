"""Closed-loop steps of the calibration, on a server whose true law is known: the twin itself."""

import json

import numpy as np
import pytest

from calibration import closing, frontend, replay
from pytwin.calibrate.solve import Problem
from pytwin.calibrate.terms import component, to_terms
from pytwin.catalog import load_profile
from pytwin.validate import RunConfig

LAW = [
    component("base", ""),
    component("tokens", "", "tokens"),
    component("slots", "", "max_loras"),
    component("adapters", "", "adapters"),
]
TRUTH = np.array([12.0, 0.03, 0.02, 0.35])  # ms
NAME = "llama-3.1-8b-instruct@h100-64gb"


def document(coefficients: np.ndarray) -> dict:
    terms = to_terms(LAW, coefficients, 1000.0)
    return {**load_profile(NAME).data, "step_time": {"unit": "us", "terms": terms}}


def config(index: int, slots: int, rates: tuple[float, ...]) -> RunConfig:
    return RunConfig(
        run_idx=index, run_id=f"ml_test/{index}", family="ml_test", model="llama", profile=NAME,
        settings={"max_loras": slots, "max_cpu_loras": len(rates), "max_lora_rank": 16},
        rates_rps=rates, ranks=(8, 16), duration_s=240.0, mean_lengths=None, arrivals=None,
        conditioned="none", excluded=None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Runs whose outcomes are those of the true law."""
    path = tmp_path_factory.mktemp("truth") / "profile.json"
    path.write_text(json.dumps(document(TRUTH)))
    configs = [
        config(0, 8, (0.3,) * 8),
        config(1, 32, (0.2,) * 32),
        config(2, 64, (0.1,) * 64),
        config(3, 64, (0.25,) * 64),
    ]
    bare = [(entry, {"ts_waiting_mean": 0.0}) for entry in configs]
    return [
        (
            run.config,
            {
                **run.metrics,
                "ts_waiting_mean": 0.0,
                "ts_running_mean": run.metrics["mean_running"],
            },
        )
        for run in replay.replay(bare, path, LAW, seed=7)
    ]


def micro() -> Problem:
    """One logged step, which says nothing of adapters."""
    return Problem(
        matrix=np.array([[1.0, 50.0, 0.0, 0.0]]),
        target=np.array([13.5]),
        weight=np.array([1.0]),
        group=np.array(["run"]),
        family=np.array(["base decode"]),
    )


def test_a_wrong_coefficient_is_moved_towards_the_truth(measured):
    start = TRUTH * np.array([1.0, 1.0, 1.0, 1.3])
    first, before = closing.close(document(start), LAW, start, micro(), measured, seed=7)
    _, after = closing.close(document(start), LAW, first, micro(), measured, seed=7)
    assert before["tpot_bias_percent"] > 3.0
    assert after["tpot_mape_percent"] < 0.5 * before["tpot_mape_percent"]
    assert TRUTH[3] * 0.8 < first[3] < start[3]


def test_the_truth_stays_where_it_is(measured):
    found, before = closing.close(document(TRUTH), LAW, TRUTH, micro(), measured, seed=7)
    assert before["tpot_mape_percent"] < 0.2
    assert found == pytest.approx(TRUTH, rel=0.01)


def test_replayed_runs_are_observations_of_the_law_they_ran_on(measured, tmp_path):
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(document(TRUTH)))
    seen = replay.observations(replay.replay(measured, path, LAW, seed=7))
    assert len(seen.target) == len(measured)
    assert seen.matrix @ TRUTH == pytest.approx(seen.target, rel=0.01)


def test_a_run_in_another_state_is_no_observation(measured, tmp_path):
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(document(TRUTH)))
    other = [
        (entry, {**real, "ts_running_mean": 2 * real["ts_running_mean"]})
        for entry, real in measured
    ]
    kept = replay.replay([*other[:1], *measured[1:]], path, LAW, seed=7)
    assert len(replay.observations(kept).target) == len(measured) - 1


def test_front_end_parameters_are_stated_in_microseconds():
    told = frontend.document([5.0, 0.05, 280.0, 20.0])
    assert told["ingress"][0]["coefficient"] == 5000.0
    assert told["egress"][0]["coefficient"] == 50.0
    assert told["first_request"][0]["coefficient"] == 280_000.0
    assert told["poll"][0] == {
        "coefficient": 20.0,
        "factors": ["label_sets"],
        "why": told["poll"][0]["why"],
    }
