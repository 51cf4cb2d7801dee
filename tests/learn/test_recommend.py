"""`pytwin recommend` as a user drives it, with the shipped models; and `pt.recommend`."""

from __future__ import annotations

import json

import numpy as np
import pytest

import pytwin as pt
from pytwin.learn.bundle import SHIPPED, load_bundle
from pytwin.learn.describe import Describer, Setting, Traffic
from pytwin.learn.question import Objective, Question, grid
from pytwin.learn.search import TIE
from tests.conftest import LLAMA, QWEN

ASKED = ("recommend", "--profile", LLAMA)
SMALL = (
    "--rates-rps", "0.4,0.05,0.0125", "--ranks", "8,16,16",
    "--served", "16,48,96", "--slots", "8,32",
)  # fmt: skip
SETTING = ("served_adapters", "max_loras", "max_cpu_loras", "max_lora_rank")


def answer(cli, *arguments):
    done = cli(*ASKED, *arguments, "--format", "json")
    assert done.code == 0, done.err
    return json.loads(done.out)


@pytest.fixture(scope="module")
def verified():
    found = pt.recommend(
        LLAMA,
        rates_rps=[0.4, 0.05, 0.0125], ranks=[8, 16, 16], served=[16, 48, 96], slots=[8, 32],
    )  # fmt: skip
    return found.to_dict()


def test_both_sets_of_models_ship():
    for name in ("best", "readable"):
        bundle = load_bundle(name)
        assert set(bundle.document["profiles"]) == {LLAMA, QWEN}
        assert bundle.document["duration_s"] == 3600.0
        assert bundle.document["provenance"]["command"].startswith("pytwin learn fit")
    assert (SHIPPED / "readable.json").is_file()


def test_the_shipped_readable_trees_are_readable():
    for entry in load_bundle("readable").document["models"].values():
        (tree,) = entry["model"]["trees"]
        assert sum(feature < 0 for feature in tree["feature"]) <= 32


def test_the_answer_has_what_a_caller_needs(cli, verified):
    found = answer(cli, *SMALL)
    assert found["feasible"] is True
    assert found["max_cpu_loras"] == found["served_adapters"]
    assert found["max_lora_rank"] == 16
    assert found["max_loras"] <= found["served_adapters"]
    low, high = found["intervals"]["total_throughput"]
    assert low <= found["total_throughput"] <= high
    assert {name: found[name] for name in SETTING} in [
        {name: item[name] for name in SETTING} for item in found["equivalent"]
    ]
    assert 0 <= found["risk"] <= 0.1
    assert found["binding"]["constraint"] in {
        "slots", "KV memory", "adapter loading", "step time", "GPU memory", "offered load",
    }  # fmt: skip
    assert set(found["one_more_adapter"]) == {
        "rate_rps", "total_throughput", "mean_tpot_ms", "mean_ttft_ms", "error",
    }  # fmt: skip
    for flag in ("max-loras", "max-cpu-loras", "max-lora-rank"):
        assert f"--{flag} {found[flag.replace('-', '_')]} " in found["vllm_serve"]
    assert found == verified  # Python and the command line give the same


def test_the_answer_is_what_the_twin_finds_there(verified):
    """Input and output tokens per second of the recommended server, over the same six seeds."""
    server = pt.EngineConfig(
        profile=LLAMA, max_connections=25_000,
        **{name: verified[name] for name in SETTING if name != "served_adapters"},
    )  # fmt: skip
    count = verified["served_adapters"]
    fleet = pt.adapters(count, [0.4, 0.05, 0.0125], ranks=[8, 16, 16])
    traffic = pt.Workload.poisson(adapters=fleet, duration_s=3600)
    runs = [pt.simulate(server, traffic, seed=seed, requests=False).metrics for seed in range(6)]
    assert verified["total_throughput"] == pytest.approx(
        np.mean([run["total_throughput"] for run in runs])
    )
    assert all(run["served_ratio"] > 0.9 for run in runs)
    assert all(run["mean_ttft_ms"] < 3000 for run in runs)


def test_every_equivalent_is_within_a_percent_and_the_cheapest_is_first(verified):
    rows = verified["equivalent"]
    top = max(row["total_throughput"] for row in rows)
    assert all(row["total_throughput"] >= (1 - TIE) * top for row in rows)
    memory = [(row["max_loras"] * row["max_lora_rank"], row["served_adapters"]) for row in rows]
    assert memory == sorted(memory)
    if verified["runner_up"]:
        assert verified["runner_up"]["total_throughput"] < (1 - TIE) * top


