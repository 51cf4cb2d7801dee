"""What ships: profiles, length tables and measured figures carry their worth and their source."""

import json
from importlib.resources import files

import numpy as np
import pytest

from calibration.build_lengths import held_and_seen
from pytwin.calibrate.terms import CONFIG_FEATURES, STEP_FEATURES, evaluate
from pytwin.catalog import load_lengths, load_profile, shipped_lengths, shipped_profiles
from pytwin.workload import Workload, tilted

NAMES = ["llama-3.1-8b-instruct@h100-64gb", "qwen-2.5-7b-instruct@h100-64gb"]


def step_features(**given: float) -> dict[str, np.ndarray]:
    features = {name: np.zeros(1) for name in (*CONFIG_FEATURES, *STEP_FEATURES)}
    for name, value in given.items():
        features[name] = np.array([float(value)])
    return features


def batch(slots: int, rank: int, seqs: int, adapters: int, prefill: int = 0) -> np.ndarray:
    return step_features(
        lora=slots > 0, max_loras=slots, max_lora_rank=rank, seqs=seqs, decode_seqs=seqs,
        running=seqs, tokens=seqs + prefill, prefill_tokens=prefill, prefill_seqs=prefill > 0,
        adapters=adapters, lora_seqs=seqs, context_tokens=362 * seqs,
    )  # fmt: skip


def test_both_profiles_ship():
    assert shipped_profiles() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_says_where_it_comes_from_and_what_it_is_worth(name):
    data = load_profile(name).data
    provenance = data["provenance"]
    assert provenance["date"]
    assert provenance["command"]
    assert provenance["source"]
    assert "dt_real" in provenance["held_out"]
    assert "dt_real" not in provenance["fitted_on"]
    for family in ("idle", "lora decode", "traffic", "saturated"):
        assert data["errors"]["step_time"][family]["held_out_mape_percent"] < 4.0, family
    assert data["errors"]["memory"]["kv_tokens_worst_percent"] < 1.5
    right, total = map(int, data["errors"]["memory"]["can_start_right"].split("/"))
    assert right / total >= 0.98
    for feature, (low, high) in data["ranges"].items():
        assert low <= high, feature


@pytest.mark.parametrize("name", NAMES)
def test_every_term_has_a_reason_and_known_features(name):
    data = load_profile(name).data
    for term in data["step_time"]["terms"]:
        assert term["why"]
        named = [factor if isinstance(factor, str) else factor["of"] for factor in term["factors"]]
        assert set(named) <= {*CONFIG_FEATURES, *STEP_FEATURES}
        assert sum(feature in STEP_FEATURES for feature in named) <= 2


@pytest.mark.parametrize("name", NAMES)
def test_a_step_takes_longer_with_more_of_anything(name):
    terms = load_profile(name).data["step_time"]["terms"]
    bare = evaluate(terms, batch(0, 0, 50, 0))[0]
    assert 12_000 < bare < 16_000
    for slots in (8, 64, 384):
        for rank in (8, 16, 32):
            for seqs in (1, 30, 120, 200, 600):
                here = evaluate(terms, batch(slots, rank, seqs, 1))[0]
                assert here > evaluate(terms, batch(0, 0, seqs, 0))[0] - 1.0
                assert here < evaluate(terms, batch(slots + 8, rank, seqs, 1))[0]
                assert here < evaluate(terms, batch(slots, rank, seqs, 1, prefill=200))[0] + 9000
                if seqs > 8:
                    assert here < evaluate(terms, batch(slots, rank, seqs, 8))[0]


@pytest.mark.parametrize(
    ("name", "profile", "measured"),
    [("sharegpt-llama-3", NAMES[0], 362.2), ("sharegpt-qwen-2.5", NAMES[1], 358.7)],
)
def test_length_tables_explain_the_kv_memory_of_running_requests(name, profile, measured):
    table = load_lengths(name)
    prompt, output = table.prompt_tokens.astype(float), table.output_tokens.astype(float)
    assert prompt.min() >= 4
    assert output.min() >= 4
    assert prompt.max() <= 1024
    assert (prompt + output).max() <= 2048
    law = tilted(table, *table.pool_means)
    weight = law.weights / law.weights.sum()
    assert (weight @ prompt, weight @ output) == pytest.approx(table.pool_means, rel=1e-6)
    # KV tokens per running request, of whole blocks, with the profile's early ends.
    held, seen = held_and_seen(prompt, output, load_profile(profile).data["early_eos"])
    assert (weight @ held) / (weight @ seen) == pytest.approx(measured, abs=0.5)


@pytest.mark.parametrize("name", NAMES)
def test_a_workload_takes_the_profiles_early_ends(name):
    profile = load_profile(name)
    law = profile.data["early_eos"]
    assert Workload.poisson(rate_rps=1.0).resolve(profile).document["early_eos"] == law
    assert Workload.poisson(rate_rps=1.0, early_eos=0.0).resolve(profile).document["early_eos"] == 0


def test_length_tables_are_complete():
    assert shipped_lengths() == ["sharegpt-llama-3", "sharegpt-qwen-2.5"]
    counts = [round(float(load_lengths(name).weights.sum())) for name in shipped_lengths()]
    assert counts == [15_822, 15_460]


def test_measured_best_settings_are_dated_and_stand_alone():
    text = (files("pytwin.data") / "measured_best.json").read_text(encoding="utf-8")
    document = json.loads(text)
    assert document["date"]
    assert document["source"]
    assert document["rule"]
    mixes = document["mixes"]
    keys = [(mix["model"], tuple(mix["rates_rps"]), tuple(mix["ranks"])) for mix in mixes]
    assert len(set(keys)) == len(keys) == 12
    for mix in mixes:
        assert mix["profile"] in NAMES
        assert 0 < mix["max_loras"] <= mix["served_adapters"]
        assert mix["max_lora_rank"] >= max(mix["ranks"])
        assert mix["total_throughput"] > 0
        assert set(mix) == {
            "model", "profile", "rates_rps", "ranks", "max_lora_rank", "served_adapters",
            "max_loras", "total_throughput", "runs",
        }  # fmt: skip
