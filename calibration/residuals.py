"""Plot what the laws leave: docs/background/residuals-MODEL.png.

    python -m calibration.residuals --traces DIR --crossval OUT [--out DIR]

Upper row: runs under traffic whose workload the law has not seen (`calibration.crossval`). Lower
row: logged steps and KV tokens, under the shipped profile.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import polars as pl

from calibration import refit
from calibration.models import MODELS, Model
from pytwin.calibrate import memory, observations, terms
from pytwin.catalog import load_lengths, load_profile

_LIMIT = 15.0  # percent; what lies beyond is drawn at the edge


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Plot the residuals of the shipped profiles.")
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--crossval", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs/background"))
    arguments = parser.parse_args()
    held_out = {
        model.name: json.loads(
            (arguments.crossval / f"crossval-{model.name}.json").read_text(encoding="utf-8")
        )["runs"]
        for model in MODELS
    }
    traces = refit.Traces(arguments.traces)
    for model in MODELS:
        figure, axes = plt.subplots(2, 4, figsize=(15, 6.5), layout="constrained")
        under_traffic(axes[0], held_out[model.name])
        logged(axes[1], traces, model)
        figure.suptitle(f"{model.name}: predicted minus measured, percent")
        file = arguments.out / f"residuals-{model.name.split('-')[0]}.png"
        figure.savefig(file, dpi=80, metadata={"Software": None})
        plt.close(figure)
        print(file)


def under_traffic(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Held-out errors of TPOT by batch, slots and served adapters, and of throughput."""
    frame = pl.DataFrame(rows)
    panels = (
        ("running", "tpot", "running requests", "TPOT"),
        ("slots", "tpot", "slots", "TPOT"),
        ("served", "tpot", "served adapters", "TPOT"),
        ("served", "throughput", "served adapters", "throughput"),
    )
    for axis, (x, y, label, title) in zip(axes, panels, strict=True):
        for queued, colour in ((False, "tab:blue"), (True, "tab:orange")):
            part = frame.filter(pl.col("queued") == queued)
            name = "queue" if queued else "no queue"
            scatter(axis, part[x].to_numpy(), part[y].to_numpy(), name, colour)
        decorate(axis, label, f"{title}, workload not fitted on")
    axes[0].legend(fontsize=8)


def logged(axes: Any, traces: refit.Traces, model: Model) -> None:
    """Errors of logged steps by tokens, slots and source, and of KV tokens by slots."""
    runs = traces.runs.filter(pl.col("model") == model.name)
    profile = load_profile(model.profile).data
    prompts = refit.sample_of_prompts(load_lengths(model.lengths))
    found = observations.collect(
        runs,
        traces.of("steps", runs),
        traces.of("timeseries", runs),
        traces.of("adapters", runs),
        prompts,
        (),
    )
    predicted = found.average(
        terms.evaluate(profile["step_time"]["terms"], found.features)[:, None]
    )[:, 0]
    errors = 100 * (predicted / 1000 / found.target_ms - 1)
    tokens = found.average(found.features["tokens"][:, None])[:, 0]
    slots = found.average(found.features["max_loras"][:, None])[:, 0]
    names = sorted(set(found.family.tolist()))
    for name in names:
        part = found.family == name
        scatter(axes[0], tokens[part], errors[part], name, None)
        scatter(axes[1], slots[part], errors[part], name, None)
    axes[0].set_xscale("log")
    decorate(axes[0], "tokens in the step", "logged steps")
    decorate(axes[1], "slots", "logged steps")
    axes[1].legend(fontsize=7)
    axes[2].boxplot([errors[found.family == name] for name in names], tick_labels=names)
    axes[2].tick_params(axis="x", rotation=30, labelsize=8)
    decorate(axes[2], "", "logged steps by source")
    servers = traces.calib_memory.filter(
        pl.col("model") == model.name,
        pl.col("kv_cache_tokens_logged").is_not_null(),
        pl.col("enable_lora"),
        ~pl.col("family").str.contains("^(motivation|perf)"),
    ).join(runs.select("run_idx", "max_num_seqs"), on="run_idx", how="inner")
    kv = [
        100 * (memory.kv_tokens(profile["memory"], slots_, rank, seqs or 256) / tokens_ - 1)
        for slots_, rank, seqs, tokens_ in servers.select(
            "max_loras", "max_lora_rank", "max_num_seqs", "kv_cache_tokens_logged"
        ).iter_rows()
    ]
    scatter(axes[3], servers["max_loras"].to_numpy(), np.array(kv), "servers", "tab:green")
    axes[3].set_ylim(-2, 2)
    axes[3].axhline(0, color="grey", linewidth=0.8)
    axes[3].set_xlabel("slots")
    axes[3].set_title("KV tokens", fontsize=10)


def scatter(axis: Any, x: Any, y: Any, label: str, colour: str | None) -> None:
    """Points, those beyond the limit at the edge."""
    axis.plot(x, np.clip(y, -_LIMIT, _LIMIT), ".", label=label, color=colour, alpha=0.6)


def decorate(axis: Any, label: str, title: str) -> None:
    """Zero line, labels and limits."""
    axis.axhline(0, color="grey", linewidth=0.8)
    axis.set_ylim(-_LIMIT - 0.5, _LIMIT + 0.5)
    axis.set_xlabel(label)
    axis.set_title(title, fontsize=10)


if __name__ == "__main__":
    main()
