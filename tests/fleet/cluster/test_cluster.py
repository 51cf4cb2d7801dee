"""Fleets: one replica is a server, nothing is lost between several, bad input is one line."""

from __future__ import annotations

import dataclasses

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import pytwin as pt
from pytwin.fleet.cluster.simulate import FleetTwin

TRAFFIC = pt.Workload.poisson(
    adapters=pt.adapters(8, [1.0, 0.4], [8, 16]), lengths=(50, 20), duration_s=40
)
ROUTERS = [
    pt.Router.random(),
    pt.Router.round_robin(),
    pt.Router.least_outstanding(),
    pt.Router.power_of_two(),
    pt.Router.kv_aware(),
    pt.Router.adapter_affinity("activity"),
    pt.Router.adapter_affinity("residency", spill=4),
    pt.Router.rendezvous(copies=2),
]


def place(replicas):
    """Each adapter on one replica."""
    return pt.Router.fixed({adapter: {adapter % replicas: 1.0} for adapter in range(1, 9)})


def named(router):
    return "-".join([router.kind, *map(str, router.options.values())])[:40]


@pytest.mark.parametrize("router", [*ROUTERS[:-1], pt.Router.rendezvous(), place(1)], ids=named)
def test_one_replica_is_a_server(toy, router):
    server = toy(max_loras=3, max_cpu_loras=5)
    alone = pt.simulate(server, TRAFFIC, seed=2)
    fleet = pt.simulate_fleet([pt.Replica(server)], TRAFFIC, router=router, seed=2)
    # Exact, not approximate: it is the same engine with the same requests.
    common = alone.metrics.keys() & fleet.metrics.keys()
    assert len(common) > 40
    assert {name: fleet.metrics[name] for name in common} == pytest.approx(
        {name: alone.metrics[name] for name in common}, rel=0, abs=0, nan_ok=True
    )
    assert_frame_equal(
        fleet.requests.drop("replica"), alone.requests, check_exact=True, check_dtypes=False
    )


@pytest.mark.parametrize("router", [*ROUTERS, place(3)], ids=named)
def test_every_request_is_somewhere_once(toy, router):
    run = pt.simulate_fleet(
        [pt.Replica(toy(max_loras=2))] * 3, TRAFFIC, router=router, signal_delay_ms=500
    )
    frame, metrics = run.requests, run.metrics
    assert frame["request_id"].to_list() == list(range(metrics["arrived"]))
    assert frame["arrival_s"].is_sorted()
    assert set(frame["replica"]) <= {0, 1, 2}
    assert frame["replica"].n_unique() > 1
    for row in [metrics, *run.replicas.to_dicts()]:
        unfinished = row["unfinished_running"] + row["unfinished_waiting"]
        assert row["arrived"] == row["completed"] + row["refused"] + unfinished
    assert run.replicas["arrived"].sum() == metrics["arrived"]
    assert run.replicas["completed"].sum() == metrics["completed"]


def test_events_move_an_adapter(toy):
    replicas = [pt.Replica(toy()), pt.Replica(toy(), adapters=range(2, 9))]
    events = [pt.AdapterEvent(20.0, 0, 1, "unload"), pt.AdapterEvent(20.0, 1, 1, "load")]
    frame = pt.simulate_fleet(replicas, TRAFFIC, events=events).requests.filter(adapter=1)
    assert set(frame.filter(pl.col("arrival_s") < 20)["replica"]) == {0}
    assert set(frame.filter(pl.col("arrival_s") > 20)["replica"]) == {1}


def test_a_request_that_nobody_takes_is_refused(toy):
    event = pt.AdapterEvent(20.0, 0, 1, "unload")
    run = pt.simulate_fleet([pt.Replica(toy())], TRAFFIC, events=[event])
    lost = run.requests.filter(pl.col("replica").is_null())
    assert lost.height == run.metrics["unrouted"] > 0
    assert set(lost["adapter"]) == {1}
    assert set(lost["status"]) == {"refused"}
    assert lost["arrival_s"].min() >= 20.0


