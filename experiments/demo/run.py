"""The main job: the demo sweep, its plot, and the best setting per mix beside the measured one.

Run from a checkout: ``python experiments/demo/run.py -o out/demo``. Run again, it goes on where it
was stopped; results of another version are moved aside, never overwritten.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import polars as pl

import pytwin.sweep
from pytwin.catalog import load_profile
from pytwin.cli.output import print_table
from pytwin.errors import PytwinError
from pytwin.report.sweep_plots import Measured, throughput_overview
from pytwin.sweep.best import best_settings
from pytwin.sweep.manifest import ChangedError
from pytwin.sweep.progress import ProgressView

MIX = ("label", "profile")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("out/demo"))
    parser.add_argument("--spec", type=Path, default=Path(__file__).with_name("spec.yaml"))
    parser.add_argument("--workers", type=int, default=None)
    options = parser.parse_args()
    try:
        directory = options.output / "sweep"
        run_sweep(options.spec, directory, options.workers)
        frame = pytwin.sweep.open(directory).collect()
        report(frame, options.output)
    except (PytwinError, OSError) as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("demo: interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 1 if (frame["status"] == "failed").any() else 0


def run_sweep(spec_path: Path, directory: Path, workers: int | None) -> None:
    """Run or finish the sweep; one of another version is moved aside first."""
    spec = pytwin.sweep.load_spec(spec_path)
    began = time.monotonic()
    try:
        with ProgressView(spec.name) as view:
            result = pytwin.sweep.run_sweep(
                spec, directory, resume=True, workers=workers, observer=view
            )
    except ChangedError as error:
        aside = next(
            path
            for number in range(1, 10_000)
            if not (path := directory.with_name(f"{directory.name}.old-{number}")).exists()
        )
        directory.rename(aside)
        print(f"demo: {error}\ndemo: it was moved to {aside}", file=sys.stderr)
        return run_sweep(spec_path, directory, workers)
    seconds = time.monotonic() - began
    counts = ", ".join(f"{count} {status}" for status, count in result.status_counts.items())
    took = f"in {seconds:.1f} s" if result.new_parts else "(finished before)"
    print(f"{result.rows} one-hour configurations {took}: {counts}; Parquet in {directory}")
    return None


def report(frame: pl.DataFrame, output: Path) -> None:
    """Plot and table."""
    source, measured = measured_best()
    mixes = frame.select(*MIX, "rates_rps", "ranks").unique(list(MIX), maintain_order=True)
    mixes = mixes.sort(pl.col("rates_rps").list.mean(), "profile")
    best = {(row["label"], row["profile"]): row for row in best_settings(frame, MIX).to_dicts()}
    panels, rows = [], []
    for mix in mixes.iter_rows(named=True):
        model = load_profile(mix["profile"]).model
        real = measured.get(_key(mix["profile"], mix["rates_rps"], mix["ranks"]))
        of_mix = frame.filter(
            (pl.col("label") == mix["label"]) & (pl.col("profile") == mix["profile"])
        )
        panels.append((f"{mix['label']} · {model}", of_mix, real))
        rows.append(table_row(mix, model, best.get((mix["label"], mix["profile"])), of_mix, real))
    table = pl.DataFrame(rows, infer_schema_length=None)
    table.write_csv(output / "best.csv")
    figure = throughput_overview(
        panels, title="One hour of each mix: throughput by slots and served adapters"
    )
    figure.savefig(output / "throughput.png", dpi=110)
    print_table(
        [shown(row) for row in rows],
        title="Best setting per mix, as served adapters / slots, and its throughput in tokens/s",
    )
    print(
        "twin: highest throughput that does not starve; of settings within 1 % the fewest slots, "
        f"then the fewest adapters\n{source}\n"
        f"plot: {output / 'throughput.png'}\ntable: {output / 'best.csv'}"
    )


def table_row(
    mix: dict[str, Any],
    model: str,
    best: dict[str, Any] | None,
    frame: pl.DataFrame,
    real: Measured | None,
) -> dict[str, Any]:
    """One mix: the twin's best, the measured best, and the twin at the measured best."""
    there = frame.filter(
        (pl.col("served_adapters") == (real.served_adapters if real else -1))
        & (pl.col("max_loras") == (real.max_loras if real else -1))
    )["total_throughput"].mean()
    return {
        "mix": mix["label"],
        "model": model,
        "rates_rps": " ".join(f"{rate:g}" for rate in mix["rates_rps"]),
        "ranks": " ".join(map(str, mix["ranks"])),
        "served_adapters": best["served_adapters"] if best else None,
        "max_loras": best["max_loras"] if best else None,
        "total_throughput": best["total_throughput"] if best else None,
        "measured_served_adapters": real.served_adapters if real else None,
        "measured_max_loras": real.max_loras if real else None,
        "measured_total_throughput": real.total_throughput if real else None,
        "twin_at_measured": there,
    }


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """The same for a person: fewer columns, whole tokens."""

    def setting(prefix: str) -> str:
        served, slots = row[f"{prefix}served_adapters"], row[f"{prefix}max_loras"]
        return "-" if served is None else f"{served} / {slots}"

    def tokens(name: str) -> str:
        return "-" if row[name] is None else f"{row[name]:,.0f}"

    return {
        "mix": row["mix"],
        "model": row["model"],
        "rates (req/s)": row["rates_rps"],
        "ranks": row["ranks"],
        "twin's best": setting(""),
        "tokens/s": tokens("total_throughput"),
        "measured best": setting("measured_"),
        "measured": tokens("measured_total_throughput"),
        "twin there": tokens("twin_at_measured"),
    }


def measured_best() -> tuple[str, dict[tuple[Any, ...], Measured]]:
    """Where they come from, and the best measured setting per mix: the package's data file."""
    data = json.loads((files("pytwin.data") / "measured_best.json").read_text(encoding="utf-8"))
    best = {
        _key(mix["profile"], mix["rates_rps"], mix["ranks"]): Measured(
            mix["served_adapters"], mix["max_loras"], mix["total_throughput"]
        )
        for mix in data["mixes"]
    }
    return f"measured: {data['rule']}; {data['source']} ({data['date']})", best


def _key(profile: str, rates_rps: list[float], ranks: list[int]) -> tuple[Any, ...]:
    return profile, tuple(rates_rps), tuple(ranks)


if __name__ == "__main__":
    sys.exit(main())
