"""The suite would notice: one rule of the Rust scheduler is turned away from vLLM's at a time.

The core honours a case's `mutation` key in `conformance_trace` alone; the rule itself changes, not
the trace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest

from pytwin import _core
from pytwin.conformance.cases import materialise, parse_case
from pytwin.conformance.client import Reference
from pytwin.conformance.fuzz import fuzz_preset
from pytwin.conformance.generate import random_case
from pytwin.conformance.twin import core_twin
from pytwin.conformance.versions import engine_version

pytestmark = pytest.mark.network

ReferenceOf = Callable[[str], Reference]
SEEDS = range(10)

# Each rule with a preset that shows it.
MUTATIONS = {
    "free_order_swapped": "pressure",
    "free_direction_swapped": "pressure",
    "full_sequence_gate_flipped": "pressure",
    "threshold_when_alone_flipped": "longprefill",
    "preempt_first": "pressure",
    "admit_after_preemption": "nofull",
    "requeue_at_tail": "pressure",
    "blocked_adapter_blocks_queue": "lora",
    "base_model_blocked": "lora",
    "allocation_failure_skips": "pressure",
    "no_touch_on_visit": "lora_many",
    "evict_most_recent": "lora_many",
    "last_free_slot": "lora_many",
    "last_token_from_cache": "prefix_pressure",
    "latest_duplicate": "prefix_pressure",
}
# Rules that matter under settings of 0.32 alone.
MUTATIONS_OF_0_32 = {
    "reserved_positions_flipped": "async_pressure",
    "adapters_of_all_running": "async_lora",
    "schedule_complete_in_flight": "async_pressure",
    "budget_not_returned": "priority_budget",
}
# Dropping an adapter from the CPU cache frees its slot: without that rule the slots' own LRU would
# free the same slot in the same place, since both tiers are touched in one order. The rule is
# vLLM's, but no case can show it.
WITHOUT_EFFECT = {"cpu_eviction_keeps_slot"}


def mutated(name: str, case: Mapping[str, Any], version: str) -> list[str]:
    return core_twin({**case, "mutation": name}, version)


@pytest.mark.parametrize(
    ("version", "name"),
    [(version, name) for version in ("0.8.5", "0.32") for name in MUTATIONS]
    + [("0.32", name) for name in MUTATIONS_OF_0_32],
)
def test_a_changed_rule_is_noticed(reference_of: ReferenceOf, version: str, name: str) -> None:
    preset = {**MUTATIONS, **MUTATIONS_OF_0_32}[name]
    target, reference = engine_version(version), reference_of(version)
    for seed in SEEDS:
        seeds = range(seed, seed + 1)
        result = fuzz_preset(preset, target, seeds, reference, twin=partial(mutated, name))
        if result.failures:
            difference = result.failures[0].difference
            assert difference.field != "error", difference  # it decided otherwise, it did not fail
            return
    pytest.fail(f"{name} went unnoticed in {len(SEEDS)} cases of {preset}")


def test_the_list_is_whole() -> None:
    named = {*MUTATIONS, *MUTATIONS_OF_0_32, *WITHOUT_EFFECT}
    assert named == set(_core.mutations())
    assert len(named - WITHOUT_EFFECT) >= 12


@pytest.mark.parametrize("name", ["preempt_first_but_one", ""])
def test_an_unknown_mutation_is_an_error(name: str) -> None:
    version = engine_version("0.32")
    case = materialise(parse_case(random_case(0, "easy", version)), version)
    with pytest.raises(ValueError, match="mutation"):
        mutated(name, case, "0.32")
