"""The harness itself: vLLM's own code runs, is repeatable, and a tampered twin is found out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pytwin.conformance.cases import materialise, parse_case
from pytwin.conformance.client import Reference, ReferenceRaisedError, ReferenceUnavailableError
from pytwin.conformance.fuzz import fuzz_preset, save_failure, shrink_failure
from pytwin.conformance.generate import random_case
from pytwin.conformance.speed import compare_speed
from pytwin.conformance.versions import engine_version

pytestmark = pytest.mark.network

ReferenceOf = Callable[[str], Reference]
BOTH = pytest.mark.parametrize("version", ["0.8.5", "0.32"])


def whole_case(preset: str, seed: int, version: str) -> dict[str, Any]:
    target = engine_version(version)
    return materialise(parse_case(random_case(seed, preset, target)), target)


@BOTH
def test_a_case_gives_the_same_trace_twice(reference_of: ReferenceOf, version: str) -> None:
    reference = reference_of(version)
    case = whole_case("prefix_lora_thrash", 1, version)
    first, second = reference.trace(case), reference.trace(case)
    assert first[:-1] == second[:-1]
    header, summary = json.loads(first[0]), json.loads(first[-1])
    assert header["type"] == "header"
    assert header["config"] == case["config"]
    assert summary["type"] == "summary"
    assert summary["steps"] == len(first) - 2
    assert summary["preemptions"] > 0


@BOTH
def test_blocks_and_requests_are_conserved(reference_of: ReferenceOf, version: str) -> None:
    case = whole_case("pressure", 2, version)
    records = [json.loads(line) for line in reference_of(version).trace(case)]
    steps = [r for r in records if r["type"] == "step"]
    usable = case["config"]["num_blocks"] - 1
    assert steps[-1]["free_blocks"] == usable
    assert all(0 <= step.get("free_blocks", 0) <= usable for step in steps)
    finished = [rid for step in steps for rid in step.get("finished", ())]
    assert len(finished) == len(set(finished))
    aborted = {rid for step in steps for rid in step["aborted"]}
    assert {r["id"] for r in case["requests"]} <= set(finished) | aborted


def test_both_versions_decide_differently(reference_of: ReferenceOf) -> None:
    """Else the comparison would prove nothing about versions."""
    case = whole_case("pressure", 2, "0.8.5")
    assert reference_of("0.8.5").trace(case)[1:-1] != reference_of("0.32").trace(case)[1:-1]


@BOTH
def test_a_case_that_never_ends_is_told(reference_of: ReferenceOf, version: str) -> None:
    """A prompt larger than the pool: vLLM would spin for ever."""
    request = {"id": "big", "arrival_step": 0, "prompt_len": 400, "max_tokens": 2}
    case = parse_case({"config": {"num_blocks": 10}, "requests": [request]})
    with pytest.raises(ReferenceRaisedError, match="big can never be scheduled"):
        reference_of(version).trace(materialise(case, engine_version(version)))


def test_a_tampered_twin_is_found_shrunk_and_saved(
    reference_of: ReferenceOf, tmp_path: Path
) -> None:
    """The twin here is vLLM itself with a one smaller token budget."""
    version, reference = engine_version("0.32"), reference_of("0.32")
    with Reference.of(version) as other:

        def tampered(case: Mapping[str, Any], name: str) -> list[str]:
            budget = case["config"]["max_num_batched_tokens"] - 1
            lines = other.trace(
                {**case, "config": {**case["config"], "max_num_batched_tokens": budget}}
            )
            return [json.dumps({**json.loads(lines[0]), "config": case["config"]}), *lines[1:]]

        result = fuzz_preset("no_lora", version, range(3), reference, twin=tampered)
        assert result.runs == 3
        assert result.row()["differences"] == len(result.failures) >= 1
        small = shrink_failure(result.failures[0], version, reference, tampered)
        assert "scheduled" in small.difference.field
        (request,) = small.case["requests"]
        assert request["prompt_len"] == 512  # the shortest prompt that feels the budget
        path = save_failure(small, "no_lora", version, tmp_path, reference)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert parse_case(path.read_text()) == parse_case(small.case)


def test_the_same_code_as_twin_shows_no_difference(reference_of: ReferenceOf) -> None:
    version, reference = engine_version("0.32"), reference_of("0.32")
    with Reference.of(version) as other:
        result = fuzz_preset(
            "lora_thrash",
            version,
            range(2),
            reference,
            twin=lambda case, name: other.trace(case),
        )
    assert result.runs == 2
    assert result.loads > 0
    assert not result.failures


def test_files_that_do_not_load_are_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ReferenceUnavailableError, match="do not load") as caught:
        Reference(tmp_path)
    assert "\n" not in str(caught.value)


def test_speeds_are_told_per_preset(reference_of: ReferenceOf) -> None:
    rows = compare_speed(["easy", "lora"], engine_version("0.32"), range(1), reference_of("0.32"))
    assert [row["preset"] for row in rows] == ["easy", "lora", "geometric mean"]
    assert rows[2]["steps"] == rows[0]["steps"] + rows[1]["steps"]
    for name in ("vllm_steps_per_s", "exact_steps_per_s", "fast_steps_per_s"):
        assert all(row[name] > 0 for row in rows)
