from __future__ import annotations

import json

import pytest

from pytwin.conformance.cases import DEFAULTS, CaseError, check_version, materialise, parse_case
from pytwin.conformance.generate import random_case
from pytwin.conformance.presets import PRESETS, presets_for
from pytwin.conformance.versions import VERSIONS, UnknownVersionError, engine_version
from pytwin.errors import PytwinError

OLD, NEW = engine_version("0.8.5"), engine_version("0.32")


def request(name: str = "a", **fields: object) -> dict[str, object]:
    return {"id": name, "arrival_step": 0, "prompt_len": 5, "max_tokens": 3, **fields}


def test_a_case_takes_the_defaults_of_the_keys_left_out() -> None:
    whole = materialise(parse_case({"requests": [request()]}), NEW)
    assert whole["config"] == DEFAULTS
    assert DEFAULTS["num_blocks"] == 257
    assert DEFAULTS["scheduler_reserve_full_isl"] is True
    assert whole["aborts"] == []
    assert whole["lora_preload"] == []
    assert whole["lora_order"] == {}


def test_a_case_may_carry_notes() -> None:
    assert parse_case({"requests": [request()], "preset": "easy", "seed": 3}).requests


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("{", "not JSON"),
        ("[]", "the case"),
        ({"requests": [], "config": {"max_lorass": 3}}, r"unknown key \(config.max_lorass\)"),
        ({"requests": [request(prio=1)]}, r"unknown key \(requests.0.prio\)"),
        ({}, "requests"),
        ({"requests": [request(), request()]}, r"request id \(a\) occurs twice"),
        ({"requests": [request(prompt_len=0)]}, "greater than or equal to 1"),
        ({"requests": [request(prompt_len=None)]}, "request a has no prompt"),
        ({"requests": [request(prefix_group=1)]}, "give prefix_len"),
        ({"requests": [], "config": {"policy": "sjf"}}, "sjf"),
        ({"requests": [], "config": {"num_blocks": "9"}}, "num_blocks"),
        (
            {"requests": [], "config": {"max_loras": 4, "max_cpu_loras": 2}},
            r"max_cpu_loras \(2\) must be >= max_loras \(4\)",
        ),
    ],
)
def test_a_bad_case_is_refused_in_one_line(case: object, message: str) -> None:
    with pytest.raises(CaseError, match=message) as caught:
        parse_case(case)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, PytwinError)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("policy", "priority"),
        ("async_scheduling", True),
        ("enable_chunked_prefill", False),
        ("long_prefill_token_threshold_adaptive", True),
        ("max_num_scheduled_tokens", 5),
        ("max_num_active_seqs", 5),
        ("watermark", 0.1),
    ],
)
def test_settings_that_a_version_lacks_are_refused_there(name: str, value: object) -> None:
    case = parse_case({"requests": [], "config": {name: value}})
    check_version(case, NEW)
    with pytest.raises(CaseError, match=rf"{name} .*does not exist in engine version 0\.8\.5"):
        check_version(case, OLD)


@pytest.mark.parametrize(
    ("given", "name"), [("0.8.5", "0.8.5"), ("0.32", "0.32"), ("0.32.0", "0.32")]
)
def test_version_names(given: str, name: str) -> None:
    assert engine_version(given).name == name


@pytest.mark.parametrize("given", ["0.9.0", "", "v0.32", "latest"])
def test_an_unknown_version_is_an_error_with_the_way_out(given: str) -> None:
    with pytest.raises(UnknownVersionError, match=r"use one of 0\.8\.5, 0\.32"):
        engine_version(given)


def test_prompts_become_tokens_only_where_prefix_caching_reads_them() -> None:
    shared = {"prefix_group": 2, "prefix_len": 3}
    requests = [request("a", **shared), request("b", **shared), request("c")]
    plain = materialise(parse_case({"requests": requests}), NEW)
    assert plain["requests"][0]["prompt_len"] == 5
    assert "prompt_token_ids" not in plain["requests"][0]
    caching = {"config": {"enable_prefix_caching": True}, "requests": requests}
    a, b, c = (r["prompt_token_ids"] for r in materialise(parse_case(caching), NEW)["requests"])
    assert a[:3] == b[:3] != c[:3]
    assert a[3:] != b[3:]
    assert all(len(tokens) == 5 for tokens in (a, b, c))


def test_made_up_tokens_are_those_of_every_other_program() -> None:
    """Frozen: a saved case must mean the same tokens for ever."""
    case = {"config": {"enable_prefix_caching": True}, "requests": [request("r0", prompt_len=4)]}
    tokens = materialise(parse_case(case), NEW)["requests"][0]["prompt_token_ids"]
    assert tokens == [2388, 8743, 15303, 6278]


def test_arrival_time_is_the_rank_of_arrival() -> None:
    requests = [request("late", arrival_step=9), request("early"), request("mid", arrival_time=4.5)]
    whole = materialise(parse_case({"requests": requests}), NEW)["requests"]
    assert [r["arrival_time"] for r in whole] == [2.0, 0.0, 4.5]


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.name)
def test_every_preset_makes_valid_repeatable_cases(version: object) -> None:
    names = presets_for(version)  # type: ignore[arg-type]
    assert len(names) >= 20
    for preset in names:
        for seed in range(3):
            case = random_case(seed, preset, version)  # type: ignore[arg-type]
            assert case == random_case(seed, preset, version)  # type: ignore[arg-type]
            whole = materialise(parse_case(json.loads(json.dumps(case))), version)  # type: ignore[arg-type]
            assert whole["requests"]
        assert random_case(0, preset, version) != random_case(1, preset, version)  # type: ignore[arg-type]


def test_the_presets_leave_no_setting_out() -> None:
    varied = {name for settings in PRESETS.values() for name in settings}
    for seed in range(50):
        varied |= set(random_case(seed, "anything", NEW)["config"])
    assert varied == set(DEFAULTS)
