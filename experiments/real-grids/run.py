"""Recommendations against measured grids: python experiments/real-grids/run.py --traces DIR.

Each workload of ml_test is a measured grid over slots and served adapters. For each the question
goes to `pytwin recommend` as a user would ask it; regret is in *measured* throughput. Beside it:
the twin alone (every setting simulated), and the authors' way (a random forest trained on their
own twin's labels, the grid's workloads left out).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import pytwin as pt
from calibration.models import KNOWN_BAD, MODELS
from pytwin.learn.describe import Traffic
from pytwin.learn.question import Objective, Question, grid
from pytwin.learn.recommend import recommend

SAFE_RATIO, STARVED_RATIO, LATE_MS = 0.92, 0.88, 3000.0


def measured(traces: Path) -> pl.DataFrame:
    """The finished runs of the grids."""
    models = [model.name for model in MODELS]
    return pl.read_parquet(traces / "runs.parquet").filter(
        pl.col("family") == "ml_test",
        pl.col("status") == "ok",
        ~pl.col("run_id").is_in(KNOWN_BAD),
        pl.col("model").is_in(models),
    )


def ask(rows: pl.DataFrame, objective: str, models: str | None) -> tuple[dict[str, Any], float]:
    """The recommendation for one workload, and the seconds that it took."""
    first = rows.row(0, named=True)
    profile = next(model.profile for model in MODELS if model.name == first["model"])
    traffic = Traffic(tuple(first["adapter_rates_pattern"]), tuple(first["adapter_rank_pattern"]))
    settings = grid(
        traffic,
        rows["n_adapters"].unique().to_list(),
        rows["max_loras"].unique().to_list(),
        first["max_lora_rank"],
    )
    question = Question(pt.EngineConfig(profile=profile), traffic, settings, Objective(objective))
    start = time.perf_counter()
    found = recommend(question, models=models).to_dict()
    return found, time.perf_counter() - start


def look_up(rows: pl.DataFrame, answer: dict[str, Any]) -> dict[str, Any] | None:
    """The measured run of a recommendation, or of its cheapest equivalent that was measured."""
    for item in (answer, *answer["equivalent"]):
        run = rows.filter(
            pl.col("n_adapters") == item["served_adapters"],
            pl.col("max_loras") == item["max_loras"],
        )
        if len(run):
            return run.row(0, named=True)
    return None


def best(rows: pl.DataFrame, objective: str) -> dict[str, Any]:
    """The best measured setting that is not starved, or that is on time."""
    kept = (
        rows.filter(pl.col("served_ratio_est") >= SAFE_RATIO)
        if objective == "paper"
        else rows.filter(pl.col("mean_ttft_ms") < LATE_MS)
    )
    return kept.sort("total_throughput", descending=True).row(0, named=True)


def judge(rows: pl.DataFrame, objective: str, models: str | None) -> dict[str, Any]:
    """One workload's line of the table."""
    answer, seconds = ask(rows, objective, models)
    first = rows.row(0, named=True)
    line: dict[str, Any] = {
        "model": first["model"],
        "rates_rps": first["adapter_rates_pattern"],
        "ranks": first["adapter_rank_pattern"],
        "feasible": answer["feasible"],
        "seconds": round(seconds, 2),
    }
    top = best(rows, objective)
    line |= {
        "best": [top["n_adapters"], top["max_loras"]],
        "best_throughput": top["total_throughput"],
    }
    if not answer["feasible"]:
        return line
    line["answer"] = [answer["served_adapters"], answer["max_loras"]]
    line["predicted_throughput"] = answer["total_throughput"]
    run = look_up(rows, answer)
    if run is None:
        return line | {"measured": False}
    return line | {
        "measured": [run["n_adapters"], run["max_loras"]],
        "throughput": run["total_throughput"],
        "served_ratio": run["served_ratio_est"],
        "mean_ttft_ms": run["mean_ttft_ms"],
        "regret_percent": 100 * max(0.0, 1 - run["total_throughput"] / top["total_throughput"]),
        "throughput_error_percent": 100
        * abs(answer["total_throughput"] / run["total_throughput"] - 1),
        "served_half_smape_percent": 100
        * abs(answer["served_adapters"] - top["n_adapters"])
        / (answer["served_adapters"] + top["n_adapters"]),
    }


