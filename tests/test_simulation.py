"""One simulation: what it returns, and that it is a function of its inputs."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

import pytwin as pt
from pytwin import _core
from pytwin.simulation import Twin, extrapolated
from tests.conftest import LLAMA, TOY

TRAFFIC = pt.Workload.poisson(
    adapters=pt.adapters(12, [0.5, 0.25], [8, 16]), rate_rps=0.5, duration_s=120
)


@pytest.fixture(scope="module")
def run():
    server = pt.EngineConfig(profile=TOY, max_loras=4, max_cpu_loras=12)
    return pt.simulate(server, TRAFFIC, seed=3, steps=True)


def test_metrics_agree_with_the_requests(run):
    requests, metrics = run.requests, run.metrics
    finished = requests.filter(pl.col("status") == "finished")
    assert metrics["arrived"] == requests.height
    assert metrics["completed"] == finished.height > 400
    assert metrics["total_input_tokens"] == finished["prompt_tokens"].sum()
    assert metrics["total_output_tokens"] == finished["output_tokens"].sum()
    tokens = metrics["total_input_tokens"] + metrics["total_output_tokens"]
    assert metrics["total_throughput"] == pytest.approx(tokens / 120)
    assert metrics["request_throughput"] == pytest.approx(finished.height / 120)
    for name in ("ttft_ms", "e2el_ms"):
        values = finished[name].to_numpy()
        assert metrics[f"mean_{name}"] == pytest.approx(values.mean())
        assert metrics[f"std_{name}"] == pytest.approx(values.std())
        for label, q in (("median", 50), ("p90", 90), ("p99", 99)):
            assert metrics[f"{label}_{name}"] == pytest.approx(np.percentile(values, q))
    tpot = finished.filter(pl.col("output_tokens") > 1)["tpot_ms"]
    assert metrics["mean_tpot_ms"] == pytest.approx(tpot.mean())


def test_tpot_is_the_time_after_the_first_token_per_further_token(run):
    rows = run.requests.filter((pl.col("status") == "finished") & (pl.col("output_tokens") > 1))
    tpot = (rows["e2el_ms"] - rows["ttft_ms"]) / (rows["output_tokens"] - 1)
    np.testing.assert_allclose(rows["tpot_ms"], tpot, rtol=1e-9)


def test_the_adapters_frame_sums_to_the_metrics(run):
    adapters, metrics = run.adapters, run.metrics
    assert adapters["adapter"].to_list() == list(range(13))
    assert adapters["rank"].to_list()[1:] == [8, 16] * 6
    assert adapters["offered"].sum() == metrics["arrived"]
    assert adapters["served"].sum() == metrics["completed"]
    assert adapters["output_tokens"].sum() == metrics["total_output_tokens"]
    assert adapters["loads"].sum() == metrics["lora_loads_memory"]
    assert adapters["slo_miss"].is_between(0, 1).all()


def test_the_timeseries_and_the_steps_agree_with_the_metrics(run):
    series, steps, metrics = run.timeseries, run.steps, run.metrics
    assert series["t_s"].diff().drop_nulls().is_between(1.999, 2.001).all()
    assert series["generation_tokens"].is_sorted()
    assert series["running"].max() <= metrics["max_running"]
    assert steps.height == metrics["steps"]
    assert steps["running"].max() == metrics["max_running"]
    assert steps["duration_ms"].sum() == pytest.approx(1e3 * metrics["busy_s"])
    assert (steps["adapters"] <= 4).all()


def test_the_same_seed_gives_the_same_bits(toy):
    one, two = (pt.simulate(toy(), TRAFFIC, seed=5) for _ in range(2))
    assert one.to_json() == two.to_json()
    assert one.requests.equals(two.requests)
    other = pt.simulate(toy(), TRAFFIC, seed=6)
    assert not one.requests["arrival_s"].equals(other.requests["arrival_s"])


def test_another_server_leaves_the_traffic_unchanged(toy):
    """Common random numbers: what-if questions compare the same arrivals and lengths."""
    few = pt.simulate(toy(max_loras=1), TRAFFIC, seed=5).requests
    many = pt.simulate(toy(max_loras=12, max_num_seqs=4), TRAFFIC, seed=5).requests
    same = ("request_id", "adapter", "arrival_s", "prompt_tokens")
    assert few.select(same).equals(many.select(same))
    assert not few["ttft_ms"].equals(many["ttft_ms"])


def test_another_adapter_leaves_the_others_traffic_unchanged(toy):
    def of_first_four(n: int) -> pl.DataFrame:
        traffic = pt.Workload.poisson(adapters=pt.adapters(n, 0.5, 8), duration_s=120, drain=True)
        rows = pt.simulate(toy(max_loras=16), traffic, seed=5).requests
        same = ("adapter", "arrival_s", "prompt_tokens", "output_tokens")
        return rows.filter(pl.col("adapter").is_between(1, 4)).select(same)

    assert of_first_four(4).equals(of_first_four(9))


def many_specs() -> tuple[Twin, list[str]]:
    twin = Twin()
    specs = [
        twin.spec_json(pt.EngineConfig(profile=TOY, max_loras=slots), TRAFFIC, seed=seed)
        for slots in (1, 2, 4)
        for seed in range(4)
    ]
    return twin, specs


def test_any_number_of_workers_gives_the_same_rows():
    twin, specs = many_specs()
    one = _core.simulate_many(twin.library, specs, 1, None)
    for workers in (2, 3):
        assert json.dumps(_core.simulate_many(twin.library, specs, workers, None)) == json.dumps(
            one
        )


def test_many_agree_with_one():
    twin, specs = many_specs()
    many = _core.simulate_many(twin.library, specs, 2, None)
    alone = _core.simulate(twin.library, specs[5])["metrics"]
    assert {name: column[5] for name, column in many.items() if name in alone} == alone


def test_a_bad_configuration_among_many_is_a_row():
    twin, specs = many_specs()
    rows = _core.simulate_many(twin.library, [specs[0], "{}", specs[1]], 2, None)
    assert rows["status"] == ["ok", "failed", "ok"]
    assert rows["error"][1]
    assert "\n" not in rows["error"][1]
    assert rows["completed"][1] is None


def test_progress_is_told_and_may_interrupt():
    twin, specs = many_specs()
    seen: list[int] = []
    _core.simulate_many(twin.library, specs, 2, seen.append)
    assert seen == sorted(seen)

    def stop(_done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _core.simulate_many(twin.library, specs * 50, 2, stop)


def test_a_server_that_cannot_start_is_an_answer():
    server = pt.EngineConfig(profile=LLAMA, max_loras=2000, max_lora_rank=64)
    run = pt.simulate(server, TRAFFIC)
    assert run.status == "infeasible"
    assert run.error
    assert "\n" not in run.error
    assert run.metrics == {}
    assert run.requests.is_empty()
    assert json.loads(run.to_json())["status"] == "infeasible"


def test_memory_may_be_ignored(toy):
    server = toy(max_loras=2000, max_lora_rank=64)
    assert pt.simulate(server, TRAFFIC).status == "infeasible"
    assert pt.simulate(server, TRAFFIC, ignore_memory=True).status == "ok"


def test_json_is_what_vllm_bench_serve_writes(run):
    saved = json.loads(run.to_json())
    expected = ["num_prompts", "request_rate", "burstiness", "duration", "completed"]
    expected += ["total_input_tokens", "total_output_tokens", "request_throughput"]
    expected += ["output_throughput", "total_token_throughput"]
    expected += [
        f"{kind}_{name}_ms"
        for kind in ("mean", "median", "std", "p99")
        for name in ("ttft", "tpot", "itl", "e2el")
    ]
    assert set(expected) <= set(saved)
    assert saved["starved"] in (0, 1)


def test_what_was_not_recorded_says_how_to_record_it(toy):
    run = pt.simulate(toy(), TRAFFIC, timeseries_s=None)
    with pytest.raises(pt.PytwinError, match=r"steps=True"):
        _ = run.steps
    with pytest.raises(pt.PytwinError, match=r"timeseries_s=2.0"):
        _ = run.timeseries


def test_requests_that_never_finish_have_no_times(toy):
    traffic = pt.Workload.poisson(rate_rps=50, lengths=(100, 500), duration_s=20)
    run = pt.simulate(toy(max_num_seqs=4), traffic)
    unfinished = run.requests.filter(pl.col("status") == "unfinished")
    assert (
        unfinished.height == run.metrics["unfinished_running"] + run.metrics["unfinished_waiting"]
    )
    assert unfinished["e2el_ms"].is_null().all()
    assert run.metrics["starved"] == 1


def test_a_run_without_a_finished_request_is_valid_json(toy):
    traffic = pt.Workload.poisson(rate_rps=1, lengths=(10, 5000), duration_s=5)
    run = pt.simulate(toy(), traffic)
    saved = json.loads(run.to_json())
    assert saved["completed"] == 0
    assert saved["mean_ttft_ms"] is None
    assert all(not isinstance(v, float) or math.isfinite(v) for v in saved.values())


@pytest.mark.parametrize(
    ("settings", "options", "expected"),
    [
        ({"max_loras": 0}, {}, "max_loras (0) must be >= 1 for traffic with 12 adapters"),
        ({"max_lora_rank": 8}, {}, "rank (16) of adapter 2 must be <= max_lora_rank (8)"),
        ({}, {"seed": -1}, "seed (-1) must be a whole number"),
        ({}, {"seed": 1.5}, "seed (1.5) must be a whole number"),
        ({}, {"timeseries_s": 0}, "timeseries_s (0) must be >= 0.001"),
    ],
)
def test_server_and_traffic_must_fit(toy, settings, options, expected):
    with pytest.raises(pt.PytwinError) as error:
        pt.simulate(toy(**settings), TRAFFIC, **options)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_extrapolation_is_told_with_its_reason(toy):
    def reasons(**settings: object) -> str:
        return "; ".join(extrapolated(toy(**settings), TRAFFIC))

    assert reasons() == ""
    assert "engine_version 0.32, measured on 0.8.5" in reasons(engine_version="0.32")
    assert "max_loras 100, measured 1 to 64" in reasons(max_loras=100)
    assert "max_lora_rank 64, measured 8 to 32" in reasons(max_lora_rank=64)
    assert "num_gpu_blocks_override set" in reasons(num_gpu_blocks_override=500)
    assert "max_num_batched_tokens 4096" in reasons(max_num_batched_tokens=4096)
    long = pt.Workload.poisson(rate_rps=1, lengths=(4000, 10))
    assert "prompt_tokens 4000" in "; ".join(extrapolated(toy(), long))
    crowd = extrapolated(
        toy(), TRAFFIC, {"max_running": 1500, "max_waiting": 0, "mean_batch_adapters": 3.0}
    )
    assert crowd == ["seqs 1500, measured 1 to 1000"]


def test_names_of_adapters_reach_the_frame(toy, tmp_path):
    path = tmp_path / "fleet.csv"
    path.write_text("adapter,rate_rps,rank\nsql,1,8\nchat,2,16\n")
    traffic = pt.Workload.poisson(adapters=pt.adapters_from_csv(path), duration_s=30)
    assert pt.simulate(toy(), traffic).adapters["name"].to_list() == ["sql", "chat"]


def test_a_trace_of_a_run_replays_it(toy):
    traffic = pt.Workload.poisson(adapters=pt.adapters(6, 0.5, 8), duration_s=60, drain=True)
    first = pt.simulate(toy(max_loras=2), traffic, seed=1)
    trace = first.requests.select("arrival_s", "adapter", "prompt_tokens", "output_tokens")
    order = trace["adapter"].unique(maintain_order=True).to_list()
    assert len(order) == 6
    # The core names adapters by their number, a replay by their first request.
    server = toy(max_loras=2, max_cpu_loras=6)
    again = pt.simulate(server, pt.Workload.replay(trace, ranks=8))
    direct = pt.simulate(server, traffic, seed=1)
    assert again.metrics["completed"] == direct.metrics["completed"] == trace.height
    assert again.requests["e2el_ms"].mean() == pytest.approx(
        direct.requests["e2el_ms"].mean(), rel=0.02
    )


def test_an_hour_of_36_000_requests_adds_little_memory():
    """Importing pytwin and simulating 36,000 requests adds less than 200 MB."""
    code = f"""
