"""The main job on a small spec, and the plot it draws."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pytwin.report.sweep_plots import Measured, throughput_overview
from pytwin.sweep import Design, load_spec
from tests.conftest import ROOT

DEMO = ROOT / "experiments" / "demo"


def demo(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DEMO / "run.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_the_demo_runs_again_and_moves_other_versions_aside(
    document: dict[str, Any], spec_file: Callable[[dict[str, Any]], Path], tmp_path: Path
) -> None:
    small = document | {
        "base": {name: value for name, value in document["base"].items() if name != "ranks"},
        "list": [{"label": "even", "ranks": [8]}, {"label": "odd", "ranks": [16, 32]}],
        "grid": document["grid"] | {"rates_rps": [[0.5, 0.25]]},
    }
    spec, out = spec_file(small), tmp_path / "out"
    first = demo("-o", out, "--spec", spec)
    assert first.returncode == 0, first.stderr
    assert "28 ok, 0 infeasible, 0 failed" in first.stdout
    best = pl.read_csv(out / "best.csv")
    assert best["mix"].to_list() == ["even", "odd"]
    assert best["measured_max_loras"].null_count() == 2  # nobody has measured these
    assert (out / "throughput.png").read_bytes().startswith(b"\x89PNG")
    again = demo("-o", out, "--spec", spec)
    assert "finished before" in again.stdout
    assert again.stdout.splitlines()[1:] == first.stdout.splitlines()[1:]
    spec_file(small | {"seeds": 1})
    changed = demo("-o", out, "--spec", spec)
    assert changed.returncode == 0, changed.stderr
    assert "14 ok" in changed.stdout
    assert len(list((out / "sweep.old-1").glob("*.parquet"))) == 6


def test_the_demo_spec_is_the_main_job() -> None:
    """At least 200 one-hour configurations: six mixes on both models."""
    design = Design(load_spec(DEMO / "spec.yaml"))
    assert design.n_rows >= 200
    rows = list(design.rows(0, design.n_rows))
    assert {row["duration_s"] for row in rows} == {3600.0}
    mixes = {(row["profile"], *row["rates_rps"], *row["ranks"]) for row in rows}
    assert len(mixes) == 12
    assert len({mix[0] for mix in mixes}) == 2
    assert all(row["max_loras"] <= row["served_adapters"] == row["max_cpu_loras"] for row in rows)


def test_starved_points_are_hollow_and_the_best_is_a_star() -> None:
    points = [(16, 100.0, 0), (32, 180.0, 0), (64, 200.0, 1)]
    frame = pl.DataFrame(
        {
            "status": ["ok"] * 3,
            "served_adapters": [served for served, _, _ in points],
            "max_loras": [8] * 3,
            "total_throughput": [throughput for _, throughput, _ in points],
            "offered_token_throughput": [100.0, 190.0, 400.0],
            "starved": [starved for _, _, starved in points],
        }
    )
    figure = throughput_overview([("a", frame, Measured(32, 8, 175.0))], title="t", columns=2)
    panel, unused = figure.axes
    assert not unused.get_visible()
    dots, star, diamond = panel.collections
    white = [tuple(face[:3]) == (1.0, 1.0, 1.0) for face in dots.get_facecolors()]
    assert white == [False, False, True]
    assert star.get_offsets().tolist() == [[32, 0.18]]
    assert diamond.get_offsets().tolist() == [[32, 0.175]]
    assert panel.get_ylim()[1] > 0.2
