"""The mean-field estimate: Little's law, and the twin on servers that are easy to judge."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pytwin as pt
from pytwin.catalog import load_profile
from pytwin.learn.describe import Describer, Setting, Traffic
from pytwin.learn.lengths import length_moments, mixed
from pytwin.workload.lengths import ConstantLengths, LogNormal, ShareGpt
from tests.conftest import LLAMA, QWEN, TOY

STEP_S = 0.010  # of the toy server, whatever it does


def describe(server, traffic, *settings, duration_s=3600.0):
    """One mapping of features per setting."""
    describer = Describer(server)
    rows = describer.features(traffic, settings, duration_s)
    return [dict(zip(describer.names, row.tolist(), strict=True)) for row in rows]


def simulated(server, traffic, setting, duration_s):
    """What the twin finds there."""
    describer = Describer(server)
    configured = describer.configured(setting)
    return pt.simulate(configured, traffic.workload(setting.served_adapters, duration_s)).metrics


def toy_traffic(rate, served=8, prompt=20, output=50, **options):
    return Traffic((rate / served,), (8,), ConstantLengths(prompt, output), **options)


@given(
    rate=st.floats(0.01, 20.0),
    served=st.integers(1, 64),
    output=st.integers(2, 300),
)
def test_littles_law_on_a_server_of_constant_steps(rate, served, output):
    traffic = toy_traffic(rate, served, output=output)
    (found,) = describe(pt.EngineConfig(profile=TOY), traffic, Setting(served, served, 8))
    residence = output * STEP_S
    assert found["step_ms"] == pytest.approx(1e3 * STEP_S, rel=1e-6)
    # Bisection stops at a 65,536th of what may run at most.
    halving = found["most_running"] / 2**15
    assert found["running"] == pytest.approx(rate * residence, rel=1e-3, abs=halving)
    active = served * -math.expm1(-rate / served * residence)
    assert found["active_adapters"] == pytest.approx(active, rel=1e-2, abs=halving)
    assert found["least_active_adapters"] == pytest.approx(active, rel=1e-3)
    assert found["utilisation"] == pytest.approx(rate * residence / found["most_running"], rel=1e-3)


def test_the_estimate_is_the_twin_where_nothing_fluctuates():
    setting = Setting(8, 8, 8)
    traffic = toy_traffic(12.0)
    server = pt.EngineConfig(profile=TOY)
    (found,) = describe(server, traffic, setting)
    twin = simulated(server, traffic, setting, 2000.0)
    assert found["running"] == pytest.approx(twin["mean_running"], rel=0.05)
    assert found["step_ms"] == pytest.approx(twin["mean_tpot_ms"], rel=0.01)
    assert found["offered_token_throughput"] == pytest.approx(
        twin["offered_token_throughput"], rel=0.03
    )
    assert found["served_share"] == pytest.approx(twin["served_ratio"], abs=0.01)


@pytest.mark.parametrize("load", [0.5, 2.0, 3.0])
def test_utilisation_says_what_share_the_twin_serves(load):
    """Four requests of half a second at a time: 8 requests a second, no more."""
    server = pt.EngineConfig(profile=TOY, max_num_seqs=4)
    traffic = toy_traffic(8.0 * load)
    setting = Setting(8, 8, 8)
    (found,) = describe(server, traffic, setting)
    twin = simulated(server, traffic, setting, 1000.0)
    assert found["utilisation"] == pytest.approx(load, rel=0.02)
    assert found["capacity_share"] == pytest.approx(min(1.0, 1.0 / load), rel=0.02)
    assert twin["served_ratio"] == pytest.approx(found["served_share"], abs=0.04)


@pytest.mark.parametrize("profile", [LLAMA, QWEN])
def test_step_times_of_measured_servers_are_near_the_twins(profile):
    """Calm load and enough slots: what is left is curvature, and the noise of ten minutes."""
    server = pt.EngineConfig(profile=profile)
    traffic = Traffic((0.05,), (8,))
    setting = Setting(48, 48, 8)
    (found,) = describe(server, traffic, setting)
    twin = simulated(server, traffic, setting, 600.0)
    assert found["utilisation"] < 0.5
    assert found["slot_wait_s"] == 0.0
    assert found["step_ms"] == pytest.approx(twin["mean_tpot_ms"], rel=0.12)
    assert found["running"] == pytest.approx(twin["mean_running"], rel=0.2)
    assert found["active_adapters"] == pytest.approx(twin["mean_batch_adapters"], rel=0.2)


def test_more_load_never_needs_less():
    server = pt.EngineConfig(profile=LLAMA)
    # Not the step itself: LoRA kernels switch their tiling at 121 tokens, where its law falls.
    rising = ("rate_rps", "running", "utilisation", "active_adapters", "kv_pressure")
    last = None
    for rate in np.geomspace(0.001, 3.0, 25):
        (found,) = describe(server, Traffic((rate,), (8, 16)), Setting(64, 64, 16))
        if last is not None:
            for name in rising:
                assert found[name] >= last[name] * (1 - 1e-4), (name, rate)
        last = found


def test_fewer_slots_than_busy_adapters_wait():
    server = pt.EngineConfig(profile=TOY)
    traffic = toy_traffic(40.0, served=40, output=200)  # each of 40 is busy most of the time
    settings = [Setting(40, slots, 8) for slots in (4, 10, 20, 40)]
    waits = [row["slot_wait_s"] for row in describe(server, traffic, *settings)]
    assert waits == sorted(waits, reverse=True)
    assert waits[0] > 1.0
    assert waits[-1] == 0.0
    narrow = simulated(server, traffic, settings[0], 300.0)
    wide = simulated(server, traffic, settings[-1], 300.0)
    assert narrow["mean_waiting"] > 10
    assert wide["mean_waiting"] < 1


def test_slots_cost_memory_and_a_server_that_cannot_start_has_no_row():
    server = pt.EngineConfig(profile=LLAMA)
    traffic = Traffic((0.1,), (64,))
    settings = [Setting(900, slots, 64) for slots in (8, 32, 900)]
    few, many, none = describe(server, traffic, *settings)
    assert few["kv_tokens"] > many["kv_tokens"]
    assert all(math.isnan(value) for value in none.values())
    describer = Describer(server)
    assert describer.infeasible(settings[0]) is None
    assert "900" in describer.infeasible(settings[2])


def test_rates_and_ranks_are_cycled_however_they_are_written():
    server = pt.EngineConfig(profile=LLAMA)
    setting = Setting(13, 8, 16)
    short = describe(server, Traffic((0.4, 0.1), (8, 16, 16)), setting)
    long = describe(server, Traffic((0.4, 0.1) * 3, (8, 16, 16) * 4), setting)
    assert short[0] == pytest.approx(long[0])
    fleet = pt.adapters(13, [0.4, 0.1], [8, 16, 16])
    rates, ranks = np.array(fleet.rates_rps), np.array(fleet.ranks)
    row = short[0]
    assert row["rate_rps"] == pytest.approx(rates.sum())
    assert row["rate_mean_rps"] == pytest.approx(rates.mean())
    assert row["rate_cv"] == pytest.approx(rates.std() / rates.mean())
    skew = ((rates - rates.mean()) ** 3).mean() / rates.std() ** 3
    assert row["rate_skew"] == pytest.approx(skew)
    assert row["rank_mean"] == pytest.approx(ranks.mean())
    assert row["top_slots_share"] == pytest.approx(np.sort(rates)[-8:].sum() / rates.sum())
    assert Traffic((0.4, 0.1), (8,)).rate_rps(13) == pytest.approx(rates.sum())


def test_base_traffic_counts_but_is_no_adapter():
    server = pt.EngineConfig(profile=LLAMA)
    (plain,) = describe(server, Traffic((0.1,), (8,)), Setting(8, 8, 8))
    (mixed_in,) = describe(server, Traffic((0.1,), (8,), base_rate_rps=2.0), Setting(8, 8, 8))
    assert mixed_in["rate_rps"] == pytest.approx(plain["rate_rps"] + 2.0)
    assert mixed_in["running"] > plain["running"]
    assert mixed_in["rate_mean_rps"] == plain["rate_mean_rps"]


@pytest.mark.parametrize(
    ("law", "early"),
    [
        (ConstantLengths(30, 70), 0.0),
        (ConstantLengths(30, 70), 0.4),
        (LogNormal(prompt_median=80, prompt_sigma=0.6, output_median=60, output_sigma=0.5), 0.0),
        (ShareGpt(), 0.2),
    ],
    ids=["constant", "early-ends", "lognormal", "sharegpt"],
)
def test_moments_are_those_of_simulated_requests(law, early):
    server = pt.EngineConfig(profile=QWEN)
    traffic = pt.Workload.poisson(
        rate_rps=20.0, lengths=law, early_eos=early, duration_s=600, drain=True
    )
    requests = pt.simulate(server, traffic, ignore_memory=True).requests
    prompt = requests["prompt_tokens"].to_numpy().astype(float)
    output = requests["output_tokens"].to_numpy().astype(float)
    found = length_moments(law, load_profile(QWEN), early)
    assert found.prompt == pytest.approx(prompt.mean(), rel=0.03)
    assert found.output == pytest.approx(output.mean(), rel=0.03)
    assert found.prompt_output == pytest.approx((prompt * output).mean(), rel=0.06)
    assert found.output_squared == pytest.approx((output**2).mean(), rel=0.06)


def test_a_mixture_of_laws_has_the_mixed_moments():
    profile = load_profile(QWEN)
    one, two = (
        length_moments(ConstantLengths(*pair), profile, 0.0) for pair in ((10, 20), (30, 40))
    )
    found = mixed([one, two], [3.0, 1.0])
    assert (found.prompt, found.output) == (15.0, 25.0)
    assert found.prompt_output == 0.75 * 200 + 0.25 * 1200
    own = Traffic((3.0, 1.0), (8,), own_lengths=(ConstantLengths(10, 20), ConstantLengths(30, 40)))
    seen = Describer(pt.EngineConfig(profile=TOY)).moments(own)
    assert seen.prompt == pytest.approx(15.0)


@pytest.mark.parametrize(
    ("traffic", "duration_s", "message"),
    [
        (Traffic((), (8,)), 3600.0, "at least one rate"),
        (Traffic((-1.0,), (8,)), 3600.0, r"rates_rps \(-1\) must be >= 0"),
        (Traffic((1.0,), (8,)), 0.0, r"duration_s \(0\) must be > 0"),
    ],
)
def test_a_bad_query_is_one_line(traffic, duration_s, message):
    with pytest.raises(ValueError, match=message):
        describe(pt.EngineConfig(profile=TOY), traffic, Setting(1, 1, 8), duration_s=duration_s)


def test_a_rank_that_vllm_does_not_serve_is_one_line():
    with pytest.raises(pt.WorkloadError, match=r"^rank \(513\) must be <= 512"):
        Traffic((1.0,), (8, 513)).least_lora_rank(2)
    assert Traffic((1.0,), (8, 17, 500)).least_lora_rank(1) == 8
    assert Traffic((1.0,), (8, 17, 500)).least_lora_rank(2) == 32
