"""Memory from first principles: as the measured servers say, from the other model's constants."""

import polars as pl
import pytest

from pytwin.calibrate import memory as measured_memory
from pytwin.calibrate import read
from pytwin.calibrate.memory import GIB
from pytwin.calibrate.prior import memory
from pytwin.calibrate.prior.gpus import load_gpu
from pytwin.calibrate.prior.learned import known_architecture, known_models, shipped
from pytwin.catalog import load_profile
from tests.conftest import LLAMA, QWEN

BOTH = [(LLAMA, QWEN), (QWEN, LLAMA)]
LIMITS = {"max_num_seqs": 2048, "max_num_batched_tokens": 2048}


def measured(name):
    return load_profile(name).data["memory"]


def model(name):
    return known_architecture(load_profile(name).model)


def from_the_other(name, other):
    constants = memory.learn(model(other), measured(other), LIMITS["max_num_batched_tokens"])
    return memory.predict(model(name), load_gpu("h100-64gb"), constants, **LIMITS)


def outcome(section, slots=0, rank=16, seqs=256, length=8192):
    return measured_memory.outcome(section, slots, rank, seqs, length)


@pytest.mark.parametrize("name", [LLAMA, QWEN])
def test_weights_and_kv_bytes_are_the_measured_ones(name):
    predicted = memory.weights_bytes(model(name))
    assert predicted == pytest.approx(measured(name)["weights_bytes"], rel=5e-5)
    assert model(name).kv_bytes_per_token == measured(name)["kv_bytes_per_token"]


@pytest.mark.parametrize("name", [LLAMA, QWEN])
def test_slot_tensors_are_the_measured_ones(name):
    def per_rank(section):
        stacked = sum(t["bytes"] * t["count"] for t in section["lora_tensors"])
        return section["lora_slot_bytes_per_rank"] + stacked

    predicted = memory.predict(model(name), load_gpu("h100-64gb"), shipped().memory, **LIMITS)
    assert per_rank(predicted) == pytest.approx(per_rank(measured(name)), rel=1e-3)
    # Layers' tensors one by one; Llama's embeddings come on top.
    mine = {t["bytes"]: t["count"] for t in predicted["lora_tensors"]}
    for tensor in measured(name)["lora_tensors"]:
        assert tensor["count"] <= mine[tensor["bytes"]] <= tensor["count"] + 2
    assert predicted["lora_slot_bytes"] == pytest.approx(
        measured(name)["lora_slot_bytes"], rel=0.01, abs=30_000
    )


@pytest.mark.parametrize(("name", "other"), BOTH)
def test_kv_tokens_are_predicted_from_the_other_model_alone(name, other):
    prior = from_the_other(name, other)
    for slots in (0, 8, 32, 64, 96, 128):
        for rank in (8, 16, 32):
            for seqs in (64, 256, 1024, 2048):
                truth = measured_memory.kv_tokens(measured(name), slots, rank, seqs)
                guess = measured_memory.kv_tokens(prior, slots, rank, seqs)
                if truth > 50_000:
                    assert guess == pytest.approx(truth, rel=0.02), (slots, rank, seqs)


@pytest.mark.parametrize(("name", "other"), BOTH)
def test_real_servers_are_told_from_config_json_and_the_other_model(traces, name, other):
    table = read.table(traces, "calib_memory").filter(
        pl.col("model") == load_profile(name).model, pl.col("family") != "dt_real"
    )
    judged = measured_memory.judge(
        from_the_other(name, other), table, read.runs(traces), model(name).max_model_len
    )
    assert judged["kv_tokens_mape_percent"] <= 0.6
    assert judged["kv_tokens_worst_percent"] <= 3.0
    right, total = map(int, judged["can_start_right"].split("/"))
    assert right / total >= 0.98


def test_what_pytorch_counts_lies_between_size_and_what_it_reserves():
    mib = 2**20
    for size, taken in ((1, 512), (12 * mib, 12 * mib), (int(12.5 * mib), int(12.5 * mib)),
                        (13 * mib, 14 * mib), (int(31.5 * mib), 32 * mib)):  # fmt: skip
        assert memory.counted(size) == taken
    for name in known_models():
        shapes = known_architecture(name)
        exact = sum(n * shapes.dtype_bytes for n in shapes.tensors())
        reserved = memory.weights_bytes(shapes) + memory.gap_bytes(shapes)
        assert exact <= memory.weights_bytes(shapes) <= reserved < 1.05 * exact


def predict(name, gpu):
    return memory.predict(
        known_architecture(name), load_gpu(gpu), shipped().memory,
        max_num_seqs=256, max_num_batched_tokens=2048,
    )  # fmt: skip


def test_more_memory_holds_more_tokens():
    gpus = sorted(
        ("a10g", "a100-40gb", "l40s", "h100-64gb", "h100-80gb", "h200"),
        key=lambda gpu: load_gpu(gpu).memory_bytes,
    )
    tokens = [
        measured_memory.kv_tokens(predict("llama-3.1-8b-instruct", gpu), 8, 16, 256) for gpu in gpus
    ]
    assert tokens == sorted(tokens)
    assert len(set(tokens)) == len(tokens)


def test_large_models_do_not_fit():
    assert outcome(predict("llama-3.1-70b-instruct", "h100-80gb")) == "oom_cuda"
    assert outcome(predict("llama-3.1-70b-instruct", "a100-80gb")) == "oom_cuda"
    # Its weights fit on an H200, but nothing is left at 0.9 of the memory.
    assert outcome(predict("llama-3.1-70b-instruct", "h200")) == "no_kv_memory"
    assert outcome(predict("mixtral-8x7b-instruct-v0.1", "h100-80gb")) == "oom_cuda"
    assert outcome(predict("mixtral-8x7b-instruct-v0.1", "h200")) == "ok"
    llama = predict("llama-3.1-8b-instruct", "a10g")
    assert outcome(llama, length=131_072) == "kv_smaller_than_max_model_len"
    assert outcome(llama, length=16_384) == "ok"


@pytest.mark.parametrize("name", known_models())
def test_slots_and_ranks_take_memory(name):
    section = predict(name, "h200")
    for rank in (8, 16, 32, 64):
        taken = [measured_memory.lora_bytes(section, slots, rank) for slots in (1, 2, 8, 32, 128)]
        assert taken == sorted(taken)
    by_rank = [measured_memory.lora_bytes(section, 32, rank) for rank in (8, 16, 32, 64)]
    assert by_rank == sorted(by_rank)
    assert 0 < section["overhead_min_bytes"] < 8 * GIB
