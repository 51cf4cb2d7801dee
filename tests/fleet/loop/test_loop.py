"""Forecast, plan, change, simulate: what a controller may know, and what it comes to."""

import numpy as np
import pytest

import pytwin as pt
from pytwin.errors import ConfigError, DataError
from pytwin.fleet.forecast import History
from pytwin.fleet.loop import Controller, Operation, Schedule, operate, replay
from pytwin.fleet.placement.standing import Estimate, StandingProblem, fewest, first_fit

LLAMA = "llama-3.1-8b-instruct@h100-64gb"
SERVER = pt.EngineConfig(profile=LLAMA, max_loras=8, max_cpu_loras=16, max_lora_rank=16)
OPERATION = Operation(server=SERVER, startup_s=60.0, lengths=(250, 200))
NAMES = tuple(f"adapter-{k}" for k in range(1, 9))
BIN_S = 600.0


def history(counts: np.ndarray) -> History:
    return History(counts, BIN_S, NAMES, dict.fromkeys(NAMES, 16), season_bins=0)


def drifting(bins: int = 12) -> np.ndarray:
    """Counts of 8 adapters that need one replica at first, then two or three."""
    rates = np.linspace(1.0, 9.0, bins) * np.linspace(1.5, 0.5, 8)[:, None]
    return np.random.default_rng(3).poisson(rates * BIN_S).astype(float)


def problem(rates: list[float]) -> StandingProblem:
    return StandingProblem(
        server=SERVER, adapters=pt.adapters(len(rates), rates, 16), duration_s=BIN_S
    )


def test_more_traffic_gets_more_replicas():
    made = operate(OPERATION, Controller(forecast="persistence"), history(drifting()), 2)
    assert made.started >= 1
    assert set().union(*made.placement) == set(NAMES)


@pytest.mark.parametrize("forecast", ["persistence", "ewma"])
@pytest.mark.parametrize("placement", ["search", "first-fit"])
def test_decisions_know_only_the_past(forecast, placement):
    controller = Controller(forecast=forecast, placement=placement)
    counts = drifting()
    other = counts.copy()
    other[:, 8:] = other[::-1, 8:] * 3.0
    firsts = []
    for values in (counts, other):
        made = operate(OPERATION, controller, history(values[:, :9]), 2)
        firsts.append((made.replicas(NAMES), made.events(NAMES)))
    assert firsts[0] == firsts[1]  # the last decision is at bin 8, whose counts differ


def test_what_holds_is_left_alone():
    steady = np.full((8, 8), 1.2 * BIN_S)
    made = operate(OPERATION, Controller(forecast="persistence"), history(steady), 2)
    assert (made.moves, made.started) == (0, 0)


def test_search_uses_no_more_replicas_than_first_fit_and_moves_less():
    rates = drifting(24)
    outcomes = {
        rule: operate(
            OPERATION, Controller(forecast="persistence", placement=rule), history(rates), 2
        )
        for rule in ("search", "first-fit")
    }
    assert len(outcomes["search"].placement) <= len(outcomes["first-fit"].placement)
    assert outcomes["search"].moves < outcomes["first-fit"].moves


def test_packed_replicas_are_as_full_as_was_asked_and_no_fuller():
    judge = Estimate(problem([4.0, 4.0, 3.0, 3.0, 2.0, 2.0, 1.0, 1.0]), 0.5)
    for parts in (fewest(judge), first_fit(judge)):
        assert frozenset().union(*parts) == frozenset(range(8))
        assert sum(map(len, parts)) == 8
        assert all(judge.ranker.strain(part) <= 0.5 for part in parts)


def test_what_holds_nowhere_is_alone():
    judge = Estimate(problem([90.0, 80.0]), 0.5)
    assert fewest(judge) == (frozenset({0}), frozenset({1}))
    assert sorted(first_fit(judge), key=sorted) == [frozenset({0}), frozenset({1})]


def test_a_hot_adapter_is_on_several_replicas():
    counts = np.full((8, 4), 0.1 * BIN_S)
    counts[0] = 60.0 * BIN_S
    made = operate(OPERATION, Controller(forecast="persistence"), history(counts), 2)
    assert sum(NAMES[0] in names for names in made.placement) >= 2


def test_copies_are_kept_however_little_there_is_to_do():
    counts = np.full((8, 8), 0.2 * BIN_S)
    controller = Controller(forecast="persistence", copies=2)
    made = operate(OPERATION, controller, history(counts), 2)
    for name in NAMES:
        assert sum(name in names for names in made.placement) == 2
    assert all(replica.stop_s is None for replica in made.replicas(NAMES))


def test_a_cautious_plan_takes_no_fewer_replicas():
    counts = drifting(24)
    sizes = [
        len(
            operate(
                OPERATION, Controller(forecast="ewma", plan_on=on), history(counts), 8
            ).placement
        )
        for on in ("mean", "pooled", "upper")
    ]
    assert sizes[0] <= sizes[1] <= sizes[2]


