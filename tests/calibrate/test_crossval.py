"""Cross-validation of a shipped law: its components are read back from the profile's terms."""

import numpy as np
import pytest

from calibration import closing, crossval, replay
from pytwin.calibrate import step_time

LOAD_TIME = {"unit": "us", "disk": [], "memory": [{"coefficient": 7000.0, "factors": []}]}


def profile(law: dict[str, float], loads: bool) -> tuple[dict, list, np.ndarray]:
    components = [entry for entry in step_time.candidates(loads) if entry.name in law]
    coefficients = np.array([law[entry.name] for entry in components])
    document = {"load_time": LOAD_TIME, "step_time": {"unit": "us", "terms": []}}
    return closing.with_law(document, components, coefficients), components, coefficients


LAW = {
    "base": 12.0, "tokens": 0.01, "context": 8e-5, "slots": 0.024, "small slots blocks": 0.011,
    "adapters": 0.25, "small adapters tokens": 1.6e-3, "waiting": 3e-4,
}  # fmt: skip


@pytest.mark.parametrize("loads", [False, True])
def test_a_law_is_read_back_from_its_profile(loads):
    given = {**LAW, "loads": 2.8} if loads else LAW
    document, _, _ = profile(given, loads)
    offered = step_time.candidates(loads)
    index, coefficients = crossval.shipped_law(document, offered)
    found = {offered[k].name: value for k, value in zip(index, coefficients, strict=True)}
    assert found == pytest.approx(given, rel=1e-4)


def test_loads_scale_the_load_times_once():
    document, components, coefficients = profile({**LAW, "loads": 2.0}, True)
    assert replay.load_factor(document) == 2.0
    assert document["load_time"]["memory"][0]["coefficient"] == pytest.approx(14_000)
    again = closing.with_law(document, components, coefficients * 1.5)
    assert again["load_time"]["memory"][0]["coefficient"] == pytest.approx(21_000)
    assert replay.load_factor({"load_time": LOAD_TIME}) == 1.0
    names = [term["factors"] for term in again["step_time"]["terms"]]
    assert ["loads"] not in names


def test_groups_leave_out_runs_in_another_state():
    def row(running: float, tpot: float) -> dict:
        return {
            "workload": "w", "slots": 8, "rank": 16, "served": 32, "queued": False,
            "running": 100.0, "twin_running": running, "tpot": tpot,
        }  # fmt: skip

    table = crossval.grouped([row(100, 1.0), row(103, -3.0), row(150, 40.0)])
    slots = next(line for line in table if line["by"] == "slots")
    assert slots == {
        "by": "slots", "value": "8", "runs": 2, "tpot_bias": -1.0, "tpot_mape": 2.0,
    }  # fmt: skip
