"""What measured runs say about the duration of a step: observations for the step-time law.

Three kinds: cells of logged steps (equal tokens and adapters in the batch, median duration of each
cell), idle and single-request runs (median step), and one row per unqueued run under real traffic,
whose mean time per output token is the step time averaged over the batches that the run went
through. For these the batch is not logged: running requests come from the metric samples, prefill
chunks from the request rate, adapters in the batch from the rates (each running request belongs to
adapter k with probability rate_k / sum of rates).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pytwin.calibrate.terms import CONFIG_FEATURES, STEP_FEATURES, Features

FloatArray = npt.NDArray[np.float64]

# Host time of the adapter loads in a step, as the server logs it (ms): a feature for fitting alone.
LOADS = "loads"
# A queue this long on average means that arrivals wait and adapters in the batch are no longer
# those that the rates give.
_UNQUEUED_WAITING = 1.0
_WARM_UP_S, _TAIL_S = 100.0, 10.0
_RUNNING_LEVELS = 24
_PROMPT_LEVELS = 8
_MIN_STEPS_PER_CELL = 6


@dataclass(frozen=True)
class Observations:
    """Micro rows (possible batches) that average to observed step times.

    features: per micro row. row: observation of each micro row. weight: of it inside its
    observation. target_ms, family, group, run, steps (logged steps behind it): per observation.
    """

    features: Features
    row: npt.NDArray[np.int64]
    weight: FloatArray
    target_ms: FloatArray
    family: npt.NDArray[np.str_]
    group: npt.NDArray[np.str_]
    run: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int64]

    def average(self, matrix: FloatArray) -> FloatArray:
        """Weighted means of the micro rows' design, one row per observation."""
        count = len(self.target_ms)
        total = np.bincount(self.row, self.weight, minlength=count)
        columns = [
            np.bincount(self.row, self.weight * column, minlength=count) / total
            for column in matrix.T
        ]
        return np.stack(columns, axis=1)


class _Rows:
    """Collects observations row by row."""

    def __init__(self) -> None:
        self.micro: list[tuple[int, float, dict[str, float]]] = []
        self.target: list[float] = []
        self.family: list[str] = []
        self.group: list[str] = []
        self.run: list[int] = []
        self.steps: list[int] = []

    def add(self, target_ms: float, family: str, group: str, run: int, steps: int = 1) -> int:
        self.target.append(target_ms)
        self.family.append(family)
        self.group.append(group)
        self.run.append(run)
        self.steps.append(steps)
        return len(self.target) - 1

    def batch(self, row: int, weight: float, **features: float) -> None:
        features["decode_seqs"] = features["seqs"] - features["prefill_seqs"]
        features["running"] = features["seqs"]
        features["lora"] = float(features["max_loras"] > 0)
        features["lora_seqs"] = features["seqs"] if features["adapters"] else 0.0
        self.micro.append((row, weight, features))

    def finish(self) -> Observations:
        if not self.target:
            raise ValueError("no usable step observation: steps or unqueued runs are needed")
        columns = {
            name: np.array([micro[2].get(name, 0.0) for micro in self.micro])
            for name in (*CONFIG_FEATURES, *STEP_FEATURES, LOADS)
        }
        return Observations(
            features=columns,
            row=np.array([micro[0] for micro in self.micro]),
            weight=np.array([micro[1] for micro in self.micro]),
            target_ms=np.array(self.target),
            family=np.array(self.family),
            group=np.array(self.group),
            run=np.array(self.run),
            steps=np.array(self.steps),
        )


