"""Nothing is lost and nothing is made: requests, tokens, blocks; over random servers."""

from __future__ import annotations

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

import pytwin as pt
from tests.conftest import TOY

SERVERS = st.fixed_dictionaries(
    {
        "engine_version": st.sampled_from(["0.8.5", "0.32"]),
        "max_loras": st.integers(1, 6),
        "max_num_seqs": st.integers(1, 64),
        "max_num_batched_tokens": st.integers(64, 1024),
        "max_model_len": st.just(1024),
        "num_gpu_blocks_override": st.integers(80, 400),
        "max_connections": st.none() | st.integers(1, 100),
        "long_prefill_token_threshold": st.sampled_from([0, 0, 50]),
        "enable_prefix_caching": st.booleans(),
        "scheduling_policy": st.sampled_from(["fcfs", "priority"]),
        "async_scheduling": st.booleans(),
    }
)
TRAFFIC = st.fixed_dictionaries(
    {
        "served": st.integers(0, 12),
        "rate_rps": st.floats(0.5, 40),
        "prompt": st.integers(1, 400),
        "output": st.integers(1, 300),
        "seed": st.integers(0, 2**32),
        "drain": st.booleans(),
    }
)


def make(settings: dict, traffic: dict) -> tuple[pt.EngineConfig, pt.Workload]:
    """The server and the workload that these draws state."""
    served = traffic["served"]
    adapters = pt.adapters(served, traffic["rate_rps"] / max(served, 1), [8, 16])
    workload = pt.Workload.poisson(
        adapters=adapters if served else None,
        rate_rps=traffic["rate_rps"] if not served else 0.5,
        lengths=pt.LogNormal(traffic["prompt"], 0.6, traffic["output"], 0.6, max_total_tokens=1000),
        duration_s=10,
        drain=traffic["drain"],
    )
    if settings["engine_version"] == "0.8.5":
        absent = {"scheduling_policy": "fcfs", "async_scheduling": False}
        settings = {**settings, **absent}
    return pt.EngineConfig(profile=TOY, **settings), workload


def simulate(settings: dict, traffic: dict) -> pt.Run:
    server, workload = make(settings, traffic)
    return pt.simulate(server, workload, seed=traffic["seed"], steps=True)


@settings(max_examples=60)
@given(SERVERS, TRAFFIC)
def test_requests_tokens_and_blocks_are_conserved(server, traffic):
    run = simulate(server, traffic)
    assert run.status == "ok"
    metrics, requests, steps = run.metrics, run.requests, run.steps
    ended = metrics["completed"] + metrics["refused"]
    left = metrics["unfinished_running"] + metrics["unfinished_waiting"]
    assert metrics["arrived"] == ended + left == requests.height
    if traffic["drain"]:
        assert left == 0
    counts = dict(requests["status"].cast(pl.String).value_counts().iter_rows())
    assert counts.get("finished", 0) == metrics["completed"]
    assert counts.get("refused", 0) == metrics["refused"]
    assert counts.get("unfinished", 0) == left
    assert requests["preemptions"].sum() == metrics["preemptions"]

    # Blocks: never more in use than there are, none at the end of a drained run.
    usable = metrics["kv_blocks"] - 1
    assert steps["kv_blocks_used"].max() is None or steps["kv_blocks_used"].max() <= usable
    # Seats, adapters, budget: every step keeps to the server's limits.
    if steps.height:
        assert steps["running"].max() <= server["max_num_seqs"]
        assert steps["adapters"].max() <= server["max_loras"]
        scheduled = steps["prefill_tokens"] + steps["decode_seqs"]
        assert scheduled.max() <= server["max_num_batched_tokens"]
        assert scheduled.sum() == metrics["scheduled_tokens"]

    # Tokens: without preemption every finished request was computed once, but for its last token.
    if traffic["drain"] and metrics["preemptions"] == 0:
        finished = requests.filter(pl.col("status") == "finished")
        computed = finished["prompt_tokens"].sum() + finished["output_tokens"].sum()
        assert metrics["scheduled_tokens"] == computed - finished.height


@settings(max_examples=25)
@given(SERVERS, TRAFFIC)
def test_times_are_in_order(server, traffic):
    run = simulate(server, traffic)
    rows = run.requests.filter(pl.col("status") == "finished")
    assert run.requests["arrival_s"].is_sorted()
    assert (rows["ttft_ms"] > 0).all()
    assert (rows["e2el_ms"] >= rows["ttft_ms"]).all()
    steps = run.steps
    if steps.height > 1:
        assert steps["start_s"].is_sorted()
        assert (steps["duration_ms"] > 0).all()
