"""Plans of servers that have prices: the cheapest, its bound, and the check."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pytwin as pt
from pytwin.catalog import load_profile
from pytwin.cli import main
from pytwin.errors import PytwinError
from pytwin.fleet.placement import Offer, check
from pytwin.fleet.placement.offers import cheapest_sum
from tests.conftest import LLAMA, QWEN


@pytest.fixture(scope="session")
def slow_gpu(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same model on a GPU whose steps take 1.6 times as long."""
    data = json.loads(json.dumps(dict(load_profile(LLAMA).data)))
    data["name"] = "llama-3.1-8b-instruct@slow"
    for term in data["step_time"]["terms"]:
        term["coefficient"] *= 1.6
    path = tmp_path_factory.mktemp("profiles") / "slow.json"
    path.write_text(json.dumps(data))
    return str(path)


@pytest.fixture(scope="session")
def fleet() -> pt.Adapters:
    return pt.adapters_zipf(10, total_rate_rps=50.0, exponent=0.4, ranks=[8, 16])


def planned(slow_gpu: str, fleet: pt.Adapters, price: float, **options) -> dict:
    offers = {LLAMA: 2.5, slow_gpu: price}
    return pt.plan(offers, fleet, duration_s=240, seeds=1, **options).to_dict()


@pytest.fixture(scope="session")
def mixed_plan(slow_gpu: str, fleet: pt.Adapters) -> dict:
    return planned(slow_gpu, fleet, 1.0)


def test_the_cheap_kind_is_bought_when_it_is_cheap_enough(slow_gpu, fleet, mixed_plan):
    costs = {}
    for price in (0.4, 1.0, 3.0):
        plan = mixed_plan if price == 1.0 else planned(slow_gpu, fleet, price)
        costs[price] = plan["cost"]
        kinds = {replica["profile"] for replica in plan["replicas"]}
        assert plan["lower_bound"] <= plan["cost"]
        assert plan["cost"] == pytest.approx(sum(r["price"] for r in plan["replicas"]))
        if price == 0.4:
            assert LLAMA not in kinds
        if price == 3.0:  # slower and dearer
            assert kinds == {LLAMA}
    assert costs[0.4] <= costs[1.0] <= costs[3.0]


def test_a_plan_costs_no_more_than_any_plan_of_one_kind(slow_gpu, fleet, mixed_plan):
    for key, price in ((LLAMA, 2.5), (slow_gpu, 1.0)):
        alone = pt.plan(key, fleet, duration_s=240, seeds=1)
        assert mixed_plan["cost"] <= price * len(alone.replicas) + 1e-9
        # A bound on the cost holds for plans of one kind as well.
        assert mixed_plan["lower_bound"] <= price * len(alone.replicas) + 1e-9


def test_every_adapter_is_placed_once_on_a_verified_replica(fleet, mixed_plan):
    placed = [name for replica in mixed_plan["replicas"] for name in replica["adapters"]]
    assert sorted(placed) == sorted(str(k) for k in range(1, 11))
    assert all(replica["verified"] for replica in mixed_plan["replicas"])


def test_a_price_of_one_gives_the_plan_of_one_profile(fleet):
    priced = pt.plan({LLAMA: 1.0}, fleet, duration_s=240, seeds=1)
    alone = pt.plan(LLAMA, fleet, duration_s=240, seeds=1)
    assert priced.cost == len(alone.replicas)
    assert priced.lower_bound == alone.lower_bound
    assert [r.adapters for r in priced.replicas] == [r.adapters for r in alone.replicas]


