"""Scale factors: what they move, and what a profile may state of them."""

from __future__ import annotations

import json

import pytest

import pytwin as pt
from pytwin.catalog import Profile, load_profile, shipped_profiles
from pytwin.uncertainty import FACTORS, perturbed, uncertainty_of
from tests.conftest import QWEN, TOY


def steps_of(profile: Profile) -> list[float]:
    return [term["coefficient"] for term in profile.data["step_time"]["terms"]]


@pytest.mark.parametrize("name", shipped_profiles())
def test_the_parts_of_a_step_do_not_overlap(name):
    """Moved one by one or all at once, batch, slots and adapters give the same profile."""
    profile = load_profile(name)
    parts = ("batch", "slots", "adapters")
    together = perturbed(profile, dict.fromkeys(parts, 2.0))
    one_by_one = profile
    for part in parts:
        one_by_one = perturbed(one_by_one, {part: 2.0})
        assert steps_of(one_by_one) != steps_of(profile), part
    assert steps_of(together) == steps_of(one_by_one)
    ratios = {b / a for a, b in zip(steps_of(profile), steps_of(together), strict=True)}
    assert ratios == {1.0, 2.0}  # the constant stays


@pytest.mark.parametrize("factor", FACTORS)
def test_each_factor_changes_a_shipped_profile_and_nothing_else_does(factor):
    profile = load_profile(QWEN)
    moved = perturbed(profile, {factor: 1.1})
    assert moved.key != profile.key
    assert json.loads(moved.text) == moved.data
    changed = {key for key in profile.data if profile.data[key] != moved.data.get(key)}
    section = {"kv_memory": "memory", "load_time": "load_time"}.get(factor, "step_time")
    section = "frontend" if factor in ("frontend", "polls") else section
    assert changed - {"uncertainty"} == {section}
    assert perturbed(profile, {factor: 1.0}) is profile


def test_longer_steps_are_longer_and_more_kv_memory_is_more(unsure, traffic):
    server = pt.EngineConfig(profile=TOY, max_loras=8)
    run = pt.simulate(server, traffic)

    def moved(**scales: float) -> dict:
        path = unsure(base=TOY)
        with open(path, "w") as file:
            file.write(perturbed(load_profile(TOY), scales).text)
        return pt.simulate(server.replace(profile=path), traffic).metrics

    tpot = run.metrics["median_tpot_ms"]
    assert moved(step_time=1.03)["median_tpot_ms"] == pytest.approx(1.03 * tpot, rel=5e-3)
    assert moved(kv_memory=1.1)["kv_tokens"] == pytest.approx(1.1 * run.metrics["kv_tokens"], 1e-3)
    assert moved(load_time=2.0)["lora_load_time_s"] > 1.5 * run.metrics["lora_load_time_s"]


def test_what_a_profile_states_is_read(unsure):
    known = uncertainty_of(
        load_profile(unsure(step_time=0.02, residual={"mean_ttft_ms": {"queued": 0.1}}))
    )
    assert known.known
    assert (known.factors["step_time"], known.factors["polls"]) == (0.02, 0.0)
    assert known.residual_of("mean_ttft_ms", "queued") == 0.1
    assert known.residual_of("mean_ttft_ms", "calm") == 0.0
    assert not uncertainty_of(load_profile(TOY)).known


@pytest.mark.parametrize("name", shipped_profiles())
def test_shipped_profiles_state_their_uncertainty(name):
    known = uncertainty_of(load_profile(name))
    assert known.known
    assert all(known.factors[factor] > 0 for factor in FACTORS)
    assert "dt_real" not in load_profile(name).data["uncertainty"]["fitted_on"]


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ([], "uncertainty must be a mapping"),
        ({"factors": {"luck": 0.1}}, "uncertainty.factors has luck, known are step_time"),
        ({"factors": {"batch": -0.1}}, "uncertainty.factors.batch (-0.1) must be a relative"),
        ({"factors": {"batch": True}}, "uncertainty.factors.batch (True) must be a relative"),
        ({"factors": 3}, "uncertainty.factors must be a mapping"),
        ({"residual": {"kv": {}}}, "uncertainty.residual has kv, known are total_throughput"),
        ({"residual": {"mean_ttft_ms": {"busy": 1}}}, "has busy, known are calm, queued"),
        ({"residual": []}, "uncertainty.residual must be a mapping"),
    ],
)
def test_a_bad_section_gets_one_line(section, expected, tmp_path, traffic):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({**load_profile(TOY).data, "uncertainty": section}))
    with pytest.raises(pt.ConfigError) as error:
        pt.predict(pt.EngineConfig(profile=str(path), max_loras=8), traffic)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("scales", [{"luck": 1.1}, {"batch": 0.0}, {"batch": float("inf")}])
def test_bad_scales_get_one_line(scales):
    with pytest.raises(pt.ConfigError, match="must be"):
        perturbed(load_profile(TOY), scales)
