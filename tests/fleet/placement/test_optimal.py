"""Small fleets against enumeration; no bound above any plan that holds."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from pytwin.fleet.placement import METHODS, plan
from pytwin.fleet.placement.problem import Problem
from pytwin.fleet.placement.solve import Solver
from pytwin.workload.lengths import as_length_law
from tests.conftest import ROOT


def _experiment():
    path = ROOT / "experiments" / "placement" / "run.py"
    spec = importlib.util.spec_from_file_location("placement_experiment", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


EXPERIMENT = _experiment()


@pytest.mark.parametrize("seed", [0, 3, 4, 8, 9, 13, 16, 18, 21, 22, 26, 30])
def test_as_few_replicas_as_enumeration_and_no_bound_above(seed):
    case = EXPERIMENT.small_case(seed) | {"duration_s": 120.0}
    case["adapters"] = case["adapters"].subset(
        range(min(3 if seed % 3 else 4, case["adapters"].count))
    )
    optimum = EXPERIMENT.enumerated(case)
    found = plan(**case)
    assert (len(found.replicas) or None) == optimum
    bound = Solver(Problem(**{**case, "lengths": as_length_law(case["lengths"])})).bound
    if optimum is not None:
        assert bound.whole <= optimum
        assert found.status == "optimal"
        assert all(replica.verified for replica in found.replicas)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "auto"])
def test_auto_is_never_worse_than(method, hot, hot_plan):
    other = plan("llama-3.1-8b-instruct@h100-64gb", hot, duration_s=120, method=method)
    if other.replicas:
        assert len(other.replicas) >= hot_plan["replicas_used"]
        assert all(replica.verified for replica in other.replicas)
