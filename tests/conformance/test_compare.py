from __future__ import annotations

import json
from typing import Any

import pytest

from pytwin.conformance.compare import first_difference

STEP: dict[str, Any] = {
    "type": "step",
    "i": 7,
    "added": ["a"],
    "scheduled": [["a", 16, 0, "N"], ["b", 1, 30, "C"]],
    "blocks": {"a": [0, [4, 5]], "b": [2, [9]]},
    "waiting": ["c", "d"],
    "finished": {"b": "length"},
    "lora_slots": [3, None],
}


def lines(*records: dict[str, Any]) -> list[str]:
    return [json.dumps(record) for record in records]


def test_equal_traces_do_not_differ() -> None:
    assert first_difference(lines(STEP), lines(STEP)) is None


def test_spacing_and_order_of_keys_do_not_matter() -> None:
    other = json.dumps(dict(reversed(STEP.items())), separators=(",", ":"))
    assert first_difference(lines(STEP), [other]) is None


def test_what_names_the_program_is_not_compared() -> None:
    theirs = lines(
        {"type": "header", "vllm": "0.32.0", "hash_seed": "0", "requests": 3},
        {"type": "summary", "steps": 4, "seconds": 1.5},
    )
    ours = lines(
        {"type": "header", "vllm": "twin", "hash_seed": None, "requests": 3},
        {"type": "summary", "steps": 4, "seconds": 0.1},
    )
    assert first_difference(theirs, ours) is None


@pytest.mark.parametrize(
    ("field", "value", "where"),
    [
        ("scheduled", [["a", 16, 0, "N"], ["b", 2, 30, "C"]], "scheduled[1][1]"),
        ("scheduled", [["b", 1, 30, "C"], ["a", 16, 0, "N"]], "scheduled[0][0]"),
        ("scheduled", [["a", 16, 0, "N"]], "scheduled[1:]"),
        ("blocks", {"a": [0, [4, 6]], "b": [2, [9]]}, "blocks.a[1][1]"),
        ("blocks", {"a": [0, [4, 5]]}, "blocks.b"),
        ("waiting", ["d", "c"], "waiting[0]"),
        ("waiting", [], "waiting"),
        ("finished", {"b": "stop"}, "finished.b"),
        ("lora_slots", [3, 0], "lora_slots[1]"),
        ("free_blocks", 5, "free_blocks"),
        ("i", 8, "i"),
        ("i", True, "i"),
    ],
)
def test_the_first_difference_names_step_field_and_both_values(
    field: str, value: object, where: str
) -> None:
    twin = {**STEP, field: value}
    found = first_difference(lines(STEP, STEP), lines(STEP, twin))
    assert found is not None
    assert (found.line, found.step, found.field) == (1, 7, where)
    assert found.reference != found.twin
    shown = str(found)
    assert found.field in shown
    assert "vLLM" in shown
    assert "twin" in shown


def test_a_field_that_is_missing_is_a_difference() -> None:
    twin = {name: value for name, value in STEP.items() if name != "waiting"}
    found = first_difference(lines(STEP), lines(twin))
    assert found is not None
    assert found.field == "waiting"
    assert found.twin == "(absent)"


def test_a_trace_that_ends_early_is_a_difference() -> None:
    for theirs, ours in ((lines(STEP, STEP), lines(STEP)), (lines(STEP), lines(STEP, STEP))):
        found = first_difference(theirs, ours)
        assert found is not None
        assert found.line == 1
        assert "(trace ends)" in (found.reference, found.twin)


def test_long_values_are_cut() -> None:
    twin = {**STEP, "waiting": [f"request{k}" for k in range(1000)]}
    found = first_difference(lines({**STEP, "waiting": []}), lines(twin))
    assert found is not None
    assert len(str(found)) < 1000
