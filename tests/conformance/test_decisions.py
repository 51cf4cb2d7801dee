"""The twin beside vLLM's own code: a slice of the fuzz, and the corners that it seldom meets."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from pytwin import _core
from pytwin.conformance.cases import materialise, parse_case
from pytwin.conformance.client import Reference, ReferenceRaisedError
from pytwin.conformance.compare import first_difference
from pytwin.conformance.fuzz import PresetResult, compare_case, fuzz_preset
from pytwin.conformance.generate import random_case
from pytwin.conformance.presets import presets_for
from pytwin.conformance.twin import core_twin
from pytwin.conformance.versions import engine_version

pytestmark = pytest.mark.network

ReferenceOf = Callable[[str], Reference]
VERSIONS = ("0.8.5", "0.32")
SEEDS = {"0.8.5": range(1000, 1002), "0.32": range(1000, 1001)}  # 0.32 has more presets
LEAST_STEPS = 20_000


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_every_decision_is_vllms(reference_of: ReferenceOf, version: str) -> None:
    target = engine_version(version)
    results: list[PresetResult] = [
        fuzz_preset(preset, target, SEEDS[version], reference_of(version))
        for preset in presets_for(target)
    ]
    for result in results:
        assert not result.failures, f"{result.preset}: {result.failures[0].difference}"
        assert result.unjudged == 0, f"vLLM's own code raised on {result.preset}"
    assert sum(result.steps for result in results) >= LEAST_STEPS
    # The slice exercises what it claims to.
    assert sum(result.preemptions for result in results) > 300
    assert sum(result.loads for result in results) > 300


@pytest.mark.parametrize("version", VERSIONS)
def test_fast_mode_counts_what_exact_mode_counts(version: str) -> None:
    """Fast mode keeps decoding requests as one: the same decisions."""
    target = engine_version(version)
    for preset in presets_for(target):
        for seed in range(3):
            case = json.dumps(materialise(parse_case(random_case(seed, preset, target)), target))
            exact = json.loads(_core.conformance_trace(case, version)[-1])
            fast = json.loads(_core.conformance_trace(case, version, write=False, exact=False)[-1])
            for count in ("steps", "preemptions", "tokens", "unfinished"):
                assert fast[count] == exact[count], (preset, seed, count)


def r(name: str, arrival: int = 0, prompt: int = 20, output: int = 10, **more: Any) -> Any:
    return {
        "id": name,
        "arrival_step": arrival,
        "prompt_len": prompt,
        "max_tokens": output,
        **more,
    }


COPY = {"prefix_group": 1, "prefix_len": 64}
CORNERS: dict[str, dict[str, Any]] = {
    "nothing at all": {"requests": []},
    "adapters although LoRA is off": {
        "config": {"max_loras": 0, "enable_prefix_caching": True},
        "requests": [
            r("a", prompt=64, lora_id=1, **COPY),
            r("b", 3, 64, lora_id=2, **COPY),
            r("c", 3, 64, **COPY),
        ],
        "lora_preload": [1, 2],
    },
    "prompt as long as the model": {
        "config": {"max_model_len": 32},
        "requests": [r("a", prompt=32), r("b", prompt=31), r("c", prompt=40)],
    },
    "file not in order of arrival": {"requests": [r("a", 9), r("b", 2), r("c", 2), r("d", 0)]},
    "idle for long, aborts in between": {
        "requests": [r("a", 9), r("b", 2000)],
        "aborts": [
            {"step": 100, "id": "b"},
            {"step": 1999, "id": "a"},
            {"step": 2001, "id": "b"},
            {"step": 5, "id": "nobody"},
        ],
    },
    "abort on arrival": {"requests": [r("a", 5)], "aborts": [{"step": 5, "id": "a"}]},
    "abort of what could never run": {
        "config": {"num_blocks": 5},
        "requests": [r("a", prompt=400), r("b", prompt=31)],
        "aborts": [{"step": 40, "id": "a"}],
    },
    "more adapters preloaded than fit": {
        "config": {"max_loras": 2, "max_cpu_loras": 3},
        "requests": [r("a", lora_id=3), r("b", lora_id=9), r("c", lora_id=1)],
        "lora_preload": [9, 1, 2, 3, 4, 5, 3],
    },
    "adapter order given": {
        "requests": [r("a", lora_id=1), r("b", lora_id=2), r("c", lora_id=3)],
        "lora_order": {"0": [3, 1, 2], "1": [2, 3, 1]},
    },
    "token ids given": {
        "config": {"enable_prefix_caching": True},
        "requests": [
            {"id": "a", "arrival_step": 0, "prompt_token_ids": [7] * 40, "max_tokens": 40},
            {"id": "b", "arrival_step": 2, "prompt_token_ids": [7] * 64, "max_tokens": 5},
        ],
    },
}
CORNERS_OF_0_32: dict[str, dict[str, Any]] = {
    "ties settled by names": {
        "config": {"policy": "priority", "max_num_seqs": 1},
        "requests": [r(name, arrival_time=1.0) for name in ("é", "z", "Z", "\U0001d51e", "\uffff")],
    },
    "odd priorities": {
        "config": {"policy": "priority", "max_num_seqs": 1},
        "requests": [
            r("a"),
            r("b", priority=-5),
            r("c", priority=2**40),
            r("d", arrival_time=-1.5),
        ],
    },
    "one token in flight": {
        "config": {"async_scheduling": True},
        "requests": [r("a", 0, 1, 1), r("b", 0, 1, 1), r("c", 0, 16, 1), r("d", 0, 17, 2)],
    },
    "abort of a token in flight": {
        "config": {"async_scheduling": True},
        "requests": [r("a", 5)],
        "aborts": [{"step": 7, "id": "a"}],
    },
    "more scheduled than batched tokens": {
        "config": {"max_num_scheduled_tokens": 100, "max_num_batched_tokens": 64},
        "requests": [r(f"a{k}", prompt=50) for k in range(9)],
    },
}


@pytest.mark.parametrize(
    ("version", "corner"),
    [(version, corner) for version in VERSIONS for corner in CORNERS]
    + [("0.32", corner) for corner in CORNERS_OF_0_32],
)
def test_corners(reference_of: ReferenceOf, version: str, corner: str) -> None:
    target = engine_version(version)
    case = materialise(parse_case({**CORNERS, **CORNERS_OF_0_32}[corner]), target)
    trace = reference_of(version).trace(case)
    assert compare_case(trace, case, target, core_twin) is None


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "case",
    [
        {"config": {"num_blocks": 5}, "requests": [r("a", prompt=400)]},
        {"config": {"num_blocks": 5}, "requests": [r("a", prompt=60, output=100)]},
        {
            "config": {"max_model_len": 32, "max_num_batched_tokens": 16},
            "requests": [r("a", prompt=40)],
        },
    ],
    ids=["prompt outgrows the pool", "output outgrows the pool", "prompt outgrows the model"],
)
def test_where_vllm_would_spin_for_ever_both_say_so(
    reference_of: ReferenceOf, version: str, case: dict[str, Any]
) -> None:
    whole = materialise(parse_case(case), engine_version(version))
    with pytest.raises(ReferenceRaisedError, match="never"):
        reference_of(version).trace(whole)
    with pytest.raises(ValueError, match="never ends"):
        core_twin(whole, version)


@pytest.mark.parametrize("version", ["0.8.5", "0.32"])
def test_a_prompt_beyond_max_model_len_is_scheduled_as_vllm_does(
    reference_of: ReferenceOf, version: str
) -> None:
    """The API server refuses such a prompt; the scheduler must still not fall over it."""
    config = {"max_model_len": 33, "block_size": 1, "enable_prefix_caching": True}
    request = {"id": "a", "arrival_step": 0, "prompt_len": 34, "max_tokens": 2}
    case = {"config": config, "requests": [request]}
    whole = materialise(parse_case(case), engine_version(version))
    assert first_difference(reference_of(version).trace(whole), core_twin(whole, version)) is None
