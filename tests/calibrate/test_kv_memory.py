"""Servers with less KV memory than their configuration gives are told by what a request holds."""

import polars as pl
import pytest

from calibration import kv_memory

DURATION = 1000.0
MEMORY = {
    "gpu_bytes": 2_000_000, "weights_bytes": 400_000, "kv_bytes_per_token": 1,
    "lora_slot_bytes": 1000, "lora_slot_bytes_per_rank": 0, "lora_fixed_bytes": 0,
    "overhead_min_bytes": 100_000, "overhead_bytes": 0, "overhead_bytes_per_seq": 0,
}  # fmt: skip


def made_up(shares: list[float], running: float = 100.0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Runs whose servers have these shares of their KV tokens; a request holds 360 tokens."""
    runs = pl.DataFrame(
        {
            "run_idx": list(range(len(shares))),
            "max_loras": 10,
            "max_lora_rank": 16,
            "max_num_seqs": 256,
            "total_time_s": DURATION,
        }
    )
    runs = kv_memory.with_kv_tokens(runs, MEMORY)
    tokens = runs["kv_tokens"].to_list()
    rows = [
        {
            "run_idx": run,
            "t_s": float(t),
            "running": running + swing,
            "waiting": 0,
            "kv_usage": 360 * (running + swing) / (share * tokens[run]),
        }
        for run, share in enumerate(shares)
        for t, swing in ((100, 500.0), (400, -20.0), (600, 0.0), (800, 20.0))
    ]
    return runs, pl.DataFrame(rows)


def test_the_memory_model_gives_the_tokens():
    runs, _ = made_up([1.0])
    assert runs["kv_tokens"].to_list() == [(1_800_000 - 400_000 - 10_000 - 100_000) // 16 * 16]


def test_what_a_request_holds_is_the_same_on_every_server():
    runs, series = made_up([1.0, 0.7])
    per = kv_memory.per_running(runs, series)["per"].to_list()
    assert per == pytest.approx([360.0, 360.0 / 0.7])


def test_servers_short_of_memory_are_found_with_their_share():
    runs, series = made_up([1.0, 1.0, 0.7, 1.0, 0.98, 0.92, 1.0])
    assert kv_memory.short_of_memory(runs, series) == pytest.approx({2: 0.7, 5: 0.92})


def test_runs_with_few_requests_tell_nothing():
    runs, series = made_up([1.0, 0.5], running=15.0)
    assert kv_memory.short_of_memory(runs, series) == {}