def test_few_adapters_are_placed_at_the_least_cost(slow_gpu):
    """Against every partition and every choice of kinds, written apart from the planner."""
    few = pt.adapters(4, rates_rps=[14.0, 9.0, 5.0, 3.0], ranks=[8, 16])
    prices = {LLAMA: 2.5, slow_gpu: 1.1}

    def holds(key: str, members: tuple[int, ...]) -> bool:
        part = few.subset(members)
        alone = pt.plan(key, part, duration_s=240, seeds=1, max_replicas=1)
        return not alone.unplaced and bool(alone.replicas)

    cheapest = {}
    for size in range(1, 5):
        for members in itertools.combinations(range(4), size):
            fitting = [price for key, price in prices.items() if holds(key, members)]
            cheapest[members] = min(fitting, default=float("inf"))
    best = {(): 0.0}
    for size in range(1, 5):
        for members in itertools.combinations(range(4), size):
            best[members] = min(
                cheapest[part] + best[tuple(k for k in members if k not in part)]
                for n in range(1, size + 1)
                for part in itertools.combinations(members, n)
                if members[0] in part
            )
    plan = pt.plan(prices, few, duration_s=240, seeds=1)
    assert plan.cost == pytest.approx(best[0, 1, 2, 3])
    assert plan.status == "optimal"
    assert check(plan.to_dict(), few) == []


def test_the_checker_believes_the_plan_and_no_forgery(fleet, mixed_plan):
    assert check(mixed_plan, fleet) == []

    def forged(change) -> str:
        document = copy.deepcopy(mixed_plan)
        change(document)
        return " | ".join(check(document, fleet))

    assert "costs 1" in forged(lambda d: d["replicas"][0].update(price=0.1))
    assert "not on offer" in forged(lambda d: d["replicas"][0].update(profile="other"))
    assert "cost (" in forged(lambda d: d.update(cost=0.5))
    assert "prices prove" in forged(lambda d: d["certificate"]["relaxation"].update(cost=1e3))
    assert "lower_bound" in forged(lambda d: d.update(lower_bound=d["cost"]))
    assert "gap" in forged(lambda d: d.update(gap=0.9))
    assert "gap" in forged(lambda d: d.update(gap=float("nan")))
    assert "not credible" in forged(lambda d: d["certificate"].update(by="enumeration"))


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.0, 12.0),
    st.lists(st.sampled_from([1.0, 1.3, 1.7, 2.5]), min_size=1, max_size=3, unique=True),
    st.integers(0, 3),
)
def test_the_least_sum_of_prices_is_one_and_there_is_none_between(cost, prices, replicas):
    found = cheapest_sum(cost, prices, replicas)
    sums = {
        sum(n * price for n, price in zip(counts, prices, strict=True))
        for counts in itertools.product(range(16), repeat=len(prices))
        if sum(counts) >= replicas
    }
    # Both of a cost that is a sum but for rounding will do.
    assert any(
        found == pytest.approx(min(total for total in sums if total >= cost - slack))
        for slack in (1e-4, 1e-7)
    )


def test_many_prices_take_no_time():
    prices = [1.0, 1.1, 1.3, 1.7, 1.9, 2.3, 2.9, 3.1]
    assert 500.0 - 1e-3 <= cheapest_sum(500.0, prices) <= 500.2


def test_the_currency_does_not_matter(slow_gpu, fleet, mixed_plan):
    unit = 1e-9
    offers = {LLAMA: 2.5 * unit, slow_gpu: 1.0 * unit}
    found = pt.plan(offers, fleet, duration_s=240, seeds=1).to_dict()
    assert [r["adapters"] for r in found["replicas"]] == [
        r["adapters"] for r in mixed_plan["replicas"]
    ]
    for name in ("cost", "lower_bound"):
        assert found[name] == pytest.approx(mixed_plan[name] * unit)
    assert check(found, fleet) == []


def test_copies_are_on_distinct_replicas_of_any_kind(slow_gpu):
    few = pt.adapters(3, rates_rps=[6.0, 4.0, 2.0], ranks=[8, 16])
    found = pt.plan({LLAMA: 2.5, slow_gpu: 1.0}, few, duration_s=240, seeds=1, copies=2)
    placed = [name for replica in found.replicas for name in replica.adapters]
    assert sorted(placed) == ["1", "1", "2", "2", "3", "3"]
    assert all(len(set(r.adapters)) == len(r.adapters) for r in found.replicas)
    assert check(found.to_dict(), few) == []


