"""The twin, and the harness's own reference, beside the shared oracle: a second, older witness."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytwin.conformance.cases import materialise, parse_case
from pytwin.conformance.client import Reference
from pytwin.conformance.compare import first_difference
from pytwin.conformance.fuzz import compare_case
from pytwin.conformance.twin import core_twin
from pytwin.conformance.versions import engine_version
from pytwin.conformance.wheels import vllm_sources

pytestmark = [pytest.mark.network, pytest.mark.slow]

CASES = 2
PRESETS = {
    "0.8.5": "easy,pressure,lora,lora_pressure,prefix,nofull,longprefill,big",
    "0.32": "easy,pressure,lora,lora_pressure,async_pressure,async_lora,prefix,prefix_async,"
    "priority,nofull,watermark,longprefill,big",
}


@pytest.mark.parametrize("version", PRESETS)
def test_the_oracles_cases(
    shared: Path, reference_of: Callable[[str], Reference], version: str
) -> None:
    if not (shared / "oracle" / "oracle.py").exists():
        pytest.skip(f"no oracle in {shared}")
    target, reference = engine_version(version), reference_of(version)
    steps = 0
    for preset, case, trace in _oracle(shared, version):
        whole = materialise(parse_case(case), target)
        found = compare_case(trace, whole, target, core_twin)
        assert found is None, f"twin, {preset}: {found}"
        found = first_difference(trace, reference.trace(whole))
        assert found is None, f"reference, {preset}: {found}"
        steps += json.loads(trace[-1])["steps"]
    assert steps > 5000


def _oracle(shared: Path, version: str) -> list[tuple[str, dict[str, Any], list[str]]]:
    sources = vllm_sources(engine_version(version).wheel)
    driver = Path(__file__).with_name("oracle_driver.py")
    environment = {**os.environ, "ORACLE_LITE": str(sources), "PYTHONHASHSEED": "0"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"  # the shared directory is not ours to write to
    done = subprocess.run(
        [sys.executable, str(driver), str(shared / "oracle"), PRESETS[version], str(CASES)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return [(entry["preset"], entry["case"], entry["trace"]) for entry in found]
