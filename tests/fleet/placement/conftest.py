"""A small hot fleet, planned once."""

from __future__ import annotations

from pathlib import Path

import pytest

import pytwin as pt
from tests.conftest import LLAMA

CSV = "adapter,rate_rps,rank\na,12,8\nb,10,16\nc,9,16\nd,8,32\ne,7,8\nf,6,16\n"


@pytest.fixture(scope="session")
def hot_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fleet") / "hot.csv"
    path.write_text(CSV)
    return path


@pytest.fixture(scope="session")
def hot(hot_file: Path) -> pt.Adapters:
    return pt.adapters_from_csv(hot_file)


@pytest.fixture(scope="session")
def hot_plan(hot: pt.Adapters) -> dict:
    return pt.plan(LLAMA, hot, duration_s=120).to_dict()
