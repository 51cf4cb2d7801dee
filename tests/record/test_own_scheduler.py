"""vLLM's own scheduler, recorded by the plug-in, replays in the twin without a difference."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytwin.conformance.cases import materialise, parse_case
from pytwin.conformance.generate import random_case
from pytwin.conformance.replay import recorded_run, recordings, replay
from pytwin.conformance.versions import engine_version
from pytwin.conformance.wheels import WheelError, vllm_sources
from pytwin.record.read import read_recording

SCRIPT = Path(__file__).with_name("lite_engine.py")
VERSION = engine_version("0.32")
PRESETS = (
    "pressure", "lora_thrash", "prefix", "prefix_lora_async", "async_pressure", "priority",
    "priority_prefix_async", "nofull",
)  # fmt: skip


@pytest.fixture(scope="module", params=["1", "2"], ids=["first runner", "second runner"])
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One recording per preset, by one process."""
    try:
        sources = vllm_sources(VERSION.wheel)
    except WheelError as error:
        pytest.skip(f"vLLM's own code is not to be had: {error}")
    directory = tmp_path_factory.mktemp("recorded")
    cases = [
        materialise(parse_case(random_case(1, preset, VERSION, requests=40)), VERSION)
        for preset in PRESETS
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTWIN_RECORD")}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(sources), request.param],
        input="".join(json.dumps(case) + "\n" for case in cases),
        capture_output=True, text=True, check=False,
        env=environment | {"PYTWIN_RECORD": str(directory), "PYTHONHASHSEED": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "recording stopped" not in done.stderr
    return directory


@pytest.mark.network
@pytest.mark.parametrize("number", range(len(PRESETS)), ids=PRESETS)
def test_the_recording_replays_without_a_difference(recorded: Path, number: int) -> None:
    found = sorted(recordings(recorded), key=lambda path: (len(path.name), path.name))
    assert len(found) == len(PRESETS)
    read = read_recording(found[number])
    assert read.closed
    assert read.header.config["async_scheduling"] is ("async" in PRESETS[number])
    result = replay(recorded_run(found[number], VERSION))
    assert result.first is None
    assert result.differences == 0
    assert result.steps > 100
    assert result.adapter_loads > 0
    if "pressure" in PRESETS[number]:
        assert result.preemptions > 0
