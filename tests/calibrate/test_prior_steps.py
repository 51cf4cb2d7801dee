"""Step times and loads of priors: learned as stated, plausible, and worth what the docs say."""

import json
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytwin.calibrate.prior import steps
from pytwin.calibrate.prior.build import build
from pytwin.calibrate.prior.drivers import drivers, grid
from pytwin.calibrate.prior.gpus import known_gpus, load_gpu
from pytwin.calibrate.prior.learn import COMMAND, Measured, digest, learn, measured_profiles
from pytwin.calibrate.prior.learned import (
    from_document,
    known_architecture,
    known_models,
    shipped,
)
from pytwin.calibrate.terms import CONFIG_FEATURES, STEP_FEATURES, evaluate, part_values
from pytwin.catalog import load_profile
from pytwin.uncertainty.factors import FACTORS, perturbed, read_uncertainty
from tests.conftest import LLAMA, QWEN

Z90 = 1.645


@pytest.fixture(scope="module")
def pair() -> list[Measured]:
    return measured_profiles([LLAMA, QWEN])


def batch(seqs, *, slots=0, rank=0, adapters=0, prompt=0, context=362):
    values = dict.fromkeys((*CONFIG_FEATURES, *STEP_FEATURES), 0.0)
    values.update(
        lora=slots > 0, max_loras=slots, max_lora_rank=rank, seqs=seqs, decode_seqs=seqs,
        running=seqs, tokens=seqs + prompt, prefill_tokens=prompt, prefill_seqs=prompt > 0,
        adapters=adapters, lora_seqs=seqs if adapters else 0, context_tokens=context * seqs,
    )  # fmt: skip
    return {name: np.array([float(value)]) for name, value in values.items()}


def prior(name="llama-3.1-8b-instruct", gpu="h100-80gb", **settings):
    return build(known_architecture(name), load_gpu(gpu), model_name=name, **settings)


def step_ms(document, features):
    return float(evaluate(document["step_time"]["terms"], features)[0]) / 1e3


# -- what was learned ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [LLAMA, QWEN])
def test_the_learned_file_belongs_to_the_shipped_profiles(name):
    (told,) = [p for p in shipped().profiles if p["name"] == name]
    assert told["sha256"] == digest(load_profile(name)), f"run {COMMAND}"


def test_the_learned_file_is_what_its_command_writes(pair):
    anew = json.loads(json.dumps(learn(pair).document()))
    told = json.loads(json.dumps(shipped().document()))
    for part in ("profiles", "frontend", "queue", "early_eos", "ranges"):
        assert anew[part] == told[part], part
    for part in ("step", "loads", "memory", "spread"):
        assert anew[part] == pytest.approx(told[part], rel=1e-3), part
    assert from_document(told).document() == shipped().document()


def test_efficiencies_are_physical():
    learned = shipped()
    assert 1.0 <= learned.step["read"] < 1.6  # no faster than the data sheet
    assert all(value >= 0 for value in learned.step.values())
    # Large batches cannot beat the tensor cores either.
    assert learned.step["products"] + learned.step["products beyond the ridge"] >= 1.0
    assert 0 < learned.loads.pcie_efficiency <= 1


def test_each_model_is_predicted_from_the_other_alone(pair):
    """What docs/background/priors.md reports, with room for profiles to come."""
    for one, other in (pair, pair[::-1]):
        learned = learn([other], shipped().spread)
        document = build(one.model, one.gpu, model_name="x", learned=learned)
        error = evaluate(document["step_time"]["terms"], one.features) / one.step_us - 1
        kinds = steps.kinds(one.features)
        assert np.abs(error[kinds["decode"]]).mean() < 0.10
        assert np.abs(error[kinds["decode without LoRA"]]).mean() < 0.12
        assert np.abs(error[kinds["with a prompt"]]).mean() < 0.25


def test_the_90_percent_intervals_of_step_times_hold_the_other_model(pair):
    for one, other in (pair, pair[::-1]):
        document = build(
            one.model, one.gpu, model_name="x", learned=learn([other], shipped().spread)
        )
        predicted = evaluate(document["step_time"]["terms"], one.features)
        spread = document["uncertainty"]["factors"]
        variance = np.full(len(predicted), spread["step_time"] ** 2)
        for name in steps.GROUPS:
            of_group = [
                term
                for term in document["step_time"]["terms"]
                if steps.group_of(term["factors"]) == name
            ]
            share = evaluate(of_group, one.features) / predicted
            variance += (share * spread[name]) ** 2
        inside = np.abs(np.log(predicted / one.step_us)) <= Z90 * np.sqrt(variance)
        assert inside.mean() >= 0.85
        for kind, mask in steps.kinds(one.features).items():
            assert inside[mask].mean() >= 0.75, kind


