"""Priors against real one-hour runs of a model that their efficiencies never saw."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from pytwin.validate.predict import predict
from pytwin.validate.read import RunConfig, read_runs

SEEDS, DRAWS, LEVEL = 2, 16, 0.9
METRICS = ("total_throughput", "mean_tpot_ms", "mean_itl_ms", "mean_ttft_ms")


def rows(
    model: str,
    prior: dict[str, Any],
    label: str,
    traces: Path,
    family: str,
    most: int,
    folder: Path,
) -> list[dict[str, Any]]:
    """One row per metric: errors of the prior on real runs, and how many its intervals hold.

    At most `most` runs, evenly out of all that finished (by run_idx).
    """
    file = folder / f"{model}-real.json"
    file.write_text(json.dumps(prior), encoding="utf-8")
    real = read_runs(traces, families=[family])
    outcomes = {row["run_idx"]: row for row in real.outcomes.iter_rows(named=True)}
    usable = [
        config
        for config in real.configs
        if config.model == model and config.excluded is None
        if outcomes[config.run_idx]["total_throughput"]
    ]
    chosen = usable[:: max(1, -(-len(usable) // most))]
    configs: list[RunConfig] = [dataclasses.replace(c, profile=str(file)) for c in chosen]
    predictions = predict(
        configs, simulated=[True] * len(configs), condition=True,
        seeds=SEEDS, draws=DRAWS, level=LEVEL, workers=2,
    )  # fmt: skip
    found = []
    for metric in METRICS:
        errors, held = [], []
        for config, prediction in zip(configs, predictions, strict=True):
            truth = outcomes[config.run_idx][metric]
            guess = prediction.metrics.get(metric)
            if not truth or not guess:
                continue
            errors.append(guess / truth - 1)
            low, high = prediction.intervals[metric]
            held.append(low <= truth <= high)
        error = 100 * np.array(errors)
        found.append(
            {
                "predicted": model, "from": label, "family": family, "metric": metric,
                "runs": len(error), "mean error %": float(np.abs(error).mean()),
                "median error %": float(np.median(np.abs(error))), "bias %": float(error.mean()),
                "held by the 90 % interval": f"{sum(held)}/{len(held)}",
            }
        )  # fmt: skip
    return found