def test_the_table_reads_as_sentences(cli):
    done = cli(*ASKED, *SMALL)
    assert done.code == 0
    assert done.out.startswith("serve ")
    for words in ("throughput", "risk of breaking", "limited by", "one more adapter", "vllm serve"):
        assert words in done.out


@pytest.mark.parametrize("models", ["best", "readable"])
def test_models_alone_answer_without_a_simulation(cli, models):
    found = answer(
        cli, "--rates-rps", "0.1,0.05", "--ranks", "8", "--served", "16,32,64", "--slots", "16,32",
        "--no-verify", "--models", models,
    )  # fmt: skip
    assert found["feasible"]
    assert found["simulations"] == 0
    assert found["verified"] is False
    assert found["source"] == "models"
    assert found["models"] == models
    assert found["served_adapters"] == 64  # 5 requests/s are easy
    offered = 64 * 0.075 * 419  # ShareGPT: 419 tokens a request
    assert found["total_throughput"] == pytest.approx(offered, rel=0.03)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--rates-rps", "5"), "rate_max_rps 5"),
        (("--rates-rps", "1", "--duration-s", "120"), "horizon 120 s"),
        (("--rates-rps", "1", "--ttft-slo-ms", "500"), "objectives other than"),
        (("--rates-rps", "1", "--max-lora-rank", "64"), "max_lora_rank 64"),
    ],
    ids=lambda value: None if isinstance(value, tuple) else value,
)
def test_beyond_what_was_trained_the_twin_answers_and_says_so(cli, options, reason):
    found = answer(cli, *options, "--ranks", "8", "--served", "2", "--slots", "2", "--no-verify")
    assert any(text.startswith(reason) for text in found["fallback"])
    assert found["verified"] is True
    assert found["simulations"] > 0


def test_the_table_says_on_stderr_that_the_twin_answered(cli):
    done = cli(
        *ASKED, "--rates-rps", "1", "--duration-s", "120", "--served", "2", "--slots", "2",
        "--no-verify",
    )  # fmt: skip
    assert "pytwin: answered by the twin: horizon 120 s, trained on 3600 s" in done.err


def test_a_profile_without_models_is_answered_by_the_twin(toy):
    server = toy(max_loras=None)
    found = pt.recommend(server, rates_rps=0.5, ranks=8, served=[2, 4], slots=[2, 4])
    assert found.feasible
    assert found.best.source == "twin"
    assert any("is none that the models were trained on" in text for text in found.fallback)
    assert found.best.setting.served_adapters == 4


def test_the_twin_alone_finds_the_same_on_one_thread(verified):
    found = pt.recommend(
        LLAMA, models=None, workers=1,
        rates_rps=[0.4, 0.05, 0.0125], ranks=[8, 16, 16], served=[16, 48, 96], slots=[8, 32],
    ).to_dict()  # fmt: skip
    assert found["models"] is None
    assert found["fallback"] == ["no models are at hand"]
    assert {name: found[name] for name in SETTING} == {name: verified[name] for name in SETTING}


def test_what_does_not_fit_in_memory_is_an_answer(cli):
    found = answer(cli, "--rates-rps", "0.1", "--ranks", "512", "--served", "384", "--slots", "384")
    assert found["feasible"] is False
    assert found["reason"].startswith("oom_cuda: weights and 384 LoRA slots need")
    shown = cli(*ASKED, "--rates-rps", "0.1", "--ranks", "512", "--served", "384", "--slots", "384")
    assert shown.code == 0
    assert shown.out.startswith("nothing holds the objective: oom_cuda")