import resource, sys
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
import pytwin as pt
server = pt.EngineConfig(profile={TOY!r}, max_loras=16)
traffic = pt.Workload.poisson(adapters=pt.adapters(64, 10 / 64, 16), total_requests=36000)
run = pt.simulate(server, traffic)
assert run.metrics["arrived"] == 36000
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200


def judged(run: pt.Run, ttft_ms: float, tpot_ms: float) -> pl.DataFrame:
    """The requests that can be judged, from the request frame alone, with `missed`."""
    waited = (run.metrics["duration"] - pl.col("arrival_s")) * 1e3
    late = pl.col("ttft_ms").fill_null(waited) > ttft_ms
    finished = pl.col("status") == "finished"
    slow = finished & (pl.col("tpot_ms") > tpot_ms).fill_null(False)
    missed = (pl.col("status") == "refused") | late | slow
    return run.requests.with_columns(missed=missed).filter(finished | pl.col("missed"))


@pytest.mark.parametrize("ttft_ms", [25.0, 400.0, 3000.0])
@pytest.mark.parametrize("tpot_ms", [10.5, 200.0])
def test_objectives_are_judged_request_by_request(toy, ttft_ms, tpot_ms):
    server = toy(max_loras=3, max_num_seqs=12, max_connections=80)
    slo = {"ttft_slo_ms": ttft_ms, "tpot_slo_ms": tpot_ms}
    run = pt.simulate(server, TRAFFIC, seed=4, **slo)
    rows = judged(run, ttft_ms, tpot_ms)
    met = rows.height - rows["missed"].sum()
    assert 0 < met < rows.height < run.requests.height
    assert run.metrics["slo_attainment"] == pytest.approx(met / rows.height)
    assert run.metrics["request_goodput"] == pytest.approx(met / run.metrics["duration"])
    expected = rows.group_by("adapter").agg(slo_miss=pl.col("missed").mean()).sort("adapter")
    assert run.adapters["slo_miss"].to_list() == pytest.approx(expected["slo_miss"].to_list())


