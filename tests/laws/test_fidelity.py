"""Fast and exact mode are one simulator: the same decisions, times and figures, to the bit."""

from __future__ import annotations

import json

from hypothesis import given, settings

import pytwin as pt
from pytwin import _core
from pytwin.simulation import Twin
from tests.conftest import LLAMA
from tests.laws.test_conservation import SERVERS, TRAFFIC, make


def both(spec: dict, twin: Twin) -> tuple[dict, dict]:
    fast = _core.simulate(twin.library, json.dumps(spec))
    exact = _core.simulate(twin.library, json.dumps(spec | {"exact": True}))
    return fast, exact


def same(fast: dict, exact: dict) -> None:
    assert repr(fast["metrics"]) == repr(exact["metrics"])
    for frame in ("requests", "adapters"):
        for name, column in fast[frame].items():
            assert column.tobytes() == exact[frame][name].tobytes(), f"{frame}.{name}"


@settings(max_examples=60)
@given(SERVERS, TRAFFIC)
def test_random_servers(server, traffic):
    twin = Twin()
    config, workload = make(server, traffic)
    spec = twin.spec(config, workload, seed=traffic["seed"], requests=True, adapters=True)
    same(*both(spec, twin))


def test_a_measured_profile_near_its_limit():
    twin = Twin()
    server = pt.EngineConfig(profile=LLAMA, max_loras=16, max_cpu_loras=64, max_connections=300)
    traffic = pt.Workload.poisson(adapters=pt.adapters(64, [0.4, 0.1], [8, 16]), duration_s=300)
    spec = twin.spec(server, traffic, seed=1, requests=True, adapters=True)
    same(*both(spec, twin))
