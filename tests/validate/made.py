"""A made-up traces directory: runs.parquet and adapters.parquet."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from tests.conftest import LLAMA

MODEL = LLAMA.partition("@")[0]

CONFIG = {
    "run_id": "dt_real/x/_4_8_16_",
    "family": "dt_real",
    "model": MODEL,
    "status": "ok",
    "error_class": None,
    "adapter_rank_pattern": [8, 16],
    "max_loras": 4,
    "max_cpu_loras": 8,
    "max_lora_rank": 16,
    "max_num_seqs": 2048,
    "max_num_batched_tokens": None,
    "prefix_caching_disabled_flag": True,
    "total_time_s": 60.0,
    "pool_mean_input_len": 222.0,
    "pool_mean_output_len": 197.0,
    "client_arrivals_exact": 190,
    "client_arrivals_est": 188.0,
    "starved_est": False,
}
MEASURED = {
    "total_throughput": 1250.0,
    "request_throughput": 3.0,
    "mean_tpot_ms": 16.0,
    "mean_itl_ms": 16.0,
    "mean_ttft_ms": 40.0,
    "median_ttft_ms": 38.0,
    "p99_ttft_ms": 80.0,
    "completed": 180,
}
NEVER_STARTED = {
    "status": "failed",
    "total_throughput": None,
    "completed": None,
    "starved_est": None,
    "pool_mean_input_len": None,
    "pool_mean_output_len": None,
    "client_arrivals_exact": None,
    "client_arrivals_est": None,
}


def write(folder: Path, *changes: dict, drop: tuple[str, ...] = ()) -> Path:
    """A traces directory with one run per change, each of 8 adapters."""
    rows = [{"run_idx": k, **CONFIG, **MEASURED, **change} for k, change in enumerate(changes)]
    folder.mkdir(exist_ok=True)
    runs = pl.DataFrame(rows, infer_schema_length=None).drop(drop)
    runs.write_parquet(folder / "runs.parquet")
    rates = [
        {"run_idx": k, "task_index": j, "rate_rps": 0.4}
        for k, row in enumerate(rows)
        for j in range(0 if row["error_class"] else 8)
    ]
    schema = {"run_idx": pl.Int32, "task_index": pl.Int16, "rate_rps": pl.Float32}
    pl.DataFrame(rates, schema=schema).write_parquet(folder / "adapters.parquet")
    return folder