def test_an_adapter_misses_as_a_whole_by_its_means(toy):
    server = toy(max_loras=3, max_num_seqs=12, max_connections=80)
    run = pt.simulate(server, TRAFFIC, seed=4, ttft_slo_ms=900.0, tpot_slo_ms=60.0)
    frame = run.adapters
    late = (frame["mean_ttft_ms"] > 900) | (frame["mean_tpot_ms"] > 60)
    assert 0 < run.metrics["adapters_missing_slo"] == late.sum() < 13
    for name in ("ttft_ms", "tpot_ms"):
        assert run.metrics[f"worst_adapter_mean_{name}"] == frame[f"mean_{name}"].max()


def test_an_adapter_that_is_served_nothing_misses(toy):
    traffic = pt.Workload.poisson(
        adapters=pt.adapters(3, [4.0, 4.0, 0.0]), lengths=(10, 5000), duration_s=20
    )
    run = pt.simulate(toy(max_num_seqs=1), traffic)
    assert run.metrics["completed"] == 0
    assert run.metrics["adapters_missing_slo"] == 2
    assert run.metrics["slo_attainment"] == 0
    assert run.adapters["slo_miss"].to_list() == [1.0, 1.0, None]


@pytest.mark.parametrize("name", ["ttft_slo_ms", "tpot_slo_ms"])
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), 1e10])
def test_objectives_must_be_positive(toy, name, value):
    with pytest.raises(pt.PytwinError, match=rf"{name} \({value}\) must be > 0"):
        pt.simulate(toy(), TRAFFIC, **{name: value})


