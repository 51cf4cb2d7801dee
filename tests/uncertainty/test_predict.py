"""`pt.predict` and `pytwin simulate --interval`."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import polars as pl
import pytest

import pytwin as pt
from pytwin.catalog import load_profile
from pytwin.uncertainty import INTERVAL_METRICS, perturbed
from tests.conftest import QWEN, TOY


def widths(found: pt.Prediction) -> dict[str, float]:
    return {name: math.log(high / low) for name, (low, high) in found.intervals.items()}


def test_no_uncertainty_and_one_seed_is_a_point(certain, traffic):
    server = pt.EngineConfig(profile=certain, max_loras=8)
    found = pt.predict(server, traffic, seeds=1)
    run = pt.simulate(server, traffic, seed=0)
    assert set(found.intervals) == set(INTERVAL_METRICS)
    for name, (low, high) in found.intervals.items():
        assert low == pytest.approx(run.metrics[name], rel=1e-9)
        assert high == pytest.approx(run.metrics[name], rel=1e-9)
    assert found.extrapolated == run.extrapolated


def test_more_seeds_and_more_uncertainty_widen_the_intervals(unsure, traffic):
    def of(profile: str, **options: int) -> dict[str, float]:
        return widths(pt.predict(pt.EngineConfig(profile=profile, max_loras=8), traffic, **options))

    seeds = of(unsure(), seeds=8)
    little = of(unsure(step_time=0.02), seeds=8)
    much = of(unsure(step_time=0.10), seeds=8)
    rest = of(unsure(step_time=0.10, residual={"mean_tpot_ms": {"calm": 0.3}}), seeds=8)
    assert min(seeds.values()) > 0
    assert seeds["mean_tpot_ms"] < little["mean_tpot_ms"] < much["mean_tpot_ms"]
    assert much["mean_tpot_ms"] < rest["mean_tpot_ms"]
    assert much["mean_ttft_ms"] == rest["mean_ttft_ms"]  # said of TPOT alone
    assert seeds["total_throughput"] > 0.01  # the noise of a Poisson count, whatever the profile


def test_a_fixed_count_takes_the_noise_of_the_count_out(certain, traffic):
    server = pt.EngineConfig(profile=certain, max_loras=8)
    blind = widths(pt.predict(server, traffic))
    given = widths(pt.predict(server, traffic.conditioned(432)))
    assert given["total_throughput"] < blind["total_throughput"]


def test_the_estimate_is_the_mean_of_the_seeds_whatever_the_draws(unsure, traffic):
    server = pt.EngineConfig(profile=unsure(step_time=0.1), max_loras=8)
    found = pt.predict(server, traffic, seeds=3, draws=9, first_seed=5)
    alone = [pt.simulate(server, traffic, seed=seed).metrics for seed in (5, 6, 7)]
    for name in INTERVAL_METRICS:
        assert found.metrics[name] == pytest.approx(np.mean([run[name] for run in alone]))
        low, high = found.interval(name)
        assert low < found.metrics[name] < high
        assert found.probability_above(name, high) == pytest.approx(0.05, abs=1e-6)
        narrow_low, narrow_high = found.interval(name, 0.5)
        assert low < narrow_low < narrow_high < high


def test_any_number_of_workers_gives_the_same_prediction(unsure, traffic):
    server = pt.EngineConfig(profile=unsure(step_time=0.1), max_loras=8)
    one, three = (pt.predict(server, traffic, workers=workers) for workers in (1, 3))
    assert one.to_dict() == three.to_dict()
    assert one.adapters.equals(three.adapters)


def test_a_server_that_cannot_start_is_an_answer(traffic):
    server = pt.EngineConfig(profile=QWEN, max_loras=1000, max_lora_rank=64)
    found = pt.predict(server, traffic)
    assert found.status == "infeasible"
    assert found.error in repr(found)
    assert found.intervals == found.metrics == {}
    assert found.adapters.is_empty()
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["starved_probability"] is None


def test_a_profile_that_states_no_uncertainty_says_so(traffic):
    server = pt.EngineConfig(profile=TOY, max_loras=8)
    why = "profile toy@constant-step states no uncertainty: the intervals hold seeds alone"
    assert why in pt.predict(server, traffic).extrapolated
    assert why not in pt.predict(server, traffic, draws=0).extrapolated


def test_starvation_has_a_probability(unsure):
    server = pt.EngineConfig(profile=unsure(step_time=0.05), max_loras=4, max_cpu_loras=64)
    said = [
        pt.predict(
            server,
            pt.Workload.poisson(adapters=pt.adapters(64, rate, 16), duration_s=120),
            seeds=2,
            draws=4,
        ).starved_probability
        for rate in (0.01, 1.0)
    ]
    assert said == pytest.approx([0.0, 1.0], abs=1e-3)


@pytest.mark.slow
def test_intervals_cover_a_twin_with_other_parameters(unsure, traffic):
    """The truth is the twin on a profile drawn from the stated law, on fresh seeds."""
    spreads = {"step_time": 0.03, "slots": 0.1, "adapters": 0.1, "frontend": 0.2}
    server = pt.EngineConfig(profile=unsure(**spreads), max_loras=8)
    found = pt.predict(server, traffic, seeds=16, draws=32)
    rng = np.random.default_rng(3)
    inside = {name: [] for name in found.intervals}
    for truth in range(80):
        scales = {name: math.exp(rng.normal(0, spread)) for name, spread in spreads.items()}
        path = unsure()
        with open(path, "w") as file:
            file.write(perturbed(load_profile(QWEN), scales).text)
        run = pt.simulate(server.replace(profile=path), traffic, seed=1000 + truth)
        for name, (low, high) in found.intervals.items():
            inside[name].append(low <= run.metrics[name] <= high)
    # 80 truths: three standard errors of a 90 % share are 10 points.
    assert {name: np.mean(held) >= 0.8 for name, held in inside.items()} == dict.fromkeys(
        inside, True
    )
    assert np.mean([np.mean(held) for held in inside.values()]) < 0.97


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"level": 1.0}, "level (1.0) must be above 0 and below 1"),
        ({"level": "high"}, "level ('high') must be above 0 and below 1"),
        ({"seeds": 0}, "seeds (0) must be a whole number from 1"),
        ({"draws": 2.5}, "draws (2.5) must be a whole number from 0"),
        ({"workers": 0}, "workers (0) must be a whole number from 1"),
        ({"first_seed": -1}, "first_seed (-1) must be a whole number from 0"),
        ({"ttft_slo_ms": 0.0}, "ttft_slo_ms (0.0) must be > 0"),
    ],
)
def test_bad_options_get_one_line(options, expected, traffic, toy):
    with pytest.raises(pt.PytwinError) as error:
        pt.predict(toy(), traffic, **options)
    assert expected in str(error.value)


def test_what_is_no_server_no_traffic_or_no_metric_gets_one_line(traffic, toy):
    with pytest.raises(pt.ConfigError, match=r"must be a pt\.EngineConfig"):
        pt.predict("qwen", traffic)
    with pytest.raises(pt.WorkloadError, match=r"must be a pt\.Workload"):
        pt.predict(toy(), 5)
    with pytest.raises(pt.PytwinError, match=r"metric \(luck\) has no interval"):
        pt.predict(toy(), traffic, seeds=1).interval("luck")


SIMULATE = (
    "simulate", "--profile", QWEN, "--adapters", 16, "--max-loras", 4, "--max-cpu-loras", 16,
    "--rates-rps", "0.4,0.2", "--duration-s", 60,
)  # fmt: skip
FEW = ("--seeds", 2, "--draws", 4)


def test_the_command_line_gives_what_python_gives(cli, tmp_path):
    done = cli(*SIMULATE, *FEW, "--interval", 0.8, "--seed", 3, "--format", "json",
               "--save-adapters", tmp_path / "adapters.parquet")  # fmt: skip
    assert done.code == 0, done.err
    server = pt.EngineConfig(profile=QWEN, max_loras=4, max_cpu_loras=16)
    traffic = pt.Workload.poisson(adapters=pt.adapters(16, [0.4, 0.2], 16), duration_s=60)
    found = pt.predict(server, traffic, seeds=2, draws=4, level=0.8, first_seed=3)
    assert json.loads(done.out) == json.loads(json.dumps(found.to_dict()))
    assert pl.read_parquet(tmp_path / "adapters.parquet").equals(found.adapters)


def test_the_tables_tell_the_same(cli):
    saved = json.loads(cli(*SIMULATE, *FEW, "--interval", 0.9, "--format", "json").out)
    rows = list(
        csv.DictReader(io.StringIO(cli(*SIMULATE, *FEW, "--interval", 0.9, "--format", "csv").out))
    )
    by_name = {row["metric"]: row for row in rows}
    for name, (low, high) in saved["intervals"].items():
        assert (float(by_name[name]["low"]), float(by_name[name]["high"])) == (low, high)
    table = cli(*SIMULATE, *FEW, "--interval", 0.9)
    assert "90 % intervals" in table.out
    assert "near_critical" in table.out
    assert table.err.count("near-critical: ") == len(saved["near_critical"])


def test_an_infeasible_server_is_an_answer_here_too(cli):
    done = cli(
        "simulate", "--profile", QWEN, "--adapters", 16, "--rates-rps", 0.4, "--max-loras", 1000,
        "--max-lora-rank", 64, "--interval", 0.9,
    )  # fmt: skip
    assert done.code == 0
    assert "infeasible" in done.out


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--interval", 2), "level (2.0) must be above 0 and below 1"),
        (("--interval", 0.9, "--seeds", 0), "seeds (0) must be a whole number"),
        (("--interval", 0.9, "--save-steps", "s.csv"), "save_steps (s.csv) is of one simulation"),
        (("--seeds", 4), "seeds and draws are of a prediction: add interval"),
    ],
)
def test_bad_flags_get_one_line(cli, flags, expected):
    done = cli(*SIMULATE, *flags)
    assert done.code == 2
    assert expected in done.err
    assert done.err.count("\n") == 1
