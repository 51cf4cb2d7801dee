"""Who will miss an objective? Forecasts per adapter, judged on fresh seeds of the twin.

Run from a checkout: ``python experiments/objectives/run.py -o out/objectives``. Writes the table
(result.json, forecasts.parquet) and the plot (reliability.png); with ``--readme`` also the table of
the README and the plot beside it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import polars as pl

import pytwin as pt
from calibration.tables import table, write
from pytwin.catalog import Profile, load_profile
from pytwin.cli.output import print_table
from pytwin.uncertainty import brier, perturbed, reliability, uncertainty_of

_HERE = Path(__file__).resolve().parent
PROFILE = "qwen-2.5-7b-instruct@h100-64gb"
TTFT_SLO_MS = 1000.0
TPOT_SLO_MS = 30.0
SERVED = 48
DURATION_S = 300.0
# From nobody misses to everybody does: slots, and the adapters' rates (req/s, cycled).
SLOTS = (8, 12, 16, 24, 32)
SHARES = ([0.2, 0.1, 0.05], [0.3, 0.02, 0.02])
SCALES = (0.3, 0.45, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0, 2.6, 3.4)
SEEDS = 8
DRAWS = 24
FRESH_SEEDS = range(1000, 1008)
EVENTS = {
    "ttft_miss": "mean TTFT above 1,000 ms",
    "tpot_miss": "mean TPOT above 30 ms",
    "miss": "one of the two",
}


@dataclass(frozen=True)
class Truth:
    """A way to make the runs that forecasts are judged on."""

    name: str
    draws: int  # of the forecast
    moved: bool  # the truth's parameters are drawn, too


TRUTHS = (
    Truth("seeds: the profile is right", 0, False),
    Truth("parameters: the profile is off, the forecast knows", DRAWS, True),
    Truth("parameters: the profile is off, the forecast ignores it", 0, True),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("out/objectives"))
    parser.add_argument("--readme", action="store_true", help="write the README's table and plot")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    profile = load_profile(PROFILE)
    if not uncertainty_of(profile).known:
        print(f"objectives: error: {PROFILE} states no uncertainty", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        frames = [judge(truth, profile, Path(folder)) for truth in TRUTHS]
    forecasts = pl.concat(frames)
    forecasts.write_parquet(options.output / "forecasts.parquet")
    rows = [row for truth in TRUTHS for row in summary(forecasts, truth.name)]
    document = {"table": rows, "reliability": tables(forecasts)}
    (options.output / "result.json").write_text(json.dumps(document, indent=1) + "\n")
    plot(forecasts, options.output / "reliability.png")
    print_table(rows)
    took = f"{forecasts.height} forecasts judged, {time.process_time() - began:.0f} s of processor"
    print(took)
    if options.readme:
        plot(forecasts, _HERE / "reliability.png")
        write(_HERE / "README.md", "result", [*lines(rows), "", took + "."])
    return 0


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """The table as Markdown."""
    return table(list(rows[0]), [list(row.values()) for row in rows], digits=3)


def judge(truth: Truth, profile: Profile, folder: Path) -> pl.DataFrame:
    """One row per configuration, fresh run and adapter: forecasts, and what happened."""
    rng = np.random.default_rng(11)
    parts = []
    for configuration, (slots, shares, scale) in enumerate(product(SLOTS, SHARES, SCALES)):
        rates = [share * scale for share in shares]
        fleet = pt.adapters(SERVED, rates_rps=rates, ranks=[8, 16])
        traffic = pt.Workload.poisson(adapters=fleet, duration_s=DURATION_S)
        server = pt.EngineConfig(
            profile=without_rest(profile, folder), max_loras=slots, max_cpu_loras=SERVED
        )
        found = pt.predict(
            server,
            traffic,
            seeds=SEEDS,
            draws=truth.draws,
            ttft_slo_ms=TTFT_SLO_MS,
            tpot_slo_ms=TPOT_SLO_MS,
        )
        said = found.adapters.select("adapter", *EVENTS, "request_miss")
        for seed in FRESH_SEEDS:
            real = server
            if truth.moved:
                real = server.replace(profile=drawn(profile, rng, folder, seed))
            run = pt.simulate(
                real,
                traffic,
                seed=seed,
                timeseries_s=None,
                ttft_slo_ms=TTFT_SLO_MS,
                tpot_slo_ms=TPOT_SLO_MS,
            )
            parts.append(
                said.join(happened(run.adapters), on="adapter").with_columns(
                    truth=pl.lit(truth.name), configuration=configuration, seed=seed
                )
            )
    return pl.concat(parts)


def happened(adapters: pl.DataFrame) -> pl.DataFrame:
    """The events of one run; null where nothing was judged."""
    ttft = pl.col("mean_ttft_ms") > TTFT_SLO_MS
    tpot = pl.col("mean_tpot_ms") > TPOT_SLO_MS
    stalled = (pl.col("served") == 0) & (pl.col("slo_miss") > 0)
    return adapters.select(
        "adapter",
        was_ttft_miss=pl.when(stalled).then(pl.lit(True)).otherwise(ttft),
        was_tpot_miss=pl.when(stalled).then(pl.lit(True)).otherwise(tpot),
        was_miss=pl.when(stalled).then(pl.lit(True)).otherwise(ttft | tpot),
        was_request_miss="slo_miss",
        requests="offered",
    )


def without_rest(profile: Profile, folder: Path) -> str:
    """The profile without the spread that no parameter explains: the twin has none of it."""
    document = json.loads(profile.text)
    document["uncertainty"]["residual"] = {}
    path = folder / "forecast.json"
    if not path.exists():
        path.write_text(json.dumps(document))
    return str(path)


def drawn(profile: Profile, rng: np.random.Generator, folder: Path, seed: int) -> str:
    """A profile whose parameters are drawn from the stated law."""
    factors = uncertainty_of(profile).factors
    scales = {name: math.exp(rng.normal(0.0, spread)) for name, spread in factors.items()}
    path = folder / f"truth-{rng.integers(1 << 40)}-{seed}.json"
    path.write_text(perturbed(profile, scales).text)
    return str(path)


def pairs(forecasts: pl.DataFrame, truth: str, event: str) -> tuple[list[float], list[bool]]:
    judged = forecasts.filter(pl.col("truth") == truth).select(event, f"was_{event}").drop_nulls()
    return judged[event].to_list(), judged[f"was_{event}"].to_list()


def summary(forecasts: pl.DataFrame, truth: str) -> list[dict[str, Any]]:
    """Brier score of each event beside that of always saying how often it happens."""
    rows = []
    for event, label in EVENTS.items():
        said, was = pairs(forecasts, truth, event)
        often = sum(was) / len(was)
        score, reference = brier(said, was), often * (1 - often)
        table = reliability(said, was)
        off = sum(row["forecasts"] * abs(row["mean_forecast"] - row["happened"]) for row in table)
        rows.append(
            {
                "truth": truth,
                "adapter's event": label,
                "forecasts": len(said),
                "happened": round(often, 3),
                "brier": round(score, 4),
                "brier of the base rate": round(reference, 4),
                "skill": round(1 - score / reference, 3),
                "mean reliability gap": round(off / len(said), 4),
            }
        )
    rows.append(requests(forecasts, truth))
    return rows


def requests(forecasts: pl.DataFrame, truth: str) -> dict[str, Any]:
    """The same for single requests: the forecast share of an adapter's requests that miss."""
    judged = forecasts.filter(pl.col("truth") == truth).drop_nulls(
        ["request_miss", "was_request_miss"]
    )
    weight, said, was = (
        judged[name].to_numpy() for name in ("requests", "request_miss", "was_request_miss")
    )
    often = float(np.average(was, weights=weight))
    # Of n requests with share w that missed: mean of (p - y)**2 is w (1 - p)**2 + (1 - w) p**2.
    score = float(np.average(was * (1 - said) ** 2 + (1 - was) * said**2, weights=weight))
    bins = np.minimum((said * 10).astype(int), 9)
    gap = 0.0
    for k in np.unique(bins):
        inside = bins == k
        mean, share = (np.average(v[inside], weights=weight[inside]) for v in (said, was))
        gap += float(weight[inside].sum()) * abs(float(mean - share))
    return {
        "truth": truth,
        "adapter's event": "a request misses",
        "forecasts": int(weight.sum()),
        "happened": round(often, 3),
        "brier": round(score, 4),
        "brier of the base rate": round(often * (1 - often), 4),
        "skill": round(1 - score / (often * (1 - often)), 3),
        "mean reliability gap": round(gap / float(weight.sum()), 4),
    }


