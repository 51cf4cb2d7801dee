"""Queueing theory that any right simulator obeys."""

from __future__ import annotations

import numpy as np
import pytest

import pytwin as pt

STEP_S = 0.010  # the toy profile's


def test_occupancy_is_poisson_where_nobody_waits(toy):
    """M/G/infinity: with seats for all, requests in service are Poisson of mean rate x service.

    An output of 200 tokens takes 200 steps of 10 ms; at 10 requests/s the server never idles.
    """
    traffic = pt.Workload.poisson(rate_rps=10, lengths=(50, 200), duration_s=20_000)
    run = pt.simulate(toy(max_loras=0), traffic, seed=11, timeseries_s=5.0)
    arrivals_per_s = run.metrics["arrived"] / 20_000
    assert arrivals_per_s == pytest.approx(10, rel=0.01)
    service_s = 200 * STEP_S
    assert run.metrics["mean_running"] == pytest.approx(arrivals_per_s * service_s, rel=0.002)
    running = run.timeseries["running"].to_numpy()[10:]  # after the first requests have ended
    # 4,000 samples, 5 s apart, of a process that forgets in 2 s: the standard error of the mean is
    # 0.4 %, that of the variance 2.2 %.
    assert running.mean() == pytest.approx(20, rel=0.015)
    assert running.var() == pytest.approx(20, rel=0.08)


@pytest.mark.parametrize("slots", [2, 12])
def test_littles_law(toy, slots):
    """Mean number in the system = throughput x mean time in it, with and without queueing."""
    traffic = pt.Workload.poisson(
        adapters=pt.adapters(12, 0.6, 8), lengths=(64, 100), duration_s=2_000, drain=True
    )
    run = pt.simulate(toy(max_loras=slots), traffic, seed=2)
    metrics = run.metrics
    in_system = metrics["mean_running"] + metrics["mean_waiting"]
    time_in_system_s = run.requests["e2el_ms"].sum() / 1e3
    # The server sees an arrival at the next step: up to one step of each stay is not counted.
    stay = time_in_system_s / metrics["duration"]
    assert in_system == pytest.approx(stay, rel=0.02)
    if slots == 2:
        assert metrics["mean_waiting"] > 1  # the law is only worth testing with a queue


def test_a_lone_request_takes_its_steps(toy):
    """Prompt and first token in one step, then one step per token."""
    trace = {"arrival_s": [1.0], "adapter": [None], "prompt_tokens": [100], "output_tokens": [50]}
    import polars as pl

    run = pt.simulate(toy(max_loras=0), pt.Workload.replay(pl.DataFrame(trace)))
    row = run.requests.row(0, named=True)
    assert row["ttft_ms"] == pytest.approx(10)
    assert row["tpot_ms"] == pytest.approx(10)
    assert row["e2el_ms"] == pytest.approx(500)
    assert run.metrics["steps"] == 50


def test_a_prompt_beyond_the_budget_is_chunked(toy):
    """5,000 prompt tokens at 2,048 a step: three steps to the first token."""
    import polars as pl

    trace = {"arrival_s": [0.0], "adapter": [None], "prompt_tokens": [5000], "output_tokens": [1]}
    run = pt.simulate(toy(max_loras=0), pt.Workload.replay(pl.DataFrame(trace)), steps=True)
    assert run.requests["ttft_ms"].to_list() == pytest.approx([30])
    assert run.steps["prefill_tokens"].to_list() == [2048, 2048, 904]


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gamma_arrivals_have_the_asked_spread(toy, burstiness):
    """The squared coefficient of variation of the gaps is 1 / burstiness."""
    traffic = pt.Workload.gamma(
        burstiness=burstiness, rate_rps=20, lengths=(10, 1), duration_s=2_000
    )
    arrivals = pt.simulate(toy(max_loras=0), traffic, seed=4).requests["arrival_s"].to_numpy()
    gaps = np.diff(arrivals)
    assert gaps.mean() == pytest.approx(1 / 20, rel=0.04)
    assert (gaps.std() / gaps.mean()) ** 2 == pytest.approx(1 / burstiness, rel=0.08)


def test_constant_arrivals_are_even(toy):
    traffic = pt.Workload.constant(rate_rps=4, lengths=(10, 1), duration_s=100)
    arrivals = pt.simulate(toy(max_loras=0), traffic).requests["arrival_s"].to_numpy()
    assert len(arrivals) in (399, 400, 401)
    np.testing.assert_allclose(np.diff(arrivals), 0.25, atol=1e-6)


def test_poisson_arrivals_given_their_count_are_uniform(toy):
    traffic = pt.Workload.poisson(
        adapters=pt.adapters(4, [1, 3], 8), lengths=(10, 1), duration_s=1_000, total_requests=8_000
    )
    rows = pt.simulate(toy(), traffic, seed=9).requests
    assert rows.height == 8_000
    arrivals = np.sort(rows["arrival_s"].to_numpy()) / 1_000
    gap = np.abs(arrivals - np.arange(1, 8_001) / 8_000).max()
    assert gap < 1.63 / np.sqrt(8_000)  # Kolmogorov-Smirnov, 1 %
    shares = rows["adapter"].value_counts().sort("adapter")["count"].to_numpy() / 8_000
    np.testing.assert_allclose(shares, [1 / 8, 3 / 8, 1 / 8, 3 / 8], atol=0.02)


def test_lengths_follow_their_table(toy):
    traffic = pt.Workload.poisson(rate_rps=100, duration_s=400, lengths="sharegpt")
    rows = pt.simulate(toy(max_loras=0), traffic, seed=1).requests
    table = pt.ShareGpt().resolve(toy().loaded_profile).table
    mean_prompt, _ = table.means()
    assert rows["prompt_tokens"].mean() == pytest.approx(mean_prompt, rel=0.02)
    assert rows["prompt_tokens"].is_between(4, 1024).all()


def test_lognormal_lengths_have_their_medians(toy):
    law = pt.LogNormal(100, 0.5, 40, 0.5, max_total_tokens=4000)
    traffic = pt.Workload.poisson(rate_rps=50, duration_s=200, lengths=law, drain=True)
    rows = pt.simulate(toy(max_loras=0), traffic, seed=1).requests
    assert rows["prompt_tokens"].median() == pytest.approx(100, rel=0.04)
    assert rows["output_tokens"].median() == pytest.approx(40, rel=0.04)
