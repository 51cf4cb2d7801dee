"""Profiles that state how far they may be off."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import pytwin as pt
from pytwin.catalog import load_profile
from tests.conftest import QWEN, TOY


@pytest.fixture
def unsure(tmp_path) -> Callable[..., str]:
    """`unsure(step_time=0.02)`: path of a Qwen profile with that section; `base=TOY` of another."""

    def write(*, base: str = QWEN, residual: dict | None = None, **factors: float) -> str:
        document = json.loads(load_profile(base).text)
        document["uncertainty"] = {"factors": factors, "residual": residual or {}}
        path = tmp_path / f"profile{len(list(Path(tmp_path).glob('profile*')))}.json"
        path.write_text(json.dumps(document))
        return str(path)

    return write


@pytest.fixture
def certain(unsure) -> str:
    """The toy profile, said to be exact."""
    return unsure(base=TOY)


@pytest.fixture
def traffic() -> pt.Workload:
    """A minute and a half of 16 adapters, not starved on 8 slots."""
    fleet = pt.adapters(16, rates_rps=[0.4, 0.2], ranks=[8, 16])
    return pt.Workload.poisson(adapters=fleet, duration_s=90)