def paper_models(traces: Path, workloads: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the authors' models answer: forests on their twin's labels, these workloads left out."""
    from sklearn.ensemble import RandomForestRegressor

    labels = pl.read_parquet(traces / "paper_ml_labels.parquet").filter(pl.col("source") == "twin")
    names = [f"{what}_{of}" for of in ("rate", "size") for what in ("max", "min", "mean", "std")]
    answers = []
    for item in workloads:
        rates, ranks = np.array(item["rates_rps"]), np.array(item["ranks"])
        row = [f(values) for values in (rates, ranks) for f in (np.max, np.min, np.mean, np.std)]
        mine = labels.filter(pl.col("model") == item["model"])
        seen = pl.all_horizontal(
            (pl.col(name) - value).abs() < 1e-6 for name, value in zip(names, row, strict=True)
        )
        train = mine.filter(~seen)
        found = {}
        for target in ("max_served_adapters", "max_adapter_slots"):
            forest = RandomForestRegressor(n_estimators=200, random_state=0)
            forest.fit(train.select(names).to_numpy(), train[target].to_numpy())
            found[target] = float(forest.predict([row])[0])
        answers.append(found)
    return answers


def judge_paper(rows: pl.DataFrame, found: dict[str, Any]) -> dict[str, Any]:
    """The measured run nearest to the authors' answer."""
    near = rows.with_columns(
        (pl.col("n_adapters").log() - np.log(found["max_served_adapters"]))
        .abs()
        .alias("by_served"),
        (pl.col("max_loras").log() - np.log(found["max_adapter_slots"])).abs().alias("by_slots"),
    ).sort("by_served", "by_slots")
    run, top = near.row(0, named=True), best(rows, "paper")
    return {
        "measured": [run["n_adapters"], run["max_loras"]],
        "served_ratio": run["served_ratio_est"],
        "mean_ttft_ms": run["mean_ttft_ms"],
        "regret_percent": 100 * max(0.0, 1 - run["total_throughput"] / top["total_throughput"]),
    }


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of the issue's targets."""
    known = [line for line in lines if "regret_percent" in line]
    column = {name: np.array([line[name] for line in known]) for name in (
        "regret_percent", "served_ratio", "mean_ttft_ms"
    )}  # fmt: skip
    out = {
        "workloads": len(lines),
        "answered_and_measured": len(known),
        "mean_regret_percent": float(column["regret_percent"].mean()),
        "worst_regret_percent": float(column["regret_percent"].max()),
        "least_served_ratio": float(column["served_ratio"].min()),
        "on_time": int((column["mean_ttft_ms"] < LATE_MS).sum()),
    }
    for name in ("throughput_error_percent", "served_half_smape_percent", "seconds"):
        if name in known[0]:
            out[f"mean_{name}"] = float(np.mean([line[name] for line in known]))
    return out


def main() -> None:
    """Print the tables, and write result.json beside this file's -o directory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, default=Path("out/real-grids"))
    parser.add_argument("--models", default="best")
    options = parser.parse_args()
    runs = measured(options.traces)
    key = ["model", "adapter_rates_pattern", "adapter_rank_pattern"]
    grids = [rows for _, rows in runs.sort(key).group_by(key, maintain_order=True)]
    result: dict[str, Any] = {}
    for objective in ("paper", "slo"):
        for name, models in (("recommend", options.models), ("twin alone", None)):
            lines = [judge(rows, objective, models) for rows in grids]
            result[f"{name}, {objective}"] = {"summary": summary(lines), "workloads": lines}
    lines = [judge_paper(rows, found) for rows, found in zip(
        grids, paper_models(options.traces, result["recommend, paper"]["workloads"]), strict=True
    )]  # fmt: skip
    result["authors' forest, paper"] = {"summary": summary(lines), "workloads": lines}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    for name, part in result.items():
        print(name, json.dumps(part["summary"]))


if __name__ == "__main__":
    main()
