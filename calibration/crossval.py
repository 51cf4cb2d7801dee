"""How well the law does on workloads that it has not seen, in the loop.

    python -m calibration.crossval --traces DIR --out OUT [--model NAME] [--profiles DIR]

For every workload (rates and ranks) of ml_test, the last round of `calibration.refit` is done again
without that workload's runs: the choice of terms, the coefficients, the closed-loop step. The
profile that comes of it is written to OUT/PROFILE/WORKLOAD.json and simulates the runs it has not
seen. OUT/crossval.json holds each run's errors and their means by slots, rank, batch and adapters.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from calibration import closing, frontend, refit, replay
from calibration.models import MODELS, Model
from pytwin.calibrate import step_time
from pytwin.calibrate.solve import Problem
from pytwin.validate import RunConfig

Case = tuple[RunConfig, dict[str, Any]]
_SEED = 200
_QUEUED = 5.0


def workload(config: RunConfig) -> str:
    """The folder of a run: its rates and ranks."""
    return config.run_id.split("/")[-2]


def logged_steps(
    prepared: refit.Prepared, replayed: Sequence[replay.Replayed]
) -> dict[str, dict[str, float]]:
    """Errors of logged steps of runs that the law has not seen, per source.

    The median is over steps, the mean over cells of equal tokens and adapters; in percent.
    """
    law = step_time.fit(step_time.join(prepared.micro, replay.observations(replayed)))
    family = prepared.micro.family
    errors = 100 * np.abs(law.held_out[: len(family)])
    overhead = np.isin(family, ("lora decode", "lora mixed"))
    parts = {name: family == name for name in sorted(set(family.tolist()))}
    parts["est_latency_overhead"] = overhead
    report = {}
    for name, part in parts.items():
        order = np.argsort(errors[part])
        steps = np.cumsum(prepared.steps[part][order])
        middle = int(np.searchsorted(steps, steps[-1] / 2))
        report[name] = {
            "cells": int(part.sum()),
            "steps": int(steps[-1]),
            "median_percent": round(float(errors[part][order][middle]), 2),
            "mean_percent": round(float(np.nanmean(errors[part])), 2),
        }
    return report


def leave_one_out(
    document: dict[str, Any],
    micro: Problem,
    replayed: Sequence[replay.Replayed],
    out: Path,
) -> list[dict[str, Any]]:
    """One profile per workload left out, into `out`, and the errors of the runs left out."""
    runs = [(run.config, run.real) for run in replayed]
    rows = []
    for name in sorted({workload(config) for config, _ in runs}):
        rest = [run for run in replayed if workload(run.config) != name]
        law = step_time.fit(step_time.join(micro, replay.observations(rest)))
        profile = closing.with_law(document, law.components, law.coefficients)
        law = refit.close(profile, law, micro, [(run.config, run.real) for run in rest], _SEED)
        profile = closing.with_law(profile, law.components, law.coefficients)
        file = out / f"{name}.json"
        file.write_text(json.dumps(profile, indent=1) + "\n", encoding="utf-8")
        unseen = [case for case in runs if workload(case[0]) == name]
        for (config, _), (real, twin) in zip(
            unseen, frontend.simulate(unseen, file, _SEED + 1), strict=True
        ):
            rows.append(row(config, real, twin))
        print(f"{document['model']} without {name}: {len(unseen)} runs", flush=True)
    return rows


def row(config: RunConfig, real: dict[str, Any], twin: dict[str, float]) -> dict[str, Any]:
    """What a run was, and its errors in percent."""
    errors = {
        name: round(100 * (twin[metric] / real[metric] - 1), 3)
        for name, metric in (
            ("throughput", "total_throughput"),
            ("tpot", "mean_tpot_ms"),
            ("itl", "mean_itl_ms"),
            ("ttft", "mean_ttft_ms"),
        )
    }
    return {
        "run_idx": config.run_idx,
        "workload": workload(config),
        "slots": config.settings["max_loras"],
        "rank": config.settings["max_lora_rank"],
        "served": len(config.rates_rps),
        "running": real["ts_running_mean"],
        "queued": real["ts_waiting_mean"] > _QUEUED,
        "twin_running": twin["mean_running"],
        **errors,
    }


def grouped(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Median (bias) and mean absolute TPOT error by slots, rank, batch and served adapters.

    Over runs whose simulated batch is the measured one within 8 %: near the critical load another
    batch makes another TPOT, whatever the law.
    """
    frame = pl.DataFrame(list(rows)).filter(
        (pl.col("twin_running") / pl.col("running") - 1).abs() < 0.08
    )
    frame = frame.with_columns(batch=pl.col("running").cut([20, 60, 120, 250, 500]).cast(pl.String))
    table = []
    for key in ("workload", "slots", "rank", "batch", "served", "queued"):
        for (value,), part in frame.group_by([key], maintain_order=False):
            table.append(
                {
                    "by": key,
                    "value": str(value),
                    "runs": part.height,
                    "tpot_bias": round(float(np.median(part["tpot"].to_numpy())), 2),
                    "tpot_mape": round(float(np.abs(part["tpot"].to_numpy()).mean()), 2),
                }
            )
    return sorted(table, key=lambda line: (line["by"], line["value"].zfill(6)))


def run(traces: Path, model: Model, profiles: Path, out: Path) -> dict[str, Any]:
    """Cross-validation of one model's shipped profile."""
    document = json.loads((profiles / f"{model.profile}.json").read_text(encoding="utf-8"))
    prepared = refit.prepare(refit.Traces(traces), traces, model)
    folder = out / model.profile
    folder.mkdir(parents=True, exist_ok=True)
    shipped = folder / "shipped.json"
    shipped.write_text(json.dumps(document), encoding="utf-8")
    components = step_time.candidates(model.loads_fitted)
    replayed = replay.replay(prepared.cases, shipped, components, _SEED)
    shipped.unlink()
    rows = leave_one_out(document, prepared.micro, replayed, folder)
    logged = logged_steps(prepared, replayed)
    return {"model": model.name, "logged": logged, "grouped": grouped(rows), "runs": rows}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Cross-validate the shipped step-time laws.")
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--profiles", type=Path, default=Path("pytwin/profiles"))
    parser.add_argument("--model", help="only this one, for example llama-3.1-8b-instruct")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = [
        run(arguments.traces, model, arguments.profiles, arguments.out)
        for model in MODELS
        if arguments.model in (None, model.name)
    ]
    name = "crossval.json" if arguments.model is None else f"crossval-{arguments.model}.json"
    (arguments.out / name).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for entry in found:
        for name, line in entry["logged"].items():
            print(entry["model"], name, line)
        for line in entry["grouped"]:
            print(entry["model"], line)


if __name__ == "__main__":
    main()