def collect(
    runs: pl.DataFrame,
    steps: pl.DataFrame,
    timeseries: pl.DataFrame,
    adapters: pl.DataFrame,
    prompt_tokens: FloatArray,
    families: tuple[str, ...],
) -> Observations:
    """All observations of one model's runs; `prompt_tokens` is a sample of the prompt law.

    `families` are those whose unqueued runs are used as rows of real traffic.
    """
    rows = _Rows()
    logged = steps.filter(pl.col("phase").cast(pl.String) == "bench")
    by_run = {key[0]: frame for key, frame in logged.group_by(["run_idx"])}
    for run in runs.filter(pl.col("status") == "ok").sort("run_idx").iter_rows(named=True):
        frame = by_run.get(run["run_idx"])
        if frame is not None and frame.height > _MIN_STEPS_PER_CELL:
            reader = _READERS.get(run["family"])
            if reader is not None:
                reader(rows, run, frame.sort("step"))
    traffic = runs.filter(
        pl.col("family").is_in(families),
        pl.col("status") == "ok",
        pl.col("ts_waiting_mean") < _UNQUEUED_WAITING,
    ).sort("run_idx")
    wanted = traffic["run_idx"].implode()
    samples = {
        key[0]: frame
        for key, frame in timeseries.filter(
            pl.col("run_idx").is_in(wanted), pl.col("running") > 0
        ).group_by(["run_idx"])
    }
    rates = {
        key[0]: frame["rate_rps"].to_numpy().astype(np.float64)
        for key, frame in adapters.filter(pl.col("run_idx").is_in(wanted)).group_by(["run_idx"])
    }
    levels = np.quantile(prompt_tokens, (np.arange(_PROMPT_LEVELS) + 0.5) / _PROMPT_LEVELS)
    levels *= prompt_tokens.mean() / levels.mean()
    for run in traffic.iter_rows(named=True):
        _traffic(rows, run, samples[run["run_idx"]], rates[run["run_idx"]], levels)
    return rows.finish()


def workload_of(run: dict[str, Any]) -> str:
    """The workload a run belongs to: family, rates and ranks, whatever its slots and adapters."""
    return f"{run['family']} {run['adapter_rates_pattern']} {run['adapter_rank_pattern']}"


def _server(run: dict[str, Any]) -> dict[str, float]:
    slots = run["max_loras"] if run["family"] != "est_default_latency" else None
    return {
        "max_loras": float(slots or 0),
        "max_lora_rank": float(run["max_lora_rank"] or 0) if slots else 0.0,
    }


def _idle(rows: _Rows, run: dict[str, Any], frame: pl.DataFrame) -> None:
    """One request of the base model at a time: what idle slots cost."""
    run_idx = int(run["run_idx"])
    row = rows.add(
        float(np.nanmedian(frame["dt_ms"].to_numpy())), "idle", f"run {run_idx}", run_idx
    )
    rows.batch(
        row, 1.0, **_server(run), seqs=1.0, tokens=1.0, prefill_tokens=0.0, prefill_seqs=0.0,
        context_tokens=60.0, adapters=0.0,
    )  # fmt: skip


def _single(rows: _Rows, run: dict[str, Any], frame: pl.DataFrame) -> None:
    """One request with an adapter at a time; steps in which an adapter is loaded are left out."""
    loads = frame["lora_loads_before"].to_numpy() > 0
    # The load is logged between two steps' lines and happens inside the earlier of the two.
    touched = loads | np.append(loads[1:], False)
    run_idx = int(run["run_idx"])
    median = float(np.nanmedian(frame["dt_ms"].to_numpy()[~touched]))
    row = rows.add(median, "single", f"run {run_idx}", run_idx)
    rows.batch(
        row, 1.0, **_server(run), seqs=1.0, tokens=1.0, prefill_tokens=0.0, prefill_seqs=0.0,
        context_tokens=75.0, adapters=1.0,
    )  # fmt: skip


def _no_lora(rows: _Rows, run: dict[str, Any], frame: pl.DataFrame) -> None:
    """LoRA off, a fixed number of requests in step: pure decode, or pure prefill."""
    run_idx = int(run["run_idx"])
    median = float(np.nanmedian(frame["dt_ms"].to_numpy()))
    outputs = int(run["synthetic_output_len"])
    prompt = run["total_input_tokens"] / run["num_prompts"]
    seqs = float(run["max_num_seqs"])
    if outputs > 1:
        row = rows.add(median, "base decode", f"run {run_idx}", run_idx)
        rows.batch(
            row, 1.0, **_server(run), seqs=seqs, tokens=seqs, prefill_tokens=0.0,
            prefill_seqs=0.0, context_tokens=seqs * (prompt + outputs / 2), adapters=0.0,
        )  # fmt: skip
    elif run["num_prompts"] * prompt > 100 * 2048:
        # The queue is long enough for every chunk to fill the budget.
        row = rows.add(median, "base prefill", f"run {run_idx}", run_idx)
        rows.batch(
            row, 1.0, **_server(run), seqs=2048 / prompt, tokens=2048.0, prefill_tokens=2048.0,
            prefill_seqs=2048 / prompt, context_tokens=0.0, adapters=0.0,
        )  # fmt: skip


