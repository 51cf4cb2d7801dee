"""What `pt.plan` answers: few replicas, copies, today's placement, bad input."""

from __future__ import annotations

import json

import pytest
import yaml

import pytwin as pt
from pytwin.errors import PytwinError
from pytwin.fleet.placement import check
from tests.conftest import LLAMA


def test_the_same_plan_for_any_workers(hot, hot_plan):
    again = pt.plan(LLAMA, hot, duration_s=120, workers=1).to_dict()
    assert json.dumps(again) == json.dumps(hot_plan)
    fleet = pt.adapters_zipf(30, total_rate_rps=80, exponent=0.7, ranks=[8, 16])
    plans = [pt.plan(LLAMA, fleet, duration_s=60, seeds=1, workers=n) for n in (1, 3)]
    assert json.dumps(plans[0].to_dict()) == json.dumps(plans[1].to_dict())


def test_every_adapter_is_placed_once_and_verified(hot, hot_plan):
    names = [name for replica in hot_plan["replicas"] for name in replica["adapters"]]
    assert sorted(names) == sorted(hot.names)
    assert all(replica["verified"] for replica in hot_plan["replicas"])
    assert all("--enable-lora" in replica["vllm_serve"] for replica in hot_plan["replicas"])


def test_too_few_replicas_serve_the_most_load(hot):
    found = pt.plan(LLAMA, hot, duration_s=120, max_replicas=1)
    assert found.status == "partial"
    assert len(found.replicas) == 1
    assert {*found.unplaced, *found.replicas[0].adapters} == set(hot.names)
    assert "max_replicas (1)" in found.reason
    assert check(found.to_dict(), hot) == []


def test_a_larger_fleet_is_placed_in_part():
    fleet = pt.adapters_zipf(20, total_rate_rps=60, exponent=0.7, ranks=[8, 16])
    found = pt.plan(LLAMA, fleet, duration_s=60, max_replicas=1, seeds=1)
    assert found.status == "partial"
    assert all(replica.verified for replica in found.replicas)
    assert 0.0 <= found.gap < 0.5
    assert check(found.to_dict(), fleet) == []


def test_copies_are_on_distinct_replicas():
    fleet = pt.adapters(3, rates_rps=[6.0, 4.0, 2.0], ranks=[8, 16])
    found = pt.plan(LLAMA, fleet, duration_s=120, copies=2)
    placed = [name for replica in found.replicas for name in replica.adapters]
    assert sorted(placed) == ["1", "1", "2", "2", "3", "3"]
    assert all(len(set(r.adapters)) == len(r.adapters) for r in found.replicas)
    assert found.lower_bound == 2
    assert check(found.to_dict(), fleet) == []


def test_todays_placement_is_kept(hot, hot_plan):
    again = pt.plan(LLAMA, hot, duration_s=120, current=hot_plan)
    assert again.moves == 0
    swapped = [replica["adapters"] for replica in reversed(hot_plan["replicas"])]
    assert pt.plan(LLAMA, hot, duration_s=120, current=swapped).moves == 0
    fewer = hot.subset(range(5))
    kept = pt.plan(LLAMA, fewer, duration_s=120, current=[list("abc"), list("de")])
    assert kept.moves == 0


def test_moves_are_limited(hot, hot_plan):
    """A placement of three replicas where two will do: merging them moves two adapters."""
    today = [list("af"), list("bd"), list("ce")]
    free = pt.plan(LLAMA, hot, duration_s=120, current=today)
    assert len(free.replicas) == 2
    assert free.moves >= 2
    none = pt.plan(LLAMA, hot, duration_s=120, current=today, max_moves=0)
    assert (none.moves, len(none.replicas)) == (0, 3)
    assert none.lower_bound == hot_plan["lower_bound"]
    assert check(none.to_dict(), hot) == []
    two = pt.plan(LLAMA, hot, duration_s=120, current=today, max_moves=2)
    assert two.moves <= 2
    crowded = pt.plan(LLAMA, hot, duration_s=120, current=[list("abcdef")], max_moves=0)
    assert crowded.status == "infeasible"
    assert "raise max_moves" in crowded.reason


