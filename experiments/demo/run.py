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
    except PytwinError as error:
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
    measured = measured_best()
    mixes = frame.select(*MIX, "rates_rps", "ranks").unique(list(MIX), maintain_order=True)
    mixes = mixes.sort(pl.col("rates_rps").list.mean(), "profile")
    best = {(row["label"], row["profile"]): row for row in best_settings(frame, MIX).to_dicts()}
    panels, rows = [], []
    for mix in mixes.iter_rows(named=True):
        model = load_profile(mix["profile"]).model
        real = measured.get(_key(model, mix["rates_rps"], mix["ranks"]))
        of_mix = frame.filter(
            (pl.col("label") == mix["label"]) & (pl.col("profile") == mix["profile"])
        )
        panels.append((f"{mix['label']} · {model}", of_mix, real))
        rows.append(table_row(mix, model, best.get((mix["label"], mix["profile"])), of_mix, real))
    print_table(
        rows,
        title="Best setting per mix: highest throughput that does not starve (1 % ties: cheapest)",
    )
    figure = throughput_overview(
        panels, title="One hour of each mix: throughput by slots and served adapters"
    )
    plot = output / "throughput.png"
    figure.savefig(plot, dpi=150)
    pl.DataFrame(rows).write_csv(output / "best.csv")
    print(f"plot: {plot}\ntable: {output / 'best.csv'}")


def table_row(
    mix: dict[str, Any],
    model: str,
    best: dict[str, Any] | None,
    frame: pl.DataFrame,
    real: Measured | None,
) -> dict[str, Any]:
    """One line of the table; the twin's figure at the measured setting shows how well it fits."""
    at_real = frame.filter(
        (pl.col("served_adapters") == (real.served_adapters if real else -1))
        & (pl.col("max_loras") == (real.max_loras if real else -1))
    )["total_throughput"]
    return {
        "mix": mix["label"],
        "rates_rps": " ".join(f"{rate:g}" for rate in mix["rates_rps"]),
        "ranks": " ".join(map(str, mix["ranks"])),
        "model": model,
        "best served": best["served_adapters"] if best else None,
        "slots": best["max_loras"] if best else None,
        "tokens/s": round(best["total_throughput"]) if best else None,
        "measured served": real.served_adapters if real else None,
        "measured slots": real.max_loras if real else None,
        "measured tokens/s": round(real.total_throughput) if real else None,
        "twin there": round(at_real.mean()) if at_real.drop_nulls().len() else None,  # type: ignore[arg-type]
    }


def measured_best() -> dict[tuple[Any, ...], Measured]:
    """Best measured setting per mix, from the package's dated data file."""
    source = files("pytwin.data") / "measured_best.json"
    if not source.is_file():
        return {}
    data = json.loads(source.read_text(encoding="utf-8"))
    print(f"measured: {data['source']} ({data['date']})")
    return {
        _key(mix["model"], mix["rates_rps"], mix["ranks"]): Measured(
            mix["served_adapters"], mix["max_loras"], mix["total_throughput"]
        )
        for mix in data["mixes"]
    }


def _key(model: str, rates_rps: list[float], ranks: list[int]) -> tuple[Any, ...]:
    return model, tuple(rates_rps), tuple(ranks)


if __name__ == "__main__":
    sys.exit(main())