def test_start_and_stop_are_honoured(toy):
    replicas = [
        pt.Replica(toy(), stop_s=25.0),
        pt.Replica(toy(), start_s=5.0, startup_s=5.0),
    ]
    run = pt.simulate_fleet(replicas, TRAFFIC, router="round_robin")
    first, second = (run.requests.filter(replica=number)["arrival_s"] for number in (0, 1))
    assert first.max() <= 25.0 < second.max()
    assert second.min() >= 10.0
    assert run.replicas["gpu_s"][0] < run.replicas["gpu_s"][1] <= 35.0 + 1e-9


def test_adapters_go_by_name(toy, tmp_path):
    path = tmp_path / "fleet.csv"
    path.write_text("adapter,rate_rps,rank\nsql,1,8\nmail,1,8\n")
    traffic = pt.Workload.poisson(
        adapters=pt.adapters_from_csv(path), lengths=(50, 20), duration_s=20
    )
    replicas = [pt.Replica(toy(), adapters=("sql",)), pt.Replica(toy(), adapters=("mail",))]
    router = pt.Router.fixed({"sql": {0: 1.0}, "mail": {1: 1.0}})
    event = pt.AdapterEvent(10.0, 1, "sql", "load")
    run = pt.simulate_fleet(replicas, traffic, router=router, events=[event])
    assert (run.requests["adapter"] == run.requests["replica"] + 1).all()
    with pytest.raises(pt.ConfigError, match="known are sql, mail") as error:
        pt.simulate_fleet([pt.Replica(toy(), adapters=("code",))], traffic)
    assert "\n" not in str(error.value)


def test_results_depend_on_the_seed_alone(toy):
    twin = FleetTwin()
    cases = [
        twin.case([pt.Replica(toy(max_loras=2))] * 3, TRAFFIC, router="random", seed=seed)
        for seed in (1, 1, 2, 3)
    ]
    one, two = twin.run(cases, workers=1), twin.run(cases, workers=2)
    assert [run.to_json() for run in one] == [run.to_json() for run in two]
    for left, right in zip(one, two, strict=True):
        assert_frame_equal(left.requests, right.requests, check_exact=True)
    assert_frame_equal(one[0].requests, one[1].requests, check_exact=True)
    assert one[0].to_json() != one[2].to_json()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"router": "nearest"}, r"router \(nearest\)"),
        ({"replicas": []}, "at least one"),
        ({"router": "fixed"}, "needs shares"),
        ({"router": lambda: pt.Router.fixed({})}, "at least one adapter"),
        ({"router": lambda: pt.Router.fixed({1: {}})}, "shares of adapter 1"),
        ({"router": lambda: pt.Router.fixed({9: {0: 1.0}})}, r"adapter \(9\)"),
        ({"router": lambda: pt.Router.fixed({1: {7: 1.0}})}, "7"),
        ({"events": lambda: [pt.AdapterEvent(1.0, 2, 1, "load")]}, r"replica \(2\)"),
        ({"events": lambda: [pt.AdapterEvent(1.0, 0, 9, "load")]}, r"adapter \(9\)"),
        ({"events": lambda: [pt.AdapterEvent(1.0, 0, 1, "drop")]}, r"action \(drop\)"),
        ({"signal_delay_ms": -1.0}, "signal_delay_ms"),
    ],
)
def test_bad_input_is_told_in_one_line(toy, change, told):
    arguments = {"replicas": [pt.Replica(toy())] * 2, "traffic": TRAFFIC}

    def simulate():
        # Routers and events are made here: some are refused when they are made.
        made = {name: value() if callable(value) else value for name, value in change.items()}
        pt.simulate_fleet(**{**arguments, **made})

    with pytest.raises(pt.PytwinError, match=told) as error:
        simulate()
    assert "\n" not in str(error.value)


def test_a_replica_cannot_stop_before_it_serves(toy):
    with pytest.raises(pt.ConfigError, match="before it serves") as error:
        dataclasses.replace(pt.Replica(toy()), start_s=5.0, startup_s=3.0, stop_s=7.0)
    assert "\n" not in str(error.value)
