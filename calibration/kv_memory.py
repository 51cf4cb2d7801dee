"""Runs whose server had less KV memory than its configuration gives.

A running request holds about 361 KV tokens in every regime: usage x KV tokens / running requests is
the same for all servers. On a few runs of consecutive jobs it is 8 to 68 % higher: the KV cache was
smaller than on other servers of the same configuration (vLLM gives to the KV cache what is free
when it starts, and something else held memory of that GPU). Nothing in a configuration tells, so
such runs are left out of fits, and only out of fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from pytwin.calibrate import memory

_LEAST_RUNNING = 20.0
# Sampling noise and the queue's bias stay within this.
TOLERANCE = 0.06
_WARM_UP_S, _TAIL_S = 300.0, 10.0


def with_kv_tokens(runs: pl.DataFrame, memory_document: Mapping[str, Any]) -> pl.DataFrame:
    """`runs` with a column kv_tokens: what the memory model gives to each server."""
    tokens = [
        memory.kv_tokens(memory_document, slots, rank, seqs)
        for slots, rank, seqs in runs.select(
            "max_loras", "max_lora_rank", "max_num_seqs"
        ).iter_rows()
    ]
    return runs.with_columns(pl.Series("kv_tokens", tokens))


def per_running(runs: pl.DataFrame, timeseries: pl.DataFrame) -> pl.DataFrame:
    """Per run (with kv_tokens): KV tokens held per running request, and mean running, waiting.

    Columns run_idx, per, running, waiting; runs with at least 20 running requests on average.
    """
    held = (pl.col("kv_usage").cast(pl.Float64) * pl.col("kv_tokens")).sum()
    return (
        timeseries.join(runs.select("run_idx", "kv_tokens", "total_time_s"), on="run_idx")
        .filter(pl.col("t_s").is_between(_WARM_UP_S, pl.col("total_time_s") - _TAIL_S))
        .group_by("run_idx")
        .agg(
            per=held / pl.col("running").cast(pl.Float64).sum(),
            running=pl.col("running").cast(pl.Float64).mean(),
            waiting=pl.col("waiting").cast(pl.Float64).mean(),
        )
        .filter(pl.col("running") > _LEAST_RUNNING)
        .sort("run_idx")
    )


def short_of_memory(runs: pl.DataFrame, timeseries: pl.DataFrame) -> dict[int, float]:
    """Runs (with kv_tokens) whose servers had less: run_idx -> share of the expected KV tokens."""
    table = per_running(runs, timeseries)
    usual = table["per"].median()
    ratio = table.with_columns(share=usual / pl.col("per")).filter(
        pl.col("share") < 1 / (1 + TOLERANCE)
    )
    return dict(ratio.select("run_idx", "share").iter_rows())