def test_prompts_that_are_refused_do_not_end_a_plan():
    server = pt.EngineConfig(profile=LLAMA, max_model_len=1024)
    some = pt.adapters(2, 2.0, lengths=pt.ConstantLengths(3000, 10)) + pt.adapters(3, 2.0)
    found = pt.plan(server, some, duration_s=120, seeds=1)
    assert found.status in ("infeasible", "optimal", "verified")


def test_an_adapter_too_hot_for_any_replica_is_named():
    fleet = pt.adapters(2, rates_rps=[90.0, 1.0])
    found = pt.plan(LLAMA, fleet, duration_s=120)
    assert found.status == "infeasible"
    assert found.reason.startswith("adapter 1 fits on no replica, even alone")
    rest = pt.plan(LLAMA, fleet, duration_s=120, max_replicas=2)
    assert (rest.status, rest.unplaced) == ("partial", ("1",))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"max_replicas": 0}, "max_replicas (0)"),
        ({"max_replicas": 1, "copies": 2}, "copies (2) must be <= max_replicas (1)"),
        ({"copies": 0}, "copies (0)"),
        ({"method": "magic"}, "method (magic) must be one of auto"),
        ({"seeds": 0}, "seeds (0)"),
        ({"seeds": (1, 1)}, "must differ"),
        ({"duration_s": 0}, "duration_s (0"),
        ({"slots": ()}, "slots ([])"),
        ({"current": {"replicas": []}}, "places no adapter"),
        ({"current": {"nodes": []}}, "is no plan"),
        ({"current": [["a", "zz"]]}, "names adapter zz"),
        ({"current": [["a", "a"]]}, "twice"),
        ({"current": "absent.json"}, "cannot be read"),
        ({"max_moves": 1}, "max_moves (1) goes with current"),
        ({"max_moves": -1, "current": [["a"]]}, "max_moves (-1)"),
        ({"method": "exact", "copies": 2}, "takes at most 8"),
    ],
)
def test_bad_input_is_one_line(changes, told, hot):
    with pytest.raises(PytwinError) as error:
        pt.plan(LLAMA, hot, **{"duration_s": 120, **changes})
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_no_adapters_and_no_traffic():
    with pytest.raises(PytwinError, match="at least one adapter"):
        pt.plan(LLAMA, pt.Adapters())
    with pytest.raises(PytwinError, match="no traffic"):
        pt.plan(LLAMA, pt.adapters(2, rates_rps=0.0))
    with pytest.raises(PytwinError, match="fits on no replica"):
        pt.plan(LLAMA, pt.Adapters((pt.adapters(1, 1.0).groups[0].__class__(1, (1.0,), (600,)),)))


def test_the_command(cli, hot_file, tmp_path, hot_plan):
    base = ["plan", "--profile", LLAMA, "--adapters", hot_file, "--duration-s", 120]
    done = cli(*base, "--format", "json", "--yaml", tmp_path / "plan.yaml")
    assert done.code == 0
    assert json.loads(done.out) == json.loads(json.dumps(hot_plan))
    written = yaml.safe_load((tmp_path / "plan.yaml").read_text())
    assert [entry["adapters"] for entry in written["replicas"]] == [
        replica["adapters"] for replica in hot_plan["replicas"]
    ]
    (tmp_path / "plan.json").write_text(done.out)
    check_line = ["plan", "--adapters", hot_file, "--check", tmp_path / "plan.json"]
    assert cli(*check_line).code == 0
    (tmp_path / "plan.json").write_text(done.out.replace('"gap": 0.0', '"gap": 0.5'))
    wrong = cli(*check_line)
    assert wrong.code == 1
    assert "gap (0.5)" in wrong.out
    assert cli(*base, "--format", "csv").out.startswith("adapter,replica,max_loras")
    assert "optimal: 2 replicas" in cli(*base).out


def test_the_command_refuses(cli, tmp_path):
    empty = tmp_path / "empty.csv"
    empty.write_text("adapter,rate_rps,rank\n")
    high = tmp_path / "high.csv"
    high.write_text("adapter,rate_rps,rank\na,1,600\n")
    for path in (empty, high):
        done = cli("plan", "--profile", LLAMA, "--adapters", path)
        assert done.code == 2
        assert len(done.err.strip().splitlines()) == 1