def test_quantiles_of_a_long_run_are_within_their_stated_error(toy):
    law = pt.LogNormal(100, 0.8, 120, 0.8)
    traffic = pt.Workload.poisson(adapters=pt.adapters(12, 3.0, 8), lengths=law, duration_s=200)
    counted = pt.simulate(toy(max_loras=4), traffic, seed=1)
    exact = pt.simulate(toy(max_loras=4), traffic, seed=1, exact_quantiles=True)
    assert counted.metrics["completed"] > 2 * 1024  # 1,024 are kept as they are
    finished = counted.requests.filter(pl.col("status") == "finished")
    for name, values in (
        ("ttft_ms", finished["ttft_ms"]),
        ("tpot_ms", finished.filter(pl.col("output_tokens") > 1)["tpot_ms"]),
        ("e2el_ms", finished["e2el_ms"]),
    ):
        for label, q in (("median", 0.5), ("p90", 0.9), ("p99", 0.99)):
            true = values.quantile(q, "linear")
            assert exact.metrics[f"{label}_{name}"] == pytest.approx(true, rel=1e-9)
            assert counted.metrics[f"{label}_{name}"] == pytest.approx(true, rel=1e-3)
        assert counted.metrics[f"mean_{name}"] == pytest.approx(values.mean())
        assert counted.metrics[f"std_{name}"] == pytest.approx(values.std(ddof=0), rel=1e-6)
    for label in ("median", "p90", "p99"):
        key = f"{label}_itl_ms"
        assert counted.metrics[key] == pytest.approx(exact.metrics[key], rel=1e-3)
    quantiles = [name for name in counted.metrics if name[:3] in ("med", "p90", "p99")]
    same = {k: v for k, v in counted.metrics.items() if k not in quantiles}
    assert same == {k: v for k, v in exact.metrics.items() if k not in quantiles}


def test_requests_may_be_left_out(toy):
    run, lean = (pt.simulate(toy(), TRAFFIC, seed=2, requests=flag) for flag in (True, False))
    assert lean.metrics == run.metrics
    assert lean.adapters.equals(run.adapters)
    with pytest.raises(pt.PytwinError, match="requests=True"):
        _ = lean.requests


def test_memory_does_not_grow_with_the_number_of_requests():
    """Without rows per request and samples over time, 400,000 requests take what 10,000 take."""
    code = f"""
import resource
import pytwin as pt
server = pt.EngineConfig(profile={TOY!r}, max_loras=16)
def peak(requests):
    adapters = pt.adapters(64, 20 / 64, 16)
    traffic = pt.Workload.poisson(adapters=adapters, lengths=(60, 40), total_requests=requests,
                                  duration_s=requests / 20)
    run = pt.simulate(server, traffic, requests=False, timeseries_s=None)
    assert run.metrics["completed"] > 0.99 * requests
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
few = peak(10_000)
print((peak(400_000) - few) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 2  # MB