# -- the drivers' grids are vLLM's -----------------------------------------------------------------


def of(components, name):
    (found,) = [entry for entry in components if entry.name == name]
    return found


def blocks(component, features):
    return float(sum(part_values(part, features) for part in component.parts)[0])


@pytest.mark.parametrize("name", ["llama-3.1-8b-instruct", "qwen-2.5-7b-instruct", "gemma-2-9b-it"])
@pytest.mark.parametrize("rank", [8, 16, 32, 64])
def test_idle_blocks_are_those_of_the_kernels_launched(name, rank):
    """vLLM 0.8.5 lora/ops/triton_ops: grids of lora_shrink and lora_expand, per idle slot."""
    model, gpu = known_architecture(name), load_gpu("h100-64gb")
    components = drivers(model, gpu)
    unit = 1e-3 * 132 / gpu.sms
    for tokens in (1, 8, 32, 33, 64, 65, 96, 97, 120, 128, 160, 256, 512):
        split = 64 if tokens <= 120 else 8
        shrink = sum(
            split * ceil(tokens / 32) * ceil(rank / 16) * len(group.outputs)
            for group in model.lora_groups
        )
        expand = sum(
            ceil(tokens / 64) * ceil(max(group.outputs) / 128) * len(group.outputs)
            for group in model.lora_groups
        )
        features = batch(tokens, slots=1, rank=rank)
        mine = blocks(of(components, "idle shrink"), features) / unit
        assert mine == pytest.approx(model.layers * shrink, rel=1e-9 if tokens % 32 == 0 or
                                     tokens <= 120 else 0.25)  # fmt: skip
        mine = blocks(of(components, "idle expand"), features) / unit
        assert mine == pytest.approx(model.layers * expand, rel=0.26)
    assert grid(model).kernels == 8 * model.layers


def test_experts_are_read_as_tokens_reach_them():
    model, gpu = known_architecture("mixtral-8x7b-instruct-v0.1"), load_gpu("h200")
    read = of(drivers(model, gpu), "read")
    for tokens in (1, 2, 4, 8, 16, 32, 64, 128, 500):
        features = batch(tokens, context=0)
        reached = 1 - (1 - 2 / 8) ** min(tokens, 128)
        bytes_read = model.dense_bytes_read + reached * model.expert_bytes
        assert blocks(read, features) == pytest.approx(bytes_read / gpu.bandwidth * 1e6)


# -- plausible, whatever the model and the GPU -----------------------------------------------------


def test_more_bandwidth_decodes_faster():
    by_bandwidth = sorted(
        ("a10g", "l40s", "a100-40gb", "a100-80gb", "h100-80gb", "h200"),
        key=lambda gpu: load_gpu(gpu).bandwidth,
    )
    for model in ("llama-3.1-8b-instruct", "qwen-2.5-7b-instruct", "mistral-7b-instruct-v0.3"):
        times = [step_ms(prior(model, gpu), batch(16)) for gpu in by_bandwidth]
        assert times == sorted(times, reverse=True)


def test_no_step_is_faster_than_reading_the_weights():
    for name in known_models():
        model = known_architecture(name)
        for gpu in known_gpus():
            least = 1e3 * (model.dense_bytes_read / load_gpu(gpu).bandwidth)
            assert step_ms(prior(name, gpu), batch(1)) > least


def test_larger_models_take_longer():
    small, middle, large = (
        step_ms(prior(name, "h200"), batch(32))
        for name in ("llama-3.2-1b-instruct", "llama-3.1-8b-instruct", "llama-3.1-70b-instruct")
    )
    assert small < middle < large


@given(
    st.sampled_from(known_models()),
    st.sampled_from(sorted(known_gpus())),
    st.sampled_from([1, 16, 100, 130, 300]),
    st.sampled_from([4, 32, 128]),
    st.sampled_from([8, 16, 32]),
    st.sampled_from([0, 1, 4]),
)
def test_steps_grow_with_slots_rank_adapters_and_context(name, gpu, seqs, slots, rank, adapters):
    document = prior(name, gpu)
    adapters = min(adapters, seqs)
    here = step_ms(document, batch(seqs, slots=slots, rank=rank, adapters=adapters))
    for other in (
        batch(seqs, slots=2 * slots, rank=rank, adapters=adapters),
        batch(seqs, slots=slots, rank=2 * rank, adapters=adapters),
        batch(seqs, slots=slots, rank=rank, adapters=adapters + 1),
        batch(seqs, slots=slots, rank=rank, adapters=adapters, context=1000),
        batch(seqs, slots=slots, rank=rank, adapters=adapters, prompt=1000),
    ):
        assert step_ms(document, other) >= here * (1 - 1e-9)
    assert here > 0


