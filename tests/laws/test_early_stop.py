"""A run that is ended early: its verdict is that of the full run, and the error has a size."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pytwin as pt
from pytwin import _core
from pytwin.simulation import Twin
from tests.conftest import TOY

DURATION_S = 600


def traffic(served: int, rate_rps: float, **options: object) -> pt.Workload:
    return pt.Workload.poisson(
        **{
            "adapters": pt.adapters(served, rate_rps / served, [8, 16]),
            "lengths": pt.LogNormal(100, 0.6, 80, 0.6, max_total_tokens=1000),
            "duration_s": DURATION_S,
            **options,
        }
    )


@settings(max_examples=40)
@given(
    served=st.integers(1, 60),
    slots=st.integers(1, 12),
    rate_rps=st.floats(1, 60),
    seqs=st.integers(4, 64),
    cap=st.none() | st.integers(50, 2000),
    seed=st.integers(0, 2**32),
)
def test_whoever_is_stopped_as_starving_starves(served, slots, rate_rps, seqs, cap, seed):
    server = pt.EngineConfig(
        profile=TOY, max_loras=slots, max_cpu_loras=60, max_num_seqs=seqs, max_connections=cap
    )
    load = traffic(served, rate_rps)
    lean = {"requests": False, "timeseries_s": None, "seed": seed}
    full = pt.simulate(server, load, **lean)
    stopped = pt.simulate(server, load, stop_starving=True, **lean)
    if stopped.stop_reason is None:
        assert stopped.stopped_at_s is None
        assert repr(stopped.metrics) == repr(full.metrics)
        # Far from the line it is noticed.
        assert full.metrics["served_ratio"] > 0.75 or full.metrics["completed"] < 100
    else:
        assert stopped.stop_reason == "starving"
        assert full.metrics["starved"] == stopped.metrics["starved"] == 1
        assert 0.1 * DURATION_S <= stopped.stopped_at_s == stopped.metrics["duration"]
        assert stopped.metrics["duration"] < full.metrics["duration"]


def test_fast_and_exact_mode_stop_at_the_same_instant():
    twin = Twin()
    for options in ({"stop_starving": True}, {"stop_tolerance": 0.1}):
        slots, rate = (3, 60.0) if "stop_starving" in options else (12, 20.0)
        server = pt.EngineConfig(profile=TOY, max_loras=slots, max_cpu_loras=12, max_num_seqs=32)
        spec = twin.spec(server, traffic(12, rate), seed=1, adapters=True, **options)
        fast = _core.simulate(twin.library, json.dumps(spec))
        exact = _core.simulate(twin.library, json.dumps(spec | {"exact": True}))
        assert fast["stop_reason"] is not None
        for name in ("stop_reason", "stopped_at_s"):
            assert fast[name] == exact[name]
        assert repr(fast["metrics"]) == repr(exact["metrics"])


def test_what_has_settled_is_within_its_tolerance():
    """Over seeds: throughput, TPOT and TTFT of stopped runs against those of full ones."""
    server = pt.EngineConfig(profile=TOY, max_loras=12, max_num_seqs=64)
    load = traffic(12, 20.0, duration_s=3600)
    errors: dict[str, list[float]] = {}
    for seed in range(5):
        lean = {"requests": False, "timeseries_s": None, "seed": seed}
        full = pt.simulate(server, load, **lean)
        stopped = pt.simulate(server, load, stop_tolerance=0.05, **lean)
        assert stopped.stop_reason == "stationary"
        assert stopped.metrics["starved"] == full.metrics["starved"] == 0
        for name in ("total_throughput", "mean_tpot_ms", "mean_ttft_ms"):
            error = stopped.metrics[name] / full.metrics[name] - 1
            errors.setdefault(name, []).append(error)
    for name, found in errors.items():
        assert max(abs(error) for error in found) < 0.08, (name, found)
        assert sum(abs(error) for error in found) / len(found) < 0.05, (name, found)


@pytest.mark.parametrize(
    ("options", "load", "expected"),
    [
        ({"stop_tolerance": 0.0}, {}, "stop_tolerance (0.0) must be > 0 and < 1"),
        ({"stop_tolerance": 1.0}, {}, "stop_tolerance (1.0) must be > 0 and < 1"),
        ({"stop_starving": True}, {"drain": True}, "drain (True) must be False"),
    ],
)
def test_what_cannot_be_stopped_says_so(toy, options, load, expected):
    with pytest.raises(pt.PytwinError) as error:
        pt.simulate(toy(), traffic(4, 1.0, **load), **options)
    assert expected in str(error.value)


def test_a_replay_runs_to_its_end(toy):
    import polars as pl

    trace = {"arrival_s": [0.0], "adapter": [None], "prompt_tokens": [10], "output_tokens": [5]}
    with pytest.raises(pt.PytwinError, match="a replayed trace runs to its end"):
        pt.simulate(toy(), pt.Workload.replay(pl.DataFrame(trace)), stop_starving=True)


def test_stopped_rows_are_told_apart_among_many(toy):
    twin = Twin()
    loads = [traffic(12, 60.0), traffic(12, 1.0)]
    specs = [twin.spec_json(toy(max_num_seqs=16), load, stop_starving=True) for load in loads]
    rows = _core.simulate_many(twin.library, specs, 2)
    assert rows["stop_reason"] == ["starving", None]
    assert rows["stopped_at_s"][0] == rows["duration"][0] < DURATION_S
    assert rows["stopped_at_s"][1] is None
