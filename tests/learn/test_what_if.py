"""What-if: laws of paired differences, changes of server and traffic, bad input."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from scipy import stats

import pytwin as pt
from pytwin.learn.paired import paired, student_quantile
from tests.conftest import LLAMA, QWEN

FLEET = pt.adapters(12, rates_rps=[0.4, 0.2, 0.1], ranks=[8, 16])


@pytest.fixture
def server(toy):
    return toy(max_loras=4, max_cpu_loras=12)


@pytest.fixture
def traffic():
    return pt.Workload.poisson(adapters=FLEET, lengths=(40, 20), duration_s=200)


def requests_of(traffic, server, adapter, seed=3):
    run = pt.simulate(server, traffic, seed=seed)
    rows = run.requests.filter(pl.col("adapter") == adapter)
    return rows.select("arrival_s", "prompt_tokens").rows()


@pytest.mark.parametrize("change", [{}, [], {"max_loras": 4}, pt.viral(3, 1.0)])
def test_no_change_is_no_difference_to_the_bit(server, traffic, change):
    found = pt.what_if(server, traffic, change=change, seeds=3)
    assert len(found.differences) > 40
    for name, item in found.differences.items():
        assert (item.change, item.low, item.high) == (0.0, 0.0, 0.0), name
        assert item.before == item.after
    assert set(found.adapters["mean_ttft_ms_change"]) == {0.0}
    assert found.before.starved_probability == found.after.starved_probability


def test_a_change_of_the_server_leaves_the_arrivals_alone(server, traffic):
    found = pt.what_if(server, traffic, change={"max_loras": 12}, seeds=3)
    for name in ("arrived", "offered_token_throughput"):
        assert found.differences[name].change == 0.0
        assert found.differences[name].low == found.differences[name].high == 0.0
    ttft = found.differences["mean_ttft_ms"]
    assert ttft.change < 0
    assert ttft.clear  # slots for all: nobody waits for one


def test_means_and_intervals_are_those_of_the_single_runs(server, traffic):
    found = pt.what_if(server, traffic, change={"max_loras": 12}, seeds=4, level=0.8)
    gaps = [
        pt.simulate(server.replace(max_loras=12), traffic, seed=seed).metrics["mean_tpot_ms"]
        - pt.simulate(server, traffic, seed=seed).metrics["mean_tpot_ms"]
        for seed in range(4)
    ]
    item = found.differences["mean_tpot_ms"]
    low, high = stats.t.interval(0.8, 3, np.mean(gaps), stats.sem(gaps))
    assert item.change == pytest.approx(np.mean(gaps))
    assert [item.low, item.high] == pytest.approx([low, high])


def test_another_server_is_the_same_as_its_settings(server, traffic):
    one = pt.what_if(server, traffic, change={"max_loras": 8}, seeds=2)
    two = pt.what_if(server, traffic, change=server.replace(max_loras=8), seeds=2)
    assert one.to_dict() == two.to_dict()


def test_pairs_are_tighter_than_independent_runs(server, traffic):
    change = pt.more_adapters(1, rate_rps=0.2, rank=8)
    found = pt.what_if(server, traffic, change=change, seeds=6)
    apart = [
        pt.simulate(server, change(traffic), seed=100 + seed).metrics["total_throughput"]
        - pt.simulate(server, traffic, seed=seed).metrics["total_throughput"]
        for seed in range(6)
    ]
    item = found.differences["total_throughput"]
    low, high = stats.t.interval(0.9, 5, np.mean(apart), stats.sem(apart))
    assert item.high - item.low < 0.5 * (high - low)


@pytest.mark.parametrize(
    ("change", "touched"),
    [
        (pt.more_adapters(2, rate_rps=0.3, rank=16), set()),
        (pt.viral(5, 7.0), {5}),
        (pt.new_rank(5, 16), set()),
    ],
    ids=str,
)
def test_a_change_of_traffic_leaves_the_other_adapters_requests_alone(
    server, traffic, change, touched
):
    changed = change(traffic)
    for adapter in range(1, 13):
        before = requests_of(traffic, server, adapter)
        after = requests_of(changed, server, adapter)
        assert (before == after) == (adapter not in touched), adapter


@pytest.mark.parametrize("factor", [1.05, 1.5, 4.0])
def test_more_load_never_brings_fewer_arrivals(server, traffic, factor):
    for change in (pt.busier(factor), pt.viral(1, factor)):
        found = pt.what_if(server, traffic, change=change, seeds=3)
        pairs = zip(found.before.runs, found.after.runs, strict=True)
        for before, after in pairs:
            old, new = before["adapters"]["arrived"], after["adapters"]["arrived"]
            assert (new >= old).all()
            assert new.sum() > old.sum()


def test_traffic_after_each_change(traffic):
    more = pt.more_adapters(2, rate_rps=0.3, rank=16)(traffic)
    assert more.adapters.rates_rps == [*FLEET.rates_rps, 0.3, 0.3]
    assert more.adapters.ranks == [*FLEET.ranks, 16, 16]
    hot = pt.viral(2, 10)(traffic).adapters
    assert hot.rates_rps == [0.4, 2.0, *FLEET.rates_rps[2:]]
    assert hot.ranks == FLEET.ranks
    wide = pt.new_rank(12, 16)(traffic).adapters
    assert wide.ranks == [*FLEET.ranks[:-1], 16]
    assert pt.busier(2)(traffic).total_rate_rps == pytest.approx(2 * traffic.total_rate_rps)


def test_own_lengths_and_names_are_kept(tmp_path, server):
    csv = tmp_path / "fleet.csv"
    csv.write_text(
        "adapter,rate_rps,rank,prompt_tokens,output_tokens\n"
        "sql,0.5,8,,\nchat,0.2,16,100,30\nnew-3,0.1,8,,\n"
    )
    traffic = pt.Workload.poisson(
        adapters=pt.adapters_from_csv(csv), lengths=(40, 20), duration_s=100
    )
    changed = pt.more_adapters(2, rate_rps=0.3)(pt.viral("chat", 5)(traffic))
    assert changed.adapter_names == ("sql", "chat", "new-3", "new-4", "new-5")
    assert changed.adapters.rates_rps == [0.5, 1.0, 0.1, 0.3, 0.3]
    run = pt.simulate(server, changed)
    assert set(run.requests.filter(pl.col("adapter") == 2)["prompt_tokens"]) == {100}
    found = pt.what_if(server, traffic, change=pt.viral("chat", 5), seeds=2)
    assert set(found.adapters["name"]) == {"sql", "chat", "new-3"}


def test_the_adapters_frame_puts_the_worst_first(server, traffic):
    found = pt.what_if(server, traffic, change=pt.busier(3), seeds=3, ttft_slo_ms=200)
    frame = found.adapters
    assert sorted(frame["adapter"]) == list(range(1, 13))
    changes = frame["slo_miss_change"].to_list()
    assert changes == sorted(changes, reverse=True)
    row = frame.row(0, named=True)
    gap = row["mean_ttft_ms_after"] - row["mean_ttft_ms_before"]
    assert row["mean_ttft_ms_change"] == pytest.approx(gap)
    assert row["mean_ttft_ms_low"] <= row["mean_ttft_ms_change"] <= row["mean_ttft_ms_high"]


def test_overload_starves_with_a_probability_near_one(server, traffic):
    narrow = server.replace(max_num_seqs=4)  # 4 requests of 200 ms each: 20 a second
    found = pt.what_if(narrow, traffic, change=pt.busier(20), seeds=3)
    assert found.before.starved_probability < 0.01
    assert found.after.starved_probability > 0.99
    assert "probability of starvation" in str(found)


def test_another_gpu_or_model_under_the_same_arrivals():
    server = pt.EngineConfig(profile=QWEN, max_loras=8)
    traffic = pt.Workload.poisson(adapters=pt.adapters(8, 0.2, ranks=8), duration_s=60)
    found = pt.what_if(server, traffic, change={"profile": LLAMA}, seeds=2)
    assert found.differences["arrived"].change == 0
    assert found.differences["mean_tpot_ms"].change != 0


def test_a_server_that_cannot_start_is_an_answer():
    server = pt.EngineConfig(profile=QWEN, max_loras=8)
    traffic = pt.Workload.poisson(adapters=pt.adapters(8, 0.2, ranks=8), duration_s=60)
    wide = {"max_loras": 900, "max_cpu_loras": 900, "max_lora_rank": 64}
    found = pt.what_if(server, traffic, change=wide, seeds=2)
    assert not found.feasible
    assert found.before.status == "ok"
    assert found.after.status == "infeasible"
    assert "900" in found.after.error
    assert found.differences == {}
    assert found.adapters.is_empty()
    assert "after the change the server cannot start" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["after"]["status"] == "infeasible"


def test_threads_do_not_change_the_answer(server, traffic):
    one, two = (
        pt.what_if(server, traffic, change={"max_loras": 6}, seeds=3, workers=n) for n in (1, 2)
    )
    assert one.to_dict() == two.to_dict()


def test_a_replay_can_change_servers_but_not_traffic(server):
    trace = pl.DataFrame(
        {
            "arrival_s": [0.0, 0.5, 1.0],
            "adapter": ["a", "b", "a"],
            "prompt_tokens": [10, 20, 30],
            "output_tokens": [5, 6, 7],
        }
    )
    traffic = pt.Workload.replay(trace, ranks=8)
    assert pt.what_if(server, traffic, change={"max_loras": 1}, seeds=2).feasible
    with pytest.raises(pt.WorkloadError, match=r"a replayed trace .* cannot be changed"):
        pt.what_if(server, traffic, change=pt.viral("a", 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"change": {"max_lora": 8}}, r"^change \(max_lora\) must be a setting"),
        ({"change": {"max_loras": 99}}, r"^max_cpu_loras \(12\) must be >= max_loras \(99\)"),
        ({"change": 7}, r"^change \(7\) must be settings"),
        ({"change": "viral"}, r"^change \('viral'\) must be settings"),
        ({"change": lambda traffic: 1}, r"must return a pt.Workload"),
        ({"change": {}, "seeds": 1}, r"^seeds \(1\) must be from 2"),
        ({"change": {}, "level": 1.0}, r"^level \(1.0\) must be above 0 and below 1"),
        ({"change": {}, "workers": 0}, r"^workers \(0\) must be from 1"),
        ({"change": pt.viral(13, 2)}, r"^adapter \(13\) must be from 1 to 12"),
        ({"change": pt.viral("sql", 2)}, r"^adapter \(sql\) must be a number"),
        ({"change": pt.new_rank(1, 32)}, r"^rank \(32\) of adapter 1 must be <= max_lora_rank"),
        ({"change": {}, "ttft_slo_ms": 0}, r"^ttft_slo_ms \(0\) must be > 0"),
    ],
)
def test_bad_input_is_one_line(server, traffic, options, message):
    with pytest.raises(pt.PytwinError, match=message) as caught:
        pt.what_if(server, traffic, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pt.viral(0, 2), r"^adapter \(0\) must be from 1"),
        (lambda: pt.viral(1, -1), r"^factor \(-1\) must be >= 0"),
        (lambda: pt.new_rank(1, 513), r"^rank \(513\) must be from 1 to 512"),
        (lambda: pt.more_adapters(0, rate_rps=1), r"^count \(0\) must be from 1"),
        (lambda: pt.busier(0), r"^factor \(0\) must be > 0"),
    ],
)
def test_bad_changes_are_one_line(make, message):
    with pytest.raises(pt.WorkloadError, match=message):
        make()


def test_a_fixed_total_cannot_be_paired(server):
    traffic = pt.Workload.poisson(adapters=FLEET, duration_s=100, total_requests=50)
    with pytest.raises(pt.WorkloadError, match=r"^total_requests \(50\) must be None"):
        pt.what_if(server, traffic, change=pt.busier(2))


@pytest.mark.parametrize("freedom", [1, 2, 3, 7, 30, 199])
@pytest.mark.parametrize("share", [0.55, 0.9, 0.95, 0.995])
def test_student_quantiles_are_scipys(freedom, share):
    assert student_quantile(share, freedom) == pytest.approx(stats.t.ppf(share, freedom), rel=1e-9)


def test_a_metric_that_is_missing_somewhere_counts_where_it_is_there():
    found = paired([1.0, None, 3.0, float("nan")], [2.0, 5.0, 5.0, 1.0], 0.9)
    assert (found.before, found.after, found.change) == (2.0, 3.5, 1.5)
    alone = paired([1.0, None], [2.0, 3.0], 0.9)
    assert (alone.change, alone.low, alone.high, alone.clear) == (1.0, None, None, False)
    assert paired([None], [1.0], 0.9) is None