def tables(forecasts: pl.DataFrame) -> dict[str, Any]:
    return {
        truth.name: {event: reliability(*pairs(forecasts, truth.name, event)) for event in EVENTS}
        for truth in TRUTHS
    }


def plot(forecasts: pl.DataFrame, path: Path) -> None:
    """A panel per truth: how often it happened against what was said."""
    figure, panels = plt.subplots(
        2, len(TRUTHS), figsize=(11, 4.6), height_ratios=(3, 1), sharex=True, layout="constrained"
    )
    for column, truth in enumerate(TRUTHS):
        curve, counts = panels[0][column], panels[1][column]
        curve.plot([0, 1], [0, 1], color="#9a9a9a", linewidth=1)
        for event, colour in zip(EVENTS, ("#30638e", "#d1495b", "#2b2b2b"), strict=True):
            said, was = pairs(forecasts, truth.name, event)
            table = reliability(said, was)
            x = [row["mean_forecast"] for row in table]
            y = [row["happened"] for row in table]
            curve.plot(x, y, "o-", color=colour, markersize=4, linewidth=1, label=EVENTS[event])
            counts.hist(said, bins=20, range=(0, 1), histtype="step", color=colour)
        curve.set_title(truth.name, fontsize=9)
        counts.set_yscale("log")
        counts.set_xlabel("forecast probability")
    panels[0][0].set_ylabel("how often it happened")
    panels[1][0].set_ylabel("forecasts")
    panels[0][0].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