def test_an_adapter_that_only_one_kind_holds_is_there(slow_gpu):
    """28 requests/s overload the slow one; the rest is cheapest there."""
    mixed = pt.adapters(9, rates_rps=[28.0] + [2.0] * 8, ranks=8)
    alone = pt.plan(slow_gpu, mixed.subset([0]), duration_s=240, seeds=1)
    assert alone.status == "infeasible"
    found = pt.plan({LLAMA: 2.5, slow_gpu: 1.0}, mixed, duration_s=240, seeds=1)
    hot = next(replica for replica in found.replicas if "1" in replica.adapters)
    assert hot.server.loaded_profile.key == LLAMA
    assert check(found.to_dict(), mixed) == []


def test_traffic_of_next_to_nothing_is_planned_and_checked(slow_gpu):
    idle = pt.adapters(4, rates_rps=1e-7)
    found = pt.plan({LLAMA: 2.5, slow_gpu: 1.0}, idle, duration_s=240, seeds=1, copies=2)
    assert found.lower_bound == 2.0
    assert check(found.to_dict(), idle) == []


def test_what_was_never_measured_is_told(slow_gpu, fleet, tmp_path):
    data = json.loads(Path(slow_gpu).read_text(encoding="utf-8"))
    data["ranges"]["max_loras"] = [1, 2]
    path = tmp_path / "narrow.json"
    path.write_text(json.dumps(data))
    plan = pt.plan(str(path), fleet, duration_s=240, seeds=1)
    assert any("measured 1 to 2" in r for item in plan.replicas for r in item.extrapolated)


def test_the_command_line(slow_gpu, tmp_path, capsys):
    file = tmp_path / "fleet.csv"
    file.write_text("adapter,rate_rps,rank\na,9,8\nb,6,16\nc,2,8\n")
    common = ["plan", "--adapters", str(file), "--duration-s", "60", "--seeds", "1"]
    assert main([*common, "--profile", f"{LLAMA}=2.5,{slow_gpu}=1", "--format", "json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert 0 < plan["lower_bound"] <= plan["cost"]
    assert main([*common, "--profile", f"{LLAMA}=2.5"]) == 0
    assert "for 2.5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("offers", "options", "told"),
    [
        ({}, {}, "offers (0)"),
        ({LLAMA: 0.0}, {}, "(0.0) must be > 0"),
        ({LLAMA: 1.0, QWEN: 1.0}, {}, "must be of one model"),
        ([Offer(pt.EngineConfig(profile=LLAMA), 1.0)] * 2, {}, "must differ"),
        ({LLAMA: 1.0}, {"max_replicas": 2}, "max_replicas (2) goes with one profile"),
        ({LLAMA: 1.0}, {"current": [["1"]]}, "current goes with one profile"),
        ({LLAMA: 1.0}, {"method": "exact"}, "takes at most 8"),
    ],
)
def test_bad_offers_are_one_line(offers, options, told, fleet):
    with pytest.raises(PytwinError) as error:
        pt.plan(offers, fleet, duration_s=60, **options)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_an_adapter_that_fits_nowhere_is_named(slow_gpu):
    hot = pt.adapters(2, rates_rps=[90.0, 1.0])
    plan = pt.plan({LLAMA: 2.5, slow_gpu: 1.0}, hot, duration_s=60, seeds=1)
    assert plan.status == "infeasible"
    assert "adapter 1 fits on no replica" in (plan.reason or "")


@pytest.mark.parametrize("text", ["a=b", "=2", f"{LLAMA}=1,other"])
def test_a_bad_price_on_the_command_line_is_one_line(text, tmp_path, capsys):
    file = tmp_path / "fleet.csv"
    file.write_text("adapter,rate_rps,rank\na,9,8\n")
    assert main(["plan", "--profile", text, "--adapters", str(file)]) == 2
    assert "PROFILE=PRICE" in capsys.readouterr().err
