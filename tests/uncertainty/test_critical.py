"""The rule of near-critical configurations, on made-up and on known cases."""

from __future__ import annotations

import pytest

import pytwin as pt
from pytwin.uncertainty.critical import sensitivity_of
from tests.conftest import QWEN


def row(**changes: float) -> dict:
    base = {"total_throughput": 1000.0, "mean_tpot_ms": 20.0, "mean_ttft_ms": 50.0, "starved": 0}
    return {**base, **changes}


def judge(longer: dict, shorter: dict | None = None, seeds: list[dict] | None = None) -> tuple:
    found = sensitivity_of([row()], [longer], [shorter or row()], seeds or [row()])
    return found.reasons


def test_a_proportional_answer_is_not_critical():
    longer = row(total_throughput=970, mean_tpot_ms=20.6, mean_ttft_ms=51.5)
    assert judge(longer) == ()
    found = sensitivity_of([row()], [longer], [row()], [row()])
    assert found.percent == pytest.approx(
        {"total_throughput": -3.0, "mean_tpot_ms": 3.0, "mean_ttft_ms": 3.0}
    )


def test_three_times_the_tpot_five_times_the_ttft_or_another_verdict_is():
    assert judge(row(mean_tpot_ms=21.7)) == ()
    assert judge(row(mean_tpot_ms=22.0)) == ("steps 3 % longer change mean_tpot_ms by +10 %",)
    assert judge(row(mean_ttft_ms=57.0)) == ()
    assert judge(row(), row(mean_ttft_ms=40.0)) == (
        "steps 3 % shorter change mean_ttft_ms by -20 %",
    )
    assert judge(row(starved=1)) == ("steps 3 % longer starve it",)
    assert judge(row(total_throughput=100.0)) == ()  # TPOT and the verdict tell of that


def test_seeds_in_two_states_are():
    assert judge(row(), seeds=[row(), row(mean_tpot_ms=21.9)]) == ()
    (reason,) = judge(row(), seeds=[row(), row(mean_tpot_ms=22.1)])
    assert reason.startswith("two states: from seed to seed mean_tpot_ms is 20 to 22.1")


def test_metrics_that_do_not_exist_say_nothing():
    nothing = row(mean_tpot_ms=float("nan"), mean_ttft_ms=0.0)
    assert sensitivity_of([nothing], [nothing], [nothing], [nothing]).reasons == ()


@pytest.mark.parametrize(("rate_rps", "critical"), [(0.02, False), (0.06, True), (0.4, False)])
def test_the_edge_between_calm_and_overload_is_found(rate_rps, critical):
    """64 adapters on 16 slots: far from queueing for a slot, where it begins, far beyond it."""
    server = pt.EngineConfig(profile=QWEN, max_loras=16, max_cpu_loras=64, max_num_seqs=48)
    fleet = pt.adapters(64, rates_rps=rate_rps, ranks=16)
    found = pt.predict(
        server, pt.Workload.poisson(adapters=fleet, duration_s=600), seeds=2, draws=0
    )
    assert bool(found.near_critical) == critical
