"""The parts of the lower bound, each against what it bounds."""

from __future__ import annotations

import numpy as np
import pytest

import pytwin as pt
from pytwin.calibrate.terms import evaluate
from pytwin.fleet.placement.active import busy_period, covered, least_kept
from pytwin.fleet.placement.bound import lower_bound, proven
from pytwin.fleet.placement.prices import Pricer, knapsacks
from pytwin.fleet.placement.problem import Problem
from pytwin.fleet.placement.relaxation import Grid, Relaxation
from pytwin.fleet.placement.step_law import Mix, StepLaw
from pytwin.fleet.placement.verify import Verifier
from pytwin.fleet.placement.work import realised
from tests.conftest import LLAMA, QWEN


@pytest.mark.parametrize("profile", [LLAMA, QWEN])
@pytest.mark.parametrize("rank", [8, 32])
def test_no_step_is_shorter_than_its_bound(profile, rank):
    server = pt.EngineConfig(profile=profile)
    data = server.loaded_profile.data
    law = StepLaw(data, server.resolved(), Mix(1.2, 1 / 200))
    draw = np.random.default_rng(rank)
    for low, high in ((0.0, 1.0), (5.0, 6.0), (40.0, 48.0), (130.0, 156.0)):
        bounds = law.bounds(rank, low, high)
        size = 4000
        decodes = np.floor(np.exp(draw.uniform(0, np.log(1500), size)))
        prompt = np.where(
            draw.random(size) < 0.5, 0.0, np.floor(draw.random(size) * (2048 - decodes))
        )
        starts = np.where(prompt > 0, np.ceil(prompt / 300), 0.0)
        active = draw.uniform(low, high, size)
        slots = np.maximum(1.0, active) * draw.choice([1.0, 1.5, 3.0], size)
        context = decodes * 400.0
        features = {
            "prefill_tokens": prompt, "prefill_seqs": starts, "decode_seqs": decodes,
            "seqs": decodes + starts, "tokens": decodes + prompt, "context_tokens": context,
            "adapters": active, "lora_seqs": decodes + starts, "running": decodes + starts,
            "waiting": np.zeros(size), "lora": np.ones(size), "max_loras": slots,
            "max_lora_rank": np.full(size, float(rank)), "max_cpu_loras": slots,
            "served_adapters": slots,
        }  # fmt: skip
        step_s = evaluate(data["step_time"]["terms"], features) / 1e6
        for bound in bounds:
            least = (
                bound.base
                + bound.decode * decodes
                + bound.prompt * prompt
                + bound.request * starts
                + bound.adapter * (active - low)
                + bound.context * context
            )
            assert (least <= step_s * (1 + 1e-9)).all()


def test_covered_time_is_a_union_of_intervals():
    starts, outputs = np.array([0.0, 1.0, 8.0]), np.array([20.0, 5.0, 100.0])
    # 0 to 2 s holds 1 to 1.5 s; the last is cut at the horizon.
    assert covered(starts, outputs, np.array([[0.1]]), 10.0) == pytest.approx([0.4])


def test_a_busy_period_that_one_request_begins_is_the_textbook_one():
    load = np.array([1e-3, 0.3, 2.0, 6.0])
    assert busy_period(load, np.ones(4)) == pytest.approx(np.expm1(load) / load, rel=2e-3)


def test_waiting_shortens_activity_a_little_for_rare_and_not_for_busy_adapters():
    rate = np.array([0.01, 0.1, 2.0])
    kept = least_kept(rate, rate * 15.0, 3.0)
    assert (kept > 0.5).all()
    assert (kept <= 1.0).all()
    assert kept[0] == pytest.approx(1 - 0.01 * 3, abs=0.02)
    assert kept[2] > 0.99


def test_realised_work_is_what_the_twin_serves():
    fleet = pt.adapters(4, rates_rps=[1.0, 0.5], ranks=8)
    problem = Problem(pt.EngineConfig(profile=LLAMA), fleet, duration_s=200.0)
    work = realised(problem, 1)
    server = pt.EngineConfig(profile=LLAMA, max_loras=4)
    traffic = pt.Workload.poisson(adapters=fleet, duration_s=200.0, drain=True)
    served = pt.simulate(server, traffic, seed=1).metrics
    assert work.requests.sum() == served["completed"]
    assert work.prompt.sum() == served["total_input_tokens"]
    assert work.output.sum() == served["total_output_tokens"]


def test_a_verified_replica_is_inside_the_relaxation():
    """Prices that the bound proves give no verified set more than 1."""
    fleet = pt.adapters_zipf(24, total_rate_rps=70.0, exponent=0.6, ranks=[8, 16])
    problem = Problem(pt.EngineConfig(profile=LLAMA), fleet, duration_s=300.0, seeds=(0,))
    verifier = Verifier(problem)
    relaxation = Relaxation(Grid(problem, verifier.work[0]), verifier.work[0])
    bound = lower_bound(relaxation, 0)
    draw = np.random.default_rng(4)
    sets = [
        frozenset(draw.choice(24, int(draw.integers(3, 14)), replace=False).tolist())
        for _ in range(40)
    ]
    held = [items for items, v in zip(sets, verifier.best(sets), strict=True) if v.ok]
    assert len(held) > 10
    assert max(sum(bound.prices[item] for item in items) for items in held) <= 1.0
    assert proven(relaxation, np.array(bound.prices)) == pytest.approx(bound.replicas, rel=1e-3)


def test_a_price_bound_holds_under_other_prices():
    fleet = pt.adapters(5, rates_rps=[8.0, 4.0, 2.0], ranks=[8, 32])
    problem = Problem(pt.EngineConfig(profile=QWEN), fleet, duration_s=120.0, seeds=(0,))
    work = realised(problem, 0)
    relaxation = Relaxation(Grid(problem, work), work)
    used, fresh = Pricer(relaxation), np.array([0.5, 0.1, 0.2, 0.4, 0.3])
    used.most(np.ones(5))
    assert used.most(fresh)[0] == pytest.approx(Pricer(relaxation).most(fresh)[0], rel=1e-6)


def test_knapsacks_are_the_linear_programs():
    values, multipliers = knapsacks(np.array([3.0, 2.0, 1.0]), np.array([[0.5, 1.0, 1.0]]))
    assert values == pytest.approx([4.0])
    assert multipliers == pytest.approx([2.0])
