"""A small profile of its own, so that these tests do not hang on the shipped ones."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

PROFILE: dict[str, Any] = {
    "schema": 1,
    "name": "toy@gpu",
    "model": "toy",
    "gpu": "gpu",
    "dtype": "bfloat16",
    "engine_version": "0.8.5",
    "provenance": {"source": "made up for tests"},
    "server": {
        "max_num_seqs": 256,
        "max_num_batched_tokens": 2048,
        "enable_prefix_caching": False,
        "gpu_memory_utilization": 0.9,
        "block_size": 16,
        "max_model_len": 4096,
    },
    "lengths": {},
    "early_eos": 0.0,
    "step_time": {
        "unit": "us",
        "terms": [
            {"coefficient": 9000.0, "factors": []},
            {"coefficient": 40.0, "factors": ["prefill_tokens"]},
            {"coefficient": 50.0, "factors": ["seqs"]},
        ],
    },
    "load_time": {
        "unit": "us",
        "disk": [{"coefficient": 1000.0, "factors": ["rank"]}],
        "memory": [{"coefficient": 5000.0, "factors": []}],
    },
    "frontend": {"unit": "us", "ingress": [], "egress": []},
    "host": {"unit": "us", "async_schedule": []},
    "memory": {
        "gpu_bytes": 20_000_000_000,
        "weights_bytes": 10_000_000_000,
        "kv_bytes_per_token": 131072,
        "lora_slot_bytes": 0,
        "lora_slot_bytes_per_rank": 5_000_000,
        "lora_fixed_bytes": 0,
        "overhead_bytes": 1_000_000_000,
        "overhead_bytes_per_slot": 0,
        "load_reserve_bytes": 0,
    },
    "ranges": {"max_loras": [1, 16]},
    "errors": {},
    "residual_spread": {},
}


@pytest.fixture(scope="session")
def profile(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("profile") / "toy.json"
    path.write_text(json.dumps(PROFILE))
    return str(path)


@pytest.fixture
def document(profile: str) -> dict[str, Any]:
    """A spec of 24 quick rows in 6 parts."""
    return {
        "name": "quick",
        "base": {"profile": profile, "duration_s": 20, "lengths": [40, 20], "ranks": [8, 16]},
        "grid": {
            "max_loras": [1, 2, 4, 8],
            "served_adapters": [4, 8],
            "rates_rps": [[0.5, 0.25], 0.1],
        },
        "link": {"max_cpu_loras": "served_adapters"},
        "where": "max_loras <= served_adapters",
        "seeds": 2,
        "part_rows": 5,
    }


@pytest.fixture
def slow_document(document: dict[str, Any]) -> dict[str, Any]:
    """A spec whose every part takes a good part of a second: there is time to stop it."""
    base = document["base"] | {"duration_s": 3600, "lengths": [60, 200]}
    grid = document["grid"] | {"rates_rps": [[1.5, 0.5]]}
    return document | {"base": base, "grid": grid, "seeds": 6, "part_rows": 6}


@pytest.fixture
def spec_file(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    def write(document: dict[str, Any]) -> Path:
        path = tmp_path / "spec.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        return path

    return write


def _command(arguments: tuple[object, ...]) -> list[str]:
    return [sys.executable, "-m", "pytwin.sweep", *map(str, arguments)]


@pytest.fixture
def sweep_cli() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`python -m pytwin.sweep ...` to its end, as a user would."""

    def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            _command(arguments), capture_output=True, text=True, timeout=120, check=False, **options
        )

    return run


def _heed_ctrl_c() -> None:
    # A shell that runs the tests in the background has its children ignore SIGINT.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def start_sweep() -> Callable[..., subprocess.Popen[str]]:
    """The same, started and left to run."""

    def start(*arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            _command(arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_heed_ctrl_c,  # noqa: PLW1509 - it only sets a signal
        )

    return start


@pytest.fixture
def parts() -> Callable[[Path], dict[str, bytes]]:
    """Content of every part in a directory."""

    def read(directory: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(directory.glob("*.parquet"))}

    return read
