"""The checker believes true plans and catches others."""

from __future__ import annotations

import copy
import json

import pytest

from pytwin.errors import PytwinError
from pytwin.fleet.placement import check


def test_a_plan_holds(hot, hot_plan):
    assert check(hot_plan, hot) == []
    assert check(json.loads(json.dumps(hot_plan)), hot) == []


def moved(plan):
    plan["replicas"][1]["adapters"].append(plan["replicas"][0]["adapters"].pop())


def moved_with_room(plan):
    moved(plan)
    plan["replicas"][1]["settings"].update(max_cpu_loras=6, max_lora_rank=32)


def doubled(plan):
    plan["replicas"][1]["adapters"].append(plan["replicas"][0]["adapters"][0])


def dropped(plan):
    plan["replicas"].pop()


def dropped_and_hidden(plan):
    gone = plan["replicas"].pop()
    plan["unplaced"] = gone["adapters"]


def raised_bound(plan):
    plan["lower_bound"] += 1


def raised_relaxation(plan):
    plan["certificate"]["relaxation"]["replicas"] += 1.0
    plan["lower_bound"] += 1


def raised_prices(plan):
    stated = plan["certificate"]["relaxation"]
    stated["prices"] = [2.0 * price for price in stated["prices"]]
    stated["replicas"] *= 2.0
    plan["lower_bound"] = plan["replicas_used"]


def enumerated(plan):
    plan["certificate"]["by"] = "enumeration"
    plan["lower_bound"] += 1


def other_seeds(plan):
    plan["certificate"]["seeds"] = [5, 6]


def asked_other_seeds(plan):
    plan["question"]["seeds"] = plan["certificate"]["seeds"] = [5, 6]


def other_horizon(plan):
    plan["certificate"]["duration_s"] = 3600.0


def other_gap(plan):
    plan["gap"] = 0.25


def other_figures(plan):
    plan["replicas"][0]["measured"][0]["total_throughput"] *= 1.01


def fewer_slots(plan):
    plan["replicas"][0]["settings"]["max_loras"] = 1


def low_rank(plan):
    for replica in plan["replicas"]:
        replica["settings"]["max_lora_rank"] = 8


def stranger(plan):
    plan["replicas"][0]["adapters"][0] = "nobody"


@pytest.mark.parametrize(
    "tamper",
    [
        moved, moved_with_room, doubled, dropped, dropped_and_hidden, raised_bound,
        raised_relaxation, raised_prices, enumerated, other_seeds, asked_other_seeds,
        other_horizon, other_gap, other_figures, fewer_slots, low_rank, stranger,
    ],
    ids=lambda tamper: tamper.__name__,
)  # fmt: skip
def test_a_tampered_plan_is_caught(tamper, hot, hot_plan):
    plan = copy.deepcopy(hot_plan)
    tamper(plan)
    assert check(plan, hot)


@pytest.mark.parametrize("document", [{}, {"question": {}}, [], "nothing.json"])
def test_what_is_no_plan_is_one_line(document, hot):
    with pytest.raises(PytwinError) as error:
        check(document, hot)
    assert "\n" not in str(error.value)