def test_a_load_that_nobody_serves_is_an_answer(cli):
    found = answer(cli, "--rates-rps", "3.2", "--ranks", "8", "--served", "64", "--slots", "32")
    assert found["feasible"] is False
    assert "serve fewer adapters" in found["reason"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "rates_rps ([]) must hold at least one rate"),
        (("--rates-rps", ""), "rates_rps ([]) must hold at least one rate"),
        (("--rates-rps", "0,0"), "rates_rps (all 0) must hold a rate above 0"),
        (("--rates-rps", "-1"), "rates_rps (-1"),
        (("--rates-rps", "nan"), "rates_rps (nan) must be finite"),
        (("--rates-rps", "fast"), "rates_rps (fast) must be numbers with commas"),
        (("--rates-rps", "1", "--ranks", "513"), "ranks (513) must be from 1 to 512"),
        (("--rates-rps", "1", "--ranks", "8.5"), "ranks (8.5) must be whole numbers"),
        (("--rates-rps", "1", "--served", "0"), "served (0) must be from 1"),
        (("--rates-rps", "1", "--served", ","), "must each hold at least one number"),
        (("--rates-rps", "1", "--served", "8", "--slots", "16"), "must be <= served adapters (8"),
        (("--rates-rps", "1", "--ranks", "32", "--max-lora-rank", "16"), "must be >= 32 for ranks"),
        (("--rates-rps", "1", "--max-lora-rank", "20"), "max_lora_rank (20) must be one of 1, 8"),
        (("--rates-rps", "1", "--lengths", "250"), "lengths (250)"),
        (("--rates-rps", "1", "--lengths", "a,b"), "lengths (a,b) must be sharegpt"),
        (("--rates-rps", "1", "--risk", "1"), "risk (1.0) must be a probability"),
        (("--rates-rps", "1", "--models", "mine"), "models (mine) are unknown: shipped"),
        (("--rates-rps", "1", "--duration-s", "0"), "duration_s (0"),
        (("--rates-rps", "1", "--workers", "0"), "workers (0) must be"),
        (("--adapters", "no.csv"), "no.csv cannot be read"),
        (("--adapters", "no.csv", "--ranks", "8"), "adapters brings rates and ranks"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(cli, arguments, message):
    done = cli(*ASKED, *arguments)
    assert done.code == 2
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert done.out == ""


def test_a_profile_that_does_not_exist_is_one_line(cli):
    done = cli("recommend", "--profile", "gpt@abacus", "--rates-rps", "1")
    assert done.code == 2
    assert "profile (gpt@abacus) is unknown" in done.err


def test_an_unknown_objective_is_refused(cli):
    done = cli(*ASKED, "--rates-rps", "1", "--objective", "best")
    assert done.code == 2
    assert "slo" in done.err
    with pytest.raises(pt.ConfigError, match=r"objective \(best\) must be slo or paper"):
        pt.recommend(LLAMA, rates_rps=1, objective="best")


def test_no_rates_is_one_line_in_python_too():
    for bad in ({}, {"rates_rps": []}, {"rates_rps": [0.0]}):
        with pytest.raises(pt.WorkloadError, match="rates_rps"):
            pt.recommend(LLAMA, **bad)
    with pytest.raises(pt.ConfigError, match=r"^server \(3\) must be"):
        pt.recommend(3, rates_rps=1)


def test_settings_are_every_pair_with_slots_within_the_served():
    traffic = Traffic((0.1,), (8, 32))
    found = grid(traffic, [4, 1, 2], [2, 4, 8, 1])
    assert found == (
        Setting(1, 1, 8),
        *(Setting(2, slots, 32) for slots in (1, 2)),
        *(Setting(4, slots, 32) for slots in (1, 2, 4)),
    )
    assert Setting(4, 2, 8).max_cpu_loras == 4


def test_a_question_to_the_models_is_one_pass_over_all_settings():
    """A query is a call of the core and one of each model, whatever the number of settings."""
    traffic = Traffic((0.1, 0.02), (8, 16))
    question = Question(pt.EngineConfig(profile=LLAMA), traffic, grid(traffic), Objective("paper"))
    x = Describer(question.server).features(traffic, question.settings)
    assert x.shape == (len(question.settings), len(Describer.names))
    found = load_bundle("best").predict(x)
    assert all(values.shape == (len(x),) for values in found.values())
    known = ~np.isnan(x).any(axis=1)
    for name in ("starved", "slo_missed"):
        assert ((found[name][known] >= 0) & (found[name][known] <= 1)).all()


def test_scarce_slots_are_named_as_the_limit():
    """Thirty busy adapters ask for eight slots, and memory is plentiful."""
    found = pt.recommend(LLAMA, rates_rps=0.25, ranks=8, served=[8, 30], slots=[8])
    assert found.best.setting.served_adapters == 8
    assert found.binding["constraint"] == "slots"
    assert found.binding["at"] == 30
    assert "in 8 slots" in found.binding["evidence"]
