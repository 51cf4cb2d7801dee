"""CPU-hours of the authors' training grid (arXiv:2508.08343: 75,480 one-hour simulations).

Run from a checkout: ``python experiments/speed/grid.py TRACES/paper_twin_simdataset.parquet``. The
table says which configurations were simulated, how many requests arrived, and how long the
authors' simulator took; nothing else of it is read.

The grid is sorted by arrivals and cut into strata of equal size; one configuration of each is
drawn at random and simulated as a sweep does it (rows, core, frame, Parquet). Processor time of
all threads is taken per batch of neighbouring strata and scaled up; its standard error comes from
the differences of neighbouring batches.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pytwin.catalog import shipped_profiles
from pytwin.simulation import Twin
from pytwin.sweep.expand import Design
from pytwin.sweep.rows import simulate_rows
from pytwin.sweep.spec import parse_spec
from pytwin.sweep.store import encode

BLOCK_SIZE = 16
SHOWN = ("arrived", "refused", "completed", "steps", "preemptions", "max_running", "max_waiting")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("grid", type=Path, help="paper_twin_simdataset.parquet")
    parser.add_argument("--fraction", type=float, default=0.02, help="of the grid (0.02)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw and of the simulations")
    parser.add_argument("--workers", type=int, default=1, help="threads (1)")
    parser.add_argument("--batch", type=int, default=10, help="configurations timed together (10)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
                        help="one more row key for every configuration")  # fmt: skip
    parser.add_argument("--rows", type=Path, help="write the simulated rows here (Parquet)")
    options = parser.parse_args()
    if not options.grid.is_file():
        print(f"grid ({options.grid}) is not there: give TRACES=DIR, the directory of "
              "paper_twin_simdataset.parquet", file=sys.stderr)  # fmt: skip
        return 2
    if not 0 < options.fraction <= 1:
        print(f"fraction ({options.fraction}) must be > 0 and <= 1", file=sys.stderr)
        return 2
    settings = {
        key: json.loads(value) for key, _, value in (s.partition("=") for s in options.settings)
    }
    sample = draw(pl.read_parquet(options.grid), options.fraction, options.seed)
    report = measure(sample, options, settings)
    print(json.dumps(report, indent=2))
    return 0


def draw(grid: pl.DataFrame, fraction: float, seed: int) -> pl.DataFrame:
    """One configuration from each of `fraction` x rows strata of neighbours in arrivals.

    Column `weight` is the size of the stratum: the weights sum to the rows of the grid.
    """
    ordered = grid.sort("arrivals", "model", "config", "adapter_slots", "served_adapters")
    strata = max(2, round(fraction * grid.height))
    ends = np.linspace(0, grid.height, strata + 1).round().astype(np.int64)
    places = np.random.default_rng(seed).integers(ends[:-1], ends[1:])
    return ordered[places].with_columns(weight=pl.Series(np.diff(ends)))


def rows_of(sample: pl.DataFrame, seed: int, settings: dict[str, Any]) -> Design:
    """The drawn configurations as the rows of a sweep, in the same order."""
    profiles = {name.partition("@")[0]: name for name in shipped_profiles()}
    listed = [
        {
            "profile": profiles[row["model"]],
            "max_loras": row["adapter_slots"],
            "max_cpu_loras": row["served_adapters"],
            "served_adapters": row["served_adapters"],
            # The table keeps rates as 32-bit numbers: 0.00625, not 0.0062500000931.
            "rates_rps": [float(f"{rate:.6g}") for rate in row["rates"]],
            "ranks": list(row["sizes"]),
            # The memory that the authors' simulator was given, so that each configuration starts.
            "num_gpu_blocks_override": row["available_gpu_memory"] // BLOCK_SIZE,
        }
        for row in sample.iter_rows(named=True)
    ]
    base = {"duration_s": 3600, "lengths": "sharegpt", "max_connections": 25_000} | settings
    return Design(parse_spec({"base": base, "list": listed, "seeds": [seed]}))


def measure(
    sample: pl.DataFrame, options: argparse.Namespace, settings: dict[str, Any]
) -> dict[str, Any]:
    """Simulate the sample batch by batch, and scale its processor time to the grid."""
    design = rows_of(sample, options.seed, settings)
    twin = Twin()
    simulate_rows(twin, list(design.rows(0, 1)), design.columns, options.workers)  # reads profiles
    weights = sample["weight"].to_numpy()
    began, frames, batches = time.perf_counter(), [], []
    for start in range(0, design.n_rows, options.batch):
        stop = min(start + options.batch, design.n_rows)
        before = time.process_time()
        rows = list(design.rows(start, stop))
        frame = simulate_rows(twin, rows, design.columns, options.workers)
        size = len(encode(frame))
        seconds = time.process_time() - before
        frames.append(frame.with_columns(batch_cpu_s=pl.lit(seconds / frame.height)))
        weight = float(weights[start:stop].sum())
        batches.append((seconds / (stop - start) * weight, weight, size))
        if sys.stderr.isatty():
            print(f"\r{stop}/{design.n_rows}", end="", file=sys.stderr)
    wall = time.perf_counter() - began
    result = pl.concat(frames)
    if options.rows:
        result.write_parquet(options.rows)
    counts = dict(result["status"].value_counts().iter_rows())
    if set(counts) != {"ok"}:
        reason = result.filter(pl.col("status") != "ok")["error"][0]
        raise SystemExit(f"not every configuration was simulated ({counts}): {reason}")
    total = sum(cost for cost, _, _ in batches)
    authors = sample.select((pl.col("twin_wall_s") * pl.col("weight")).sum()).item() / 3600
    means = result.select(pl.col(name).mean() for name in SHOWN if name in result.columns)
    return {
        "configurations": int(weights.sum()),
        "simulated": design.n_rows,
        "cpu_hours": round(total / 3600, 4),
        "standard_error_cpu_hours": round(standard_error([c for c, _, _ in batches]) / 3600, 4),
        "authors_cpu_hours_same_sample": round(authors, 1),
        "arrivals": float(f"{(result['arrived'].to_numpy() * weights).sum():.4g}"),
        "arrivals_of_the_grid_by_the_sample": float(
            f"{(sample['arrivals'].to_numpy().astype(np.int64) * weights).sum():.4g}"
        ),
        "mean_per_configuration": {k: round(v, 1) for k, v in means.row(0, named=True).items()},
        "configurations_per_core_s": round(
            design.n_rows / (sum(f["batch_cpu_s"].sum() for f in frames)), 2
        ),
        "ns_per_arrival": round(
            1e9 * total / float((result["arrived"].to_numpy() * weights).sum()), 2
        ),
        "wall_s": round(wall, 1),
        "workers": options.workers,
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "settings": settings,
    }


def standard_error(costs: list[float]) -> float:
    """Of the sum, from differences of neighbours (collapsed strata)."""
    pairs = zip(costs[::2], costs[1::2], strict=False)
    return math.sqrt(sum((a - b) ** 2 for a, b in pairs))


if __name__ == "__main__":
    sys.exit(main())
