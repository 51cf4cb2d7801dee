"""The benchmark's own arithmetic, and that its commands run; nothing here is timed."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def harness() -> Iterator[dict[str, ModuleType]]:
    sys.path.insert(0, str(ROOT / "experiments" / "speed"))
    try:
        yield {name: importlib.import_module(name) for name in ("bench", "cases", "grid")}
    finally:
        del sys.path[0]


def grid_of(rows: int) -> pl.DataFrame:
    """A grid in the form of the authors' table."""
    served = [16 + 4 * place for place in range(rows)]
    return pl.DataFrame(
        {
            "model": ["llama-3.1-8b-instruct", "qwen-2.5-7b-instruct"] * (rows // 2),
            "config": [f"c{place}" for place in range(rows)],
            "adapter_slots": [16] * rows,
            "served_adapters": served,
            "available_gpu_memory": [300_000] * rows,
            "arrivals": [int(3600 * 0.001 * count) for count in served],
            "twin_wall_s": [36.0] * rows,
            "rates": [[0.00125, 0.00075]] * rows,
            "sizes": [[8, 16]] * rows,
        },
        schema_overrides={"rates": pl.List(pl.Float32), "sizes": pl.List(pl.Int8)},
    )


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.37, 1.0])
def test_the_sample_is_one_of_each_stratum(harness: dict[str, ModuleType], fraction: float) -> None:
    grid = grid_of(200)
    sample = harness["grid"].draw(grid, fraction, 3)
    assert sample["weight"].sum() == 200
    assert sample.height == max(2, round(200 * fraction))
    assert sample["arrivals"].is_sorted()
    ends = sample["weight"].cum_sum()
    order = grid.sort("arrivals")["config"].to_list()
    for start, end, config in zip([0, *ends[:-1]], ends, sample["config"], strict=True):
        assert config in order[start:end]
    # What is known for the whole grid is estimated without bias: here, exactly.
    assert (sample["twin_wall_s"] * sample["weight"]).sum() == grid["twin_wall_s"].sum()


def test_the_standard_error_is_that_of_drawn_sums(harness: dict[str, ModuleType]) -> None:
    costs = np.random.default_rng(0).normal(10.0, 2.0, size=(4000, 20))
    told = np.mean([harness["grid"].standard_error(list(row)) ** 2 for row in costs])
    assert told == pytest.approx(costs.sum(axis=1).var(), rel=0.1)


def test_the_grid_runs_and_scales_up(
    harness: dict[str, ModuleType],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, kept = tmp_path / "grid.parquet", tmp_path / "rows.parquet"
    grid_of(20).write_parquet(path)
    monkeypatch.setattr(
        sys, "argv", ["grid", str(path), "--fraction", "0.3", "--batch", "4", "--rows", str(kept)]
    )
    assert harness["grid"].main() == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (told["configurations"], told["simulated"]) == (20, 6)
    assert told["cpu_hours"] >= 0
    assert told["authors_cpu_hours_same_sample"] == 0.2
    rows = pl.read_parquet(kept)
    assert rows["rates_rps"].to_list() == [[0.00125, 0.00075]] * 6
    assert (rows["num_gpu_blocks_override"] == 18_750).all()
    assert (rows["max_connections"] == 25_000).all()
    assert told["arrivals"] == pytest.approx(told["arrivals_of_the_grid_by_the_sample"], rel=0.2)


def test_a_grid_that_is_absent(
    harness: dict[str, ModuleType],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["grid", "absent/grid.parquet"])
    assert harness["grid"].main() == 2
    assert "give TRACES=DIR" in capsys.readouterr().err


def test_cases_are_told_apart_and_make_their_requests(harness: dict[str, ModuleType]) -> None:
    cases = harness["cases"].CASES
    names = [case.name for case in cases]
    assert len(set(names)) == len(names)
    assert {case.group for case in cases} == set(harness["cases"].GROUPS)
    for case in cases:
        assert case.traffic().total_rate_rps * case.traffic().duration_s == pytest.approx(
            case.requests
        )
        assert case.server().max_cpu_loras >= case.adapters


def test_a_case_runs_and_makes_a_table(
    harness: dict[str, ModuleType],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(harness["bench"], "instructions", lambda name, size: None)
    path = tmp_path / "bench.json"
    arguments = ["bench", "--match", "64 adapters, 32 slots, 40 req/s", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert harness["bench"].main() == 0
    (case,) = json.loads(path.read_text())["cases"]
    assert 9000 < case["requests"] < 11_000
    assert case["ns_per_request"] > 0
    table = capsys.readouterr().out
    assert "| peers: 64 adapters, 32 slots, 40 req/s (saturated) |" in table
    monkeypatch.setattr(sys, "argv", ["bench", "--match", "no such case"])
    assert harness["bench"].main() == 2
