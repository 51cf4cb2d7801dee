"""The memory law: found from synthetic servers, and the same in Python as in the core."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytwin import _core
from pytwin.calibrate import memory
from pytwin.catalog import load_profile, shipped_profiles
from pytwin.config import EngineConfig
from pytwin.simulation import Twin
from pytwin.workload import Workload

SHAPE = memory.ModelShape(32, 8, 128, 2, 131_072, 63.43 * memory.GIB, ((4096, 9), (1024, 2)))
TRUTH = {
    "gpu_bytes": 63.43 * memory.GIB,
    "weights_bytes": 15.0 * memory.GIB,
    "kv_bytes_per_token": SHAPE.kv_bytes_per_token,
    "lora_slot_bytes": 6e6,
    "lora_slot_bytes_per_rank": 5e5,
    "lora_fixed_bytes": 2e8,
    "lora_tensors": SHAPE.lora_tensors,
    "overhead_min_bytes": 1.3e9,
    "overhead_bytes": 8e8,
    "overhead_bytes_per_seq": 2e6,
    "load_reserve_bytes": 4e9,
}


def servers() -> tuple[pl.DataFrame, pl.DataFrame]:
    rows = [(0, 0, seqs) for seqs in (50, 100, 200, 600, 800, 1000, 2048)]
    rows += [(slots, rank, 2048) for rank in (8, 16, 32) for slots in (1, 8, 32, 64, 128, 256, 384)]
    table = []
    for index, (slots, rank, seqs) in enumerate(rows):
        said = memory.outcome(TRUTH, slots, rank, seqs, SHAPE.max_model_len)
        table.append(
            {
                "run_idx": index,
                "family": "est_memory",
                "enable_lora": slots > 0,
                "max_loras": slots or None,
                "max_lora_rank": rank or None,
                "status": "ok" if said == "ok" else "failed",
                "error_class": None if said == "ok" else said,
                "kv_cache_tokens_logged": memory.kv_tokens(TRUTH, slots, rank, seqs)
                if said == "ok"
                else None,
                "model_load_gib": TRUTH["weights_bytes"] / memory.GIB
                + memory.lora_bytes(TRUTH, slots, rank) / memory.GIB,
                "max_num_seqs": seqs,
            }
        )
    frame = pl.DataFrame(table, infer_schema_length=None)
    return frame.drop("max_num_seqs"), frame.select("run_idx", "max_num_seqs")


def test_a_known_law_is_found():
    calib, runs = servers()
    found = memory.fit(calib, runs, SHAPE)
    for name in ("weights_bytes", "lora_slot_bytes", "lora_slot_bytes_per_rank", "overhead_bytes"):
        assert found[name] == pytest.approx(TRUTH[name], rel=0.05), name
    report = memory.judge(found, calib, runs, SHAPE.max_model_len)
    assert report["kv_tokens_worst_percent"] < 0.5
    right, total = report["can_start_right"].split("/")
    assert right == total


def test_too_few_servers_are_refused():
    calib, runs = servers()
    with pytest.raises(ValueError, match="at least 3 LoRA rows"):
        memory.fit(calib.filter(~pl.col("enable_lora")), runs, SHAPE)


@given(st.floats(1.0, 1e9))
def test_the_allocator_never_takes_less_and_wastes_within_its_rules(size):
    taken = memory.allocated(size)
    assert taken >= size
    assert taken <= max(size, min(2 * size, size + 10 * memory.MIB))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(shipped_profiles()),
    st.integers(0, 400),
    st.sampled_from([8, 16, 32, 64]),
    st.sampled_from([64, 256, 1024, 2048]),
)
def test_python_and_core_agree_on_every_server(name, slots, rank, seqs):
    data = load_profile(name).data
    twin = Twin()
    server = EngineConfig(
        profile=name, max_loras=slots, max_cpu_loras=slots, max_lora_rank=rank, max_num_seqs=seqs
    )
    traffic = Workload.poisson(rate_rps=1.0)
    told = _core.memory(twin.library, json.dumps(twin.spec(server, traffic)))
    length = data["server"]["max_model_len"]
    mine = memory.outcome(data["memory"], slots, rank, seqs, length)
    assert (told["status"] == "ok") == (mine == "ok")
    if mine != "oom_cuda":
        tokens = memory.kv_tokens(data["memory"], slots, rank, seqs)
        assert abs(int(told["kv_tokens"]) - tokens) <= memory.BLOCK_TOKENS


def test_kv_tokens_fall_with_slots_and_rank():
    data = load_profile(shipped_profiles()[0]).data["memory"]
    grid = np.array(
        [
            [memory.kv_tokens(data, slots, rank, 2048) for slots in range(8, 200, 8)]
            for rank in (8, 16)
        ]
    )
    assert (grid[1] < grid[0]).all()
    # More slots never leave room for much more: only the allocator's rounding may give some back.
    assert (np.diff(grid, axis=1) < 0.02 * grid[:, :1]).all()