def test_an_oracle_starts_replicas_before_the_traffic_comes():
    """A step from one replica's load to three's, at bin 6: known at bin 5 to who looks ahead."""
    counts = np.full((8, 10), 0.5 * BIN_S)
    counts[:, 6:] *= 12.0
    started = {}
    for ahead in (1, 2):
        controller = Controller(forecast="oracle", ahead_bins=ahead)
        made = operate(OPERATION, controller, history(counts), 2, truth_rps=counts / BIN_S)
        started[ahead] = min(r.start_s for r in made.replicas(NAMES) if r.start_s > 0.0)
    assert started == {1: 4 * BIN_S, 2: 3 * BIN_S}


def test_one_standing_replica_comes_to_what_the_single_simulation_says():
    traffic = pt.fleet_traffic(8, rate_rps=1.0, duration_s=600.0, lengths=(250, 200), seed=4)
    made = Schedule(SERVER, 60.0)
    made.place(0.0, [frozenset(traffic.names)])
    outcome = replay(OPERATION, [made], traffic.log, 600.0)[0]
    replayed = pt.Workload.replay(traffic.frame, duration_s=600.0)
    single = pt.simulate(SERVER, replayed)
    assert outcome.missed == pytest.approx(1.0 - single.metrics["slo_attainment"], abs=0.0)
    assert outcome.requests == single.metrics["arrived"]
    assert outcome.mean_ttft_ms == single.metrics["mean_ttft_ms"]
    assert outcome.unrouted == 0


def test_churn_and_stops_are_simulated():
    """A replica that runs half of the time costs half; what moves is loaded there."""
    traffic = pt.fleet_traffic(8, rate_rps=1.0, duration_s=600.0, lengths=(250, 200), seed=4)
    made = Schedule(SERVER, 0.0)
    halves = [frozenset(traffic.names[:4]), frozenset(traffic.names[4:])]
    made.place(0.0, halves)
    made.place(300.0, [frozenset(traffic.names)])
    stay = Schedule(SERVER, 0.0)
    stay.place(0.0, halves)
    changed, stayed = replay(OPERATION, [made, stay], traffic.log, 600.0)
    assert stayed.gpu_hours == pytest.approx(2 / 6, rel=0.02)
    assert changed.gpu_hours == pytest.approx(1.5 / 6, rel=0.05)
    assert changed.unrouted == 0
    assert changed.moves == 4
    assert changed.loads >= stayed.loads + 4


def test_the_result_does_not_depend_on_workers():
    traffic = pt.fleet_traffic(8, rate_rps=1.0, duration_s=300.0, lengths=(250, 200), seed=5)
    made = Schedule(SERVER, 0.0)
    made.place(0.0, [frozenset(traffic.names)])
    one = replay(OPERATION, [made, made], traffic.log, 300.0)
    assert replay(OPERATION, [made, made], traffic.log, 300.0, workers=2) == one


@pytest.mark.parametrize(
    ("bad", "error", "says"),
    [
        (lambda: Controller(forecast="guess"), ConfigError, r"method \(guess\)"),
        (lambda: Controller(placement="best"), ConfigError, r"placement \(best\)"),
        (lambda: Controller(target_strain=0.0), pt.PytwinError, r"target_strain \(0.0\)"),
        (
            lambda: Operation(server=pt.EngineConfig(profile=LLAMA, max_loras=4)),
            ConfigError,
            "must be set",
        ),
        (
            lambda: operate(OPERATION, Controller(), history(drifting()), 12),
            ConfigError,
            r"first_bin \(12\)",
        ),
        (
            lambda: operate(OPERATION, Controller(), History(drifting(), BIN_S, NAMES), 2),
            ConfigError,
            "ranks of 8 adapters",
        ),
        (
            lambda: operate(
                OPERATION,
                Controller(),
                History(drifting(), BIN_S, NAMES, dict.fromkeys(NAMES, 16)),
                2,
            ),
            DataError,
            "too short for method daily-shape",
        ),
        (
            lambda: operate(
                OPERATION,
                Controller(forecast="ewma"),
                History(drifting(), BIN_S, NAMES, dict.fromkeys(NAMES, 64)),
                2,
            ),
            ConfigError,
            r"max_lora_rank \(16\)",
        ),
        (
            lambda: operate(
                Operation(
                    server=SERVER.replace(max_loras=5000, max_cpu_loras=5000, max_lora_rank=256)
                ),
                Controller(forecast="ewma"),
                history(drifting()),
                2,
            ),
            ConfigError,
            "no memory",
        ),
    ],
)
def test_bad_input_is_told_in_one_line(bad, error, says):
    with pytest.raises(error, match=says) as caught:
        bad()
    assert "\n" not in str(caught.value)