def _batches(rows: _Rows, run: dict[str, Any], frame: pl.DataFrame) -> None:
    """Steps with logged tokens and adapters: one cell per (tokens, adapters), its median."""
    limit = float(run["max_num_seqs"] or np.inf)
    prompt = run["total_input_tokens"] / run["num_prompts"]
    outputs = int(run["synthetic_output_len"])
    run_idx = int(run["run_idx"])
    tokens, active = pl.col("batched_tokens"), pl.col("unique_adapters")
    cells = (
        frame.slice(_MIN_STEPS_PER_CELL)
        .filter(tokens > 0)
        .with_columns(
            pl.when(tokens < limit).then(tokens // 4 * 4)
            .when(tokens == limit).then(tokens)
            .otherwise(tokens // 32 * 32).alias("bin"),
            (active // 8).alias("adapter_bin"),
        )
        .group_by("bin", "adapter_bin")
        .agg(tokens.mean(), active.mean(), pl.col("dt_ms").median(), pl.len())
        .filter(pl.col("len") >= _MIN_STEPS_PER_CELL)
        .sort("bin", "adapter_bin")
    )  # fmt: skip
    for cell in cells.iter_rows(named=True):
        total, count = cell["batched_tokens"], min(cell["batched_tokens"], limit)
        mixed = total > limit
        row = rows.add(
            cell["dt_ms"],
            "lora mixed" if mixed else "lora decode",
            f"run {run_idx}",
            run_idx,
            steps=cell["len"],
        )
        rows.batch(
            row, 1.0, **_server(run), seqs=count, tokens=total,
            prefill_tokens=(total - count) * prompt / max(prompt - 1, 1) if mixed else 0.0,
            prefill_seqs=(total - count) / max(prompt - 1, 1) if mixed else 0.0,
            context_tokens=count * (prompt + outputs / 2), adapters=cell["unique_adapters"],
        )  # fmt: skip


_READERS: dict[str, Callable[[_Rows, dict[str, Any], pl.DataFrame], None]] = {
    "est_memory": _idle,
    "est_loading": _single,
    "est_default_latency": _no_lora,
    "est_latency_overhead": _batches,
}


def _traffic(
    rows: _Rows,
    run: dict[str, Any],
    samples: pl.DataFrame,
    rates: FloatArray,
    prompt_levels: FloatArray,
) -> None:
    """An unqueued run under real traffic: its mean time per output token."""
    duration = float(run["total_time_s"])
    running = (
        samples.filter(pl.col("t_s").is_between(_WARM_UP_S, duration - _TAIL_S))["running"]
        .to_numpy()
        .astype(np.float64)
    )
    # Output tokens per second = running requests / step time (Little's law on the server's side);
    # free of the client's view, which merges tokens that arrive together.
    target = run["ts_running_mean"] / run["output_throughput"] * 1e3
    run_idx = int(run["run_idx"])
    row = rows.add(target, "traffic", workload_of(run), run_idx)
    share = rates / rates.sum()
    request_rate = run["completed"] / duration
    context = _context_per_request(run)
    mean_running = float((running**2).mean() / running.mean())
    mean_prompt = float(prompt_levels.mean())
    levels = min(_RUNNING_LEVELS, len(running))
    for count in np.quantile(running, (np.arange(levels) + 0.5) / levels):
        adapters = min(float((1 - np.exp(-count * share)).sum()), float(run["max_loras"]))
        # Arrivals while a step lasts: a step grows with its batch, if less than in proportion.
        expected = request_rate * target / 1e3 * (count / max(mean_running, 1.0)) ** 0.3
        chance, arrivals, left = exp(-expected), 0, 1.0
        while left > 1e-3 and arrivals < 40:
            sizes = prompt_levels if arrivals == 1 else np.array([arrivals * mean_prompt])
            for drawn in sizes:
                size = min(drawn, 2048.0) if arrivals else 0.0
                rows.batch(
                    row, count * chance / len(sizes), **_server(run), seqs=count + arrivals,
                    tokens=count + size, prefill_tokens=size, prefill_seqs=float(arrivals),
                    context_tokens=count * context, adapters=adapters,
                )  # fmt: skip
            left -= chance
            arrivals += 1
            chance *= expected / arrivals


def _context_per_request(run: dict[str, Any]) -> float:
    """KV tokens held per running request, from the KV usage where its size is known."""
    size, usage, running = run["kv_cache_tokens"], run["ts_kv_usage_mean"], run["ts_running_mean"]
    if not size or not usage or not running:
        return 362.0  # both models, every regime of the measured traffic
    return float(usage) * float(size) / float(running)
