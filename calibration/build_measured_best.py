"""Write the best measured setting per mix: pytwin/data/measured_best.json.

    python -m calibration.build_measured_best --traces DIR

Of the ml_test runs of one mix (model, rates, ranks), the best is the one of highest measured total
throughput among those that served at least 90 % of the offered tokens. Nothing else of the runs is
written.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
from pathlib import Path

import polars as pl

from calibration.models import KNOWN_BAD, MODELS
from pytwin.calibrate import read

LEAST_SERVED_RATIO = 0.9


def build(traces: Path) -> dict[str, object]:
    """The document: one entry per measured mix, sorted by model, rates and ranks."""
    profiles = {model.name: model.profile for model in MODELS}
    runs = read.runs(traces).filter(
        pl.col("family") == "ml_test",
        pl.col("status") == "ok",
        ~pl.col("run_id").is_in(KNOWN_BAD),
        pl.col("model").is_in(list(profiles)),
    )
    mix = ["model", "adapter_rates_pattern", "adapter_rank_pattern"]
    best = (
        runs.with_columns(pl.len().over(mix).alias("runs"))
        .filter(pl.col("served_ratio_est") >= LEAST_SERVED_RATIO)
        .sort("total_throughput", descending=True)
        .group_by(mix, maintain_order=True)
        .first()
        .sort(mix)
    )
    return {
        "date": dt.date.today().isoformat(),
        "source": "ml_test runs of FerranAgulloLopez/GPULLMAdapterOptimization "
        "(arXiv:2508.08343): vLLM 0.8.5 (V1, fork), one 64 GB Hopper GPU, one hour each",
        "rule": "highest measured total throughput among runs serving >= 90 % of offered tokens",
        "command": "python -m calibration.build_measured_best --traces DIR",
        "mixes": [
            {
                "model": row["model"],
                "profile": profiles[row["model"]],
                "rates_rps": row["adapter_rates_pattern"],
                "ranks": row["adapter_rank_pattern"],
                "max_lora_rank": row["max_lora_rank"],
                "served_adapters": row["n_adapters"],
                "max_loras": row["max_loras"],
                "total_throughput": round(row["total_throughput"], 1),
                "runs": row["runs"],
            }
            for row in best.iter_rows(named=True)
        ],
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write the best measured setting per mix.")
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("pytwin/data/measured_best.json"))
    arguments = parser.parse_args()
    document = json.dumps(build(arguments.traces), indent=1)
    arguments.out.write_text(document + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
