from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pytwin.conformance.generate import random_case
from pytwin.conformance.shrink import shrink
from pytwin.conformance.versions import engine_version

Case = dict[str, Any]
NEW = engine_version("0.32")


def test_only_what_the_failure_needs_is_kept() -> None:
    case = random_case(3, "async_prio_lora", NEW, requests=60)

    def fails(candidate: Case) -> bool:
        heavy = [r for r in candidate["requests"] if r["prompt_len"] >= 20 and r.get("lora_id")]
        return len(heavy) >= 2 and candidate["config"].get("policy") == "priority"

    assert fails(case)
    small = shrink(case, fails)
    assert fails(small)
    assert small["config"] == {"policy": "priority"}
    assert len(small["requests"]) == 2
    for request in small["requests"]:
        kept = {"id", "arrival_step", "prompt_len", "max_tokens", "lora_id"}
        assert set(request) == kept
        assert (request["arrival_step"], request["prompt_len"], request["max_tokens"]) == (0, 20, 1)
    assert not small["aborts"]
    assert not small.get("lora_preload")


def test_an_abort_that_matters_stays() -> None:
    case = {**random_case(1, "easy", NEW), "aborts": [{"step": k, "id": "x"} for k in range(9)]}
    small = shrink(case, lambda c: any(a["step"] == 4 for a in c["aborts"]))
    assert small["aborts"] == [{"step": 4, "id": "x"}]
    assert small["requests"] == []


def test_the_given_case_is_left_alone() -> None:
    case = random_case(2, "prefix", NEW)
    before = random_case(2, "prefix", NEW)
    shrink(case, lambda c: len(c["requests"]) > 3)
    assert case == before


def test_the_number_of_trials_is_bounded() -> None:
    calls = 0

    def fails(candidate: Case) -> bool:
        nonlocal calls
        calls += 1
        return bool(candidate["requests"])

    shrink(random_case(2, "prefix", NEW, requests=90), fails, max_trials=25)
    assert calls <= 25


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, 29), min_size=1, max_size=4), st.integers(0, 100))
def test_any_set_of_culprits_is_found_exactly(culprits: set[int], seed: int) -> None:
    case = random_case(seed, "easy", NEW, requests=30)
    needed = {case["requests"][k]["id"] for k in culprits}
    small = shrink(case, lambda c: needed <= {r["id"] for r in c["requests"]}, max_trials=100_000)
    assert {r["id"] for r in small["requests"]} == needed
