"""Who misses an objective: the adapters' forecasts, and how forecasts are scored."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

import pytwin as pt
from pytwin.uncertainty import brier, reliability
from pytwin.uncertainty.objectives import miss_probability

NONE = np.zeros(4, dtype=bool)


def test_brier_is_the_mean_square():
    assert brier([1.0, 0.0], [True, False]) == 0
    assert brier([0.5, 0.5], [True, False]) == 0.25
    assert brier([0.0, 0.2], [True, False]) == pytest.approx(0.52)
    with pytest.raises(pt.PytwinError, match="must be as many as outcomes"):
        brier([0.5], [])


def test_reliability_bins_hold_what_happened():
    said = [0.05, 0.05, 0.95, 1.0]
    low, high = reliability(said, [False, True, True, True])
    assert (low["forecasts"], low["mean_forecast"], low["happened"]) == (2, 0.05, 0.5)
    assert (high["from"], high["happened"]) == (0.9, 1.0)
    assert high["mean_forecast"] == pytest.approx(0.975)
    assert low["low"] == 0.0 < low["high"] < 0.5


def test_right_forecasts_lie_within_their_bands():
    rng = np.random.default_rng(1)
    said = rng.random(20_000)
    table = reliability(said.tolist(), (rng.random(20_000) < said).tolist())
    inside = [row["low"] <= row["happened"] <= row["high"] for row in table]
    assert sum(inside) >= 7


def test_a_miss_is_a_mean_above_the_limit_or_nothing_finished():
    means = np.array([1.0, 1.1, 0.9, 1.0])
    assert miss_probability(means, 100.0, 0.0, NONE) == pytest.approx(0.0, abs=1e-9)
    assert miss_probability(means, 0.01, 0.0, NONE) == pytest.approx(1.0)
    assert 0.3 < miss_probability(means, 1.0, 0.0, NONE) < 0.7
    never = np.full(4, math.nan)
    assert miss_probability(never, 1.0, 0.0, NONE) is None
    assert miss_probability(never, 1.0, 0.0, ~NONE) == 1.0
    half = np.array([1.0, 1.0, math.nan, math.nan])
    assert miss_probability(half, 100.0, 0.0, np.array([0, 0, 1, 1], bool)) == 0.5
    wide = miss_probability(means, 2.0, 1.0, NONE)
    assert miss_probability(means, 2.0, 0.0, NONE) < wide < 0.5


@pytest.fixture(scope="module")
def unequal() -> pl.DataFrame:
    """Three adapters for one slot: the fleet queues; the second has ten times the requests."""
    server = pt.EngineConfig(profile="qwen-2.5-7b-instruct@h100-64gb", max_loras=1, max_cpu_loras=3)
    fleet = pt.adapters(3, rates_rps=[0.5, 5.0, 0.02], ranks=16)
    traffic = pt.Workload.poisson(adapters=fleet, duration_s=120)
    return pt.predict(server, traffic, seeds=6, draws=0, ttft_slo_ms=2000.0).adapters


def test_adapters_have_probabilities_and_intervals(unequal):
    assert unequal["adapter"].to_list() == [1, 2, 3]
    assert unequal["rate_rps"].to_list() == [0.5, 5.0, 0.02]
    for name in ("ttft_miss", "tpot_miss", "miss", "request_miss"):
        assert unequal[name].is_between(0, 1).all()
    assert (unequal["mean_ttft_ms_low"] <= unequal["mean_ttft_ms_high"]).drop_nulls().all()
    # The busy adapter keeps the one slot; the rare one never gets it, which is a miss.
    assert unequal["ttft_miss"][1] < 0.05
    assert (unequal["ttft_miss"][2], unequal["request_miss"][2]) == (1.0, 1.0)
    assert unequal["mean_ttft_ms"][2] is None


def test_the_forecast_of_an_adapter_is_what_fresh_seeds_do():
    """Over 40 fresh seeds each adapter misses about as often as was said."""
    server = pt.EngineConfig(
        profile="qwen-2.5-7b-instruct@h100-64gb", max_loras=15, max_cpu_loras=32
    )
    fleet = pt.adapters(32, rates_rps=[0.3, 0.15, 0.05], ranks=[8, 16])
    traffic = pt.Workload.poisson(adapters=fleet, duration_s=120)
    said = pt.predict(server, traffic, seeds=24, draws=0, ttft_slo_ms=1000.0).adapters
    happened = pl.concat(
        pt.simulate(server, traffic, seed=seed, timeseries_s=None).adapters.select(
            "adapter", missed=pl.col("mean_ttft_ms") > 1000.0
        )
        for seed in range(500, 540)
    ).drop_nulls()
    both = happened.join(said, on="adapter")
    often = both["missed"].mean()
    assert 0.05 < often < 0.95  # neither never nor always: there is something to forecast
    assert both["ttft_miss"].mean() == pytest.approx(
        often, abs=0.1
    )  # the load is shared: few independent runs
    score = brier(both["ttft_miss"].to_list(), both["missed"].to_list())
    assert score < often * (1 - often)


def test_named_adapters_keep_their_names(tmp_path, certain):
    file = tmp_path / "fleet.csv"
    file.write_text("adapter,rate_rps,rank\nsql,1,8\nchat,2,16\n")
    server = pt.EngineConfig(profile=certain, max_loras=2)
    traffic = pt.Workload.poisson(adapters=pt.adapters_from_csv(file), duration_s=30)
    found = pt.predict(server, traffic, seeds=2)
    assert found.adapters["name"].to_list() == ["sql", "chat"]
    assert found.adapters["rank"].to_list() == [8, 16]


def test_the_base_model_has_a_row_if_it_got_requests(certain):
    server = pt.EngineConfig(profile=certain, max_loras=2)
    fleet = pt.adapters(2, rates_rps=0.5, ranks=16)
    for rate, expected in ((1.0, [0, 1, 2]), (None, [1, 2])):
        traffic = pt.Workload.poisson(adapters=fleet, rate_rps=rate, duration_s=30)
        assert pt.predict(server, traffic, seeds=2).adapters["adapter"].to_list() == expected
