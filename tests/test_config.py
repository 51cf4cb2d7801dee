"""Server settings: where a value comes from, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import pytwin as pt
from pytwin.catalog import load_profile
from pytwin.config import LORA_RANKS, engine_defaults
from tests.conftest import TOY


def refusal(**settings: object) -> str:
    with pytest.raises(pt.ConfigError) as caught:
        pt.EngineConfig(**{"profile": TOY, **settings})
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_settings_left_out_come_from_the_profile_then_from_vllm(toy):
    resolved = toy().resolved()
    assert resolved["max_num_seqs"] == 2048  # the profile's; vLLM's own would be 256
    assert resolved["enable_prefix_caching"] is False  # the profile's; vLLM's own is True
    assert resolved["scheduling_policy"] == "fcfs"  # vLLM's
    assert resolved["engine_version"] == "0.8.5"
    assert resolved["max_model_len"] == 8192


def test_given_settings_win(toy):
    resolved = toy(max_num_seqs=7, gpu_memory_utilization=0.5, max_connections=3).resolved()
    assert resolved["max_num_seqs"] == 7
    assert resolved["gpu_memory_utilization"] == 0.5
    assert resolved["max_connections"] == 3


def test_the_cpu_cache_is_as_large_as_the_slots_unless_said(toy):
    assert toy(max_loras=5).resolved()["max_cpu_loras"] == 5
    assert toy(max_loras=5, max_cpu_loras=9).resolved()["max_cpu_loras"] == 9


def test_slots_left_out_mean_one_with_adapters_and_none_without():
    server = pt.EngineConfig(profile=TOY)
    assert server.resolved(has_adapters=True)["max_loras"] == 1
    assert server.resolved(has_adapters=False)["max_loras"] == 0


@pytest.mark.parametrize("spelling", ["0.32", "0.32.0", 0.32])
def test_an_engine_version_has_two_spellings(toy, spelling):
    resolved = toy(engine_version=spelling).resolved()
    assert resolved["engine_version"] == "0.32"
    assert resolved["async_scheduling"] is True
    assert resolved["scheduler_reserve_full_isl"] is True


def test_what_0_8_5_lacks_is_off_there(toy):
    resolved = toy().resolved()
    assert resolved["async_scheduling"] is False
    assert resolved["scheduler_reserve_full_isl"] is False
    assert resolved["watermark"] == 0.0


@pytest.mark.parametrize(
    ("version", "gib", "tokens", "seqs"),
    [
        ("0.32", 64, 2048, 256),
        ("0.32", 80, 8192, 1024),
        ("0.32", 180, 16384, 1024),
        ("0.8.5", 64, 2048, 256),
        ("0.8.5", 180, 8192, 1024),
    ],
)
def test_vllms_batch_limits_follow_the_gpu(version, gib, tokens, seqs):
    defaults = engine_defaults(version, gib * 2**30)
    assert (defaults["max_num_batched_tokens"], defaults["max_num_seqs"]) == (tokens, seqs)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_loras": 4, "max_cpu_loras": 2}, "max_cpu_loras (2) must be >= max_loras (4)"),
        ({"max_lora_rank": 12}, "max_lora_rank (12) must be one of 1, 8, 16"),
        ({"max_loras": -1}, "max_loras (-1) must be greater than or equal to 0"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization (1.5) must be less than"),
        ({"gpu_memory_utilization": float("nan")}, "gpu_memory_utilization (nan)"),
        ({"engine_version": "0.6"}, "engine_version (0.6) must be one of 0.8.5, 0.32, 0.32.0"),
        ({"async_scheduling": True}, "async_scheduling (True) does not exist in engine_version"),
        ({"scheduling_policy": "priority"}, "scheduling_policy (priority) does not exist in"),
        ({"enable_chunked_prefill": False}, "enable_chunked_prefill (False) does not exist in"),
        ({"scheduling_policy": "lifo"}, "scheduling_policy ('lifo') must be 'fcfs' or 'priority'"),
        ({"max_num_batched_tokens": 512}, "max_num_batched_tokens (512) must be >= max_num_seqs"),
        ({"max_num_seqs": "many"}, "max_num_seqs ('many') must be a valid integer"),
        ({"slots": 4}, "slots is no setting of EngineConfig"),
        ({"profile": "llama"}, "profile (llama) is unknown"),
        ({"profile": "absent.json"}, "profile (absent.json) cannot be read"),
        (
            {"engine_version": "0.32", "enable_chunked_prefill": False},
            "max_num_batched_tokens (2048) must be >= max_model_len (8192) without chunked prefill",
        ),
    ],
)
def test_bad_settings_name_the_value_and_the_rule(settings, expected):
    assert expected in refusal(**settings)


def test_a_profile_is_needed():
    with pytest.raises(pt.ConfigError, match=r"^profile is missing: give a shipped name"):
        pt.EngineConfig(max_loras=3)


def test_every_rank_of_vllm_is_accepted(toy):
    for rank in LORA_RANKS:
        assert toy(max_lora_rank=rank).resolved()["max_lora_rank"] == rank


def test_replace_checks_anew(toy):
    server = toy(max_loras=4, max_cpu_loras=4)
    assert server.replace(max_loras=2).max_loras == 2
    with pytest.raises(pt.ConfigError, match="max_cpu_loras"):
        server.replace(max_loras=8)


def test_a_setting_cannot_be_changed_in_place(toy):
    with pytest.raises(ValueError, match="frozen"):
        toy().max_loras = 3


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 2}', '{"schema": 1}'])
def test_a_profile_that_is_none_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "bad.json"
    path.write_text(text)
    assert "profile (" in refusal(profile=str(path))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model": 3}, "model (3) must be a text"),
        ({"memory": {}}, "memory.gpu_bytes (None) must be a positive number"),
        ({"server": []}, "server must be a mapping"),
        ({"early_eos": "often"}, "early_eos ('often') must be a probability"),
        ({"early_eos": 1.5}, "early_eos (1.5) must be a probability"),
        ({"early_eos": {"per_token": 1e-4}}, "must be a probability, or hold probability"),
        (
            {"early_eos": {"probability": 0.1, "per_token": 3}},
            "early_eos.per_token (3) must be a probability",
        ),
        ({"ranges": {"seqs": [1]}}, "ranges.seqs ([1]) must be [least, greatest]"),
        ({"engine_version": "0.6"}, "engine_version (0.6) of profile"),
    ],
)
def test_a_profile_with_a_wrong_part_is_refused_in_one_line(tmp_path, change, expected):
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(json.loads(Path(TOY).read_text()) | change))
    assert expected in refusal(profile=str(path))


def test_cost_terms_that_the_core_refuses_are_a_one_line_error(tmp_path):
    data = json.loads(Path(TOY).read_text())
    data["step_time"]["terms"][0]["factors"] = ["moonphase"]
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(data))
    with pytest.raises(pt.ConfigError) as caught:
        pt.simulate(pt.EngineConfig(profile=str(path)), pt.Workload.poisson(rate_rps=1))
    assert 'unknown feature "moonphase"' in str(caught.value)


def test_two_files_of_one_profile_name_do_not_mix(tmp_path):
    data = json.loads(Path(TOY).read_text())
    other = tmp_path / "toy.json"
    other.write_text(json.dumps(data | {"early_eos": 0.5}))
    assert load_profile(TOY).name == load_profile(str(other)).name
    assert load_profile(TOY).key != load_profile(str(other)).key
