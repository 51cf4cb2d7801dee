"""How well the law does on workloads that it has not seen, in the loop.

    python -m calibration.crossval --traces DIR --out OUT [--model NAME] [--profiles DIR]

For every workload (rates and ranks) of ml_test the shipped law is moved to where it would be
without that workload's runs: each coefficient by the ratio of two fits, without them and with all,
on the batches that the shipped profile goes through. (The choice of terms and the closed-loop step
are those of the shipped law: they have seen all workloads.) The profile that comes of it is written
to OUT/PROFILE/WORKLOAD.json and simulates the runs left out. OUT/crossval-MODEL.json holds each
run's errors and their means by slots, rank, batch and adapters, and the errors of logged steps of
runs that the law has not seen.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from calibration import closing, frontend, refit, replay
from calibration.models import MODELS, Model
from pytwin.calibrate import step_time
from pytwin.calibrate.observations import LOADS
from pytwin.calibrate.solve import Problem, cross_validate, solve
from pytwin.calibrate.terms import Component
from pytwin.validate import RunConfig

FloatArray = npt.NDArray[np.float64]

_SEED = 200
_QUEUED = 5.0
# A coefficient that one workload alone identifies is not moved further than this.
_MOST_CHANGE = 2.0
_BATCHES = (20, 60, 120, 250, 500)


def workload(config: RunConfig) -> str:
    """The folder of a run: its rates and ranks."""
    return config.run_id.split("/")[-2]


def logged_steps(prepared: refit.Prepared, problem: Problem) -> dict[str, dict[str, float]]:
    """Errors of logged steps of runs that the law has not seen, per source.

    problem: all observations, the logged steps first, one column per component of the law.
    The median is over steps, the mean over cells of equal tokens and adapters; in percent.
    """
    family = prepared.micro.family
    groups = len(set(problem.group.tolist()))
    errors = 100 * np.abs(cross_validate(problem, groups)[: len(family)])
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


def shipped_law(
    document: dict[str, Any], components: Sequence[Component]
) -> tuple[list[int], FloatArray]:
    """Which of the components a profile's law is made of, and their coefficients (ms)."""
    terms = {repr(term["factors"]): term["coefficient"] for term in document["step_time"]["terms"]}
    factor = replay.load_factor(document)
    kept, rows = [], []
    for index, entry in enumerate(components):
        keys = [repr(list(part.factors)) for part in entry.parts]
        if entry.name == LOADS or set(keys) <= set(terms):
            kept.append(index)
            rows.append(
                {key: 1e3 * part.weight for key, part in zip(keys, entry.parts, strict=True)}
            )
    names = sorted({key for row in rows for key in row} | set(terms))
    matrix = np.array([[row.get(name, 0.0) for row in rows] for name in names])
    target = np.array([terms.get(name, 1e3 * factor) for name in names])
    scale = np.abs(target).clip(1e-9)[:, None]
    found = nonnegative(matrix / scale, target / scale[:, 0])
    # Terms are written with six figures: what explains less than 1e-4 of any is their rounding.
    alive = (np.abs(matrix / scale) * found).max(axis=0) > 1e-4
    return [index for index, on in zip(kept, alive, strict=True) if on], found[alive]


def nonnegative(matrix: FloatArray, target: FloatArray) -> FloatArray:
    """Nonnegative least squares, columns scaled."""
    from scipy.optimize import nnls

    norm = np.linalg.norm(matrix, axis=0)
    return np.asarray(nnls(matrix / norm, target)[0] / norm, dtype=np.float64)


def leave_one_out(
    document: dict[str, Any],
    whole: Problem,
    replayed: Sequence[replay.Replayed],
    components: Sequence[Component],
    out: Path,
) -> list[dict[str, Any]]:
    """One profile per workload left out, into `out`, and the errors of the runs left out.

    whole: all observations, one column per component.
    """
    runs = [(run.config, run.real) for run in replayed]
    index, shipped = shipped_law(document, components)
    used = [components[k] for k in index]
    problem = whole.columns(index)
    everything = solve(problem)
    rows = []
    for name in sorted({workload(config) for config, _ in runs}):
        group = {replay.workload(config) for config, _ in runs if workload(config) == name}
        without = solve(problem, ~np.isin(problem.group, sorted(group)))
        fitted = (everything > 0) & (without > 0)
        ratio = np.where(fitted, without / np.where(fitted, everything, 1.0), 1.0)
        law = shipped * np.clip(ratio, 1 / _MOST_CHANGE, _MOST_CHANGE)
        file = out / f"{name}.json"
        profile = closing.with_law(document, used, law)
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
    above = np.searchsorted(_BATCHES, frame["running"].to_numpy())
    labels = [f"up to {edge}" for edge in _BATCHES] + [f"above {_BATCHES[-1]}"]
    frame = frame.with_columns(pl.Series("batch", [labels[k] for k in above]))
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
    whole = step_time.join(prepared.micro, replay.observations(replayed))
    rows = leave_one_out(document, whole, replayed, components, folder)
    logged = logged_steps(prepared, whole.columns(shipped_law(document, components)[0]))
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
    for entry in found:
        name = f"crossval-{entry['model']}.json"
        text = json.dumps(entry, indent=1) + "\n"
        (arguments.out / name).write_text(text, encoding="utf-8")
    for entry in found:
        for name, line in entry["logged"].items():
            print(entry["model"], name, line)
        for line in entry["grouped"]:
            print(entry["model"], line)


if __name__ == "__main__":
    main()