def load_ms(document, source, rank, padding=0):
    features = {"rank": np.array([float(rank)]), "rank_padding": np.array([float(padding)])}
    return float(evaluate(document["load_time"][source], features)[0]) / 1e3


@given(st.sampled_from(known_models()), st.sampled_from(sorted(known_gpus())))
def test_loads_grow_with_rank_and_never_outrun_pcie(name, gpu):
    document, model, chip = prior(name, gpu), known_architecture(name), load_gpu(gpu)
    times = [load_ms(document, "memory", rank) for rank in (1, 8, 16, 32, 64, 128, 256)]
    assert times == sorted(times)
    for rank, time in zip((1, 8, 16, 32, 64, 128, 256), times, strict=True):
        assert time >= 1e3 * model.lora_bytes_per_rank * (rank - 1) / chip.pcie
    assert load_ms(document, "memory", 8, padding=8) > load_ms(document, "memory", 8)
    assert load_ms(document, "disk", 16) > load_ms(document, "disk", 8) > 0


# -- how sure --------------------------------------------------------------------------------------


def test_every_factor_is_stated_and_read_by_predict():
    section = read_uncertainty(prior()["uncertainty"], "prior")
    assert set(section.factors) == set(FACTORS)
    assert all(value > 0 for value in section.factors.values())
    assert section.residual_of("total_throughput", "calm") > 0


def test_a_gpu_never_measured_is_less_sure():
    here, there = (prior(gpu=gpu)["uncertainty"]["factors"] for gpu in ("h100-64gb", "h100-80gb"))
    assert there["step_time"] > here["step_time"] + 0.1
    assert there["kv_memory"] > here["kv_memory"]
    moe = prior("mixtral-8x7b-instruct-v0.1", "h200")["uncertainty"]["factors"]
    assert moe["step_time"] > there["step_time"]


def test_terms_are_grouped_as_intervals_move_them(tmp_path):
    file = tmp_path / "prior.json"
    file.write_text(json.dumps(prior()))
    profile = load_profile(str(file))
    for name in steps.GROUPS:
        moved = perturbed(profile, {name: 2.0}).data["step_time"]["terms"]
        for term, before in zip(moved, profile.data["step_time"]["terms"], strict=True):
            doubled = term["coefficient"] == pytest.approx(2 * before["coefficient"])
            assert doubled == (steps.group_of(term["factors"]) == name)


# -- profiles of other forms -----------------------------------------------------------------------


def written(folder, name, **changes):
    """A copy of a shipped profile with parts changed."""
    file = folder / f"{name}.json"
    file.write_text(json.dumps({**load_profile(name).data, **changes}))
    return str(file)


def test_profiles_with_other_terms_are_learned_from(tmp_path):
    data = load_profile(QWEN).data
    queue = [t for t in data["step_time"]["terms"] if steps.features_of(t["factors"]) & steps.QUEUE]
    rest = [t for t in data["step_time"]["terms"] if t not in queue]
    other = written(
        tmp_path,
        QWEN,
        step_time={"unit": "us", "terms": rest},
        early_eos={"probability": 0.01, "per_token": 1e-4},
    )
    learned = learn(measured_profiles([LLAMA, other]), shipped().spread)
    # One profile without a cost of its queue halves the mean.
    llama = load_profile(LLAMA).data
    for term in learned.queue:
        (own,) = [t for t in llama["step_time"]["terms"] if t["factors"] == term["factors"]]
        assert term["coefficient"] == pytest.approx(own["coefficient"] / 2, rel=1e-5)
    assert learned.early_eos["per_token"] >= 5e-5
    document = build(
        known_architecture("qwen-3-8b"), load_gpu("h200"), model_name="qwen-3-8b", learned=learned
    )
    assert document["early_eos"] == learned.early_eos


def test_a_load_that_cannot_be_scaled_is_told(tmp_path):
    loads = json.loads(json.dumps(load_profile(QWEN).data["load_time"]))
    loads["memory"].append({"coefficient": 1.0, "factors": ["max_loras"], "why": "new"})
    with pytest.raises(ValueError, match=r"load_time.memory of qwen.*\['max_loras'\].*learn.py"):
        learn(measured_profiles([LLAMA, written(tmp_path, QWEN, load_time=loads)]))


def test_models_of_other_depth_are_less_sure():
    like, shallow = (
        prior(name, "h100-64gb")["uncertainty"]["factors"]["step_time"]
        for name in ("llama-3.1-8b-instruct", "llama-3.2-1b-instruct")
    )
    assert shallow > like + 0.05
