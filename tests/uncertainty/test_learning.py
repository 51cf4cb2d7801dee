"""calibration.uncertainty from made-up runs: the twin itself, on steps that are a little off."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import pytwin as pt
from calibration import uncertainty
from pytwin.catalog import load_profile
from pytwin.uncertainty import FACTORS, INTERVAL_METRICS, REGIMES, perturbed, read_uncertainty
from pytwin.validate import case_of, read_runs
from tests.conftest import LLAMA
from tests.validate.made import write

SPREAD = 0.03


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """24 runs of ml_test in four workloads, and one of dt_real that is absurd."""
    folder = tmp_path_factory.mktemp("traces")
    changes = [
        {
            "run_id": f"ml_test/{LLAMA}/workload{k % 4}/_{4 + k % 3}_8_16_",
            "family": "ml_test",
            "max_loras": 4 + k % 3,
            "ts_running_mean": 4.0,
            "ts_waiting_mean": 9.0 if k % 2 else 0.0,
            "ts_waiting_max": 9,
        }
        for k in range(24)
    ]
    absurd = {**changes[0], "family": "dt_real", "total_throughput": 1.0, "mean_tpot_ms": 9e9}
    write(folder, *changes, absurd)
    rng = np.random.default_rng(2)
    profile = load_profile(LLAMA)
    outcomes = []
    for k, config in enumerate(read_runs(folder, families=["ml_test"]).configs):
        moved = perturbed(profile, {"step_time": math.exp(rng.normal(0, SPREAD))})
        path = folder / f"truth{k}.json"
        path.write_text(moved.text)
        case = case_of(config, condition=True, profile=str(path))
        metrics = pt.simulate(case.server, case.traffic, seed=100 + k).metrics
        outcomes.append({name: metrics[name] for name in INTERVAL_METRICS})
    runs = pl.read_parquet(folder / "runs.parquet")
    told = pl.DataFrame(outcomes)
    runs = pl.concat(
        [runs.head(24).with_columns(told[name] for name in INTERVAL_METRICS), runs.tail(1)]
    )
    runs.write_parquet(folder / "runs.parquet")
    return folder


def test_the_spread_of_the_steps_is_found_and_runs_are_held(made):
    section = uncertainty.learn(made, load_profile(LLAMA), None, queued_share=1.0)
    known = read_uncertainty(section, "learned")
    assert set(known.factors) == set(FACTORS)
    # TPOT is off by 3 % from run to run: by whichever factors, the steps are.
    steps = [known.factors[name] for name in ("step_time", "batch", "slots", "adapters")]
    assert 0.01 < math.hypot(*steps) < 0.15
    assert section["fitted_on"] == ["ml_test"]
    for metric in INTERVAL_METRICS:
        for regime in REGIMES:
            found = section["coverage"][metric][regime]
            assert found["runs"] == 12
            assert known.residual_of(metric, regime) < 0.2
    assert (
        np.median([c["calm"]["left_out_workloads_percent"] for c in section["coverage"].values()])
        > 80
    )


def test_runs_are_predicted_by_the_profile_that_has_not_seen_them(made, tmp_path):
    """Profiles whose steps are twice as long leave a residual that says so."""
    slow = perturbed(load_profile(LLAMA), {"step_time": 2.0})
    (tmp_path / LLAMA).mkdir()
    for k in range(4):
        (tmp_path / LLAMA / f"workload{k}.json").write_text(slow.text)
    section = uncertainty.learn(made, load_profile(LLAMA), tmp_path, queued_share=1.0)
    assert "--held-out" in section["command"]
    own = uncertainty.learn(made, load_profile(LLAMA), None, queued_share=1.0)

    def width(of: dict) -> float:
        steps = [of["factors"][name] for name in ("step_time", "batch", "slots", "adapters")]
        return math.hypot(*steps, of["residual"]["mean_tpot_ms"]["calm"])

    assert width(section) > 3 * width(own)


def test_a_missing_held_out_profile_is_told(made, tmp_path):
    with pytest.raises(pt.ConfigError, match=r"workload\d.json\) cannot be read"):
        uncertainty.learn(made, load_profile(LLAMA), tmp_path, queued_share=1.0)
