"""The verb, its rows and its report."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest


@pytest.fixture
def validate(cli, tmp_path):
    def run(folder: Path, *flags: object) -> tuple[pl.DataFrame, dict]:
        done = cli(
            "validate", "--traces", folder, "--families", "dt_real",
            "--rows", tmp_path / "rows.parquet", "--format", "json", *flags,
            *(() if "--seeds" in flags else ("--seeds", 2)),
        )  # fmt: skip
        assert done.code == 0, done.err
        return pl.read_parquet(tmp_path / "rows.parquet"), json.loads(done.out)

    return run
