"""What-if rules: neutral ones change nothing, the others do what they say."""

from __future__ import annotations

import polars as pl
import pytest

import pytwin as pt

TRAFFIC = pt.Workload.poisson(
    adapters=pt.adapters(12, [1.0, 0.3, 0.1], 8), lengths=(50, 20), duration_s=120
)


def metrics(server, traffic=TRAFFIC, **options):
    return pt.simulate(server, traffic, **options).metrics


def test_neutral_rules_change_nothing(toy):
    neutral = toy(
        max_loras=3,
        lora_eviction="lru",
        pinned_loras=(),
        lora_loading="blocking",
        admission_ageing_s=None,
    )
    plain = metrics(toy(max_loras=3))
    assert metrics(neutral) == pytest.approx(plain, rel=0, abs=0, nan_ok=True)
    assert neutral.what_ifs == {}


def test_a_pinned_adapter_is_loaded_once(toy):
    # Slots enough that no batch needs those of the pinned ones: it would get them.
    server = toy(max_loras=8, max_cpu_loras=12, lora_preload=False)
    loads = {
        pinned: pt.simulate(server.replace(pinned_loras=pinned), TRAFFIC).adapters
        for pinned in ((), (3, 6))
    }
    held = pl.col("adapter").is_in([3, 6])
    assert loads[()].filter(held)["loads"].min() > 1
    assert loads[3, 6].filter(held)["loads"].to_list() == [1, 1]


def test_nobody_loads_less_than_who_knows_the_future(toy):
    server = toy(max_loras=4, max_cpu_loras=12, lora_preload=False)
    loads = {
        rule: metrics(server.replace(lora_eviction=rule))["lora_loads_memory"]
        for rule in ("lru", "lfu", "cost_aware", "clairvoyant")
    }
    assert loads["clairvoyant"] == min(loads.values()) < loads["lru"]


def test_overlapped_loads_do_not_lengthen_steps(toy):
    server = toy(max_loras=4, max_cpu_loras=4)
    means = {
        loading: pt.simulate(server.replace(lora_loading=loading), TRAFFIC, steps=True)
        .steps["duration_ms"]
        .mean()
        for loading in ("blocking", "overlapped")
    }
    assert means["overlapped"] < means["blocking"]


def test_ageing_ends_a_long_wait(toy):
    """One slot, and an adapter whose requests never stop coming."""
    times = [0.1 * k for k in range(600)]
    trace = pl.DataFrame(
        {
            "arrival_s": sorted([*times, 1.05]),
            "adapter": [2 if at == 1.05 else 1 for at in sorted([*times, 1.05])],
            "prompt_tokens": 20,
            "output_tokens": 30,
        }
    )
    traffic = pt.Workload.replay(trace, ranks=[8, 8])
    waits = {
        limit: pt.simulate(toy(max_loras=1, admission_ageing_s=limit), traffic)
        .requests.filter(adapter=2)["ttft_ms"]
        .max()
        for limit in (None, 2.0)
    }
    assert waits[None] > 50_000
    assert 2_000 < waits[2.0] < 4_000


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ("lora_eviction", "lfu"),
        ("pinned_loras", (1,)),
        ("lora_loading", "overlapped"),
        ("admission_ageing_s", 3.0),
    ],
)
def test_a_rule_that_vllm_lacks_is_named(toy, rule, value):
    server = toy(max_loras=3, **{rule: value})
    reasons = pt.simulate(server, TRAFFIC).extrapolated
    assert any(rule in reason and "vLLM" in reason for reason in reasons)
    fleet = pt.simulate_fleet([pt.Replica(server)] * 2, TRAFFIC)
    assert any(rule in reason for reason in fleet.extrapolated)


def test_pins_must_leave_a_slot(toy):
    with pytest.raises(pt.PytwinError, match="fewer than max_loras") as error:
        pt.simulate(toy(max_loras=2, pinned_loras=(1, 2)), TRAFFIC)
    assert "\n" not in str(error.value)
    with pytest.raises(pt.ConfigError, match="from 1 on"):
        toy(pinned_loras=(0,))


def test_a_fleet_has_no_clairvoyant(toy):
    server = toy(max_loras=3, lora_eviction="clairvoyant")
    with pytest.raises(pt.PytwinError, match="one replica"):
        pt.simulate_fleet([pt.Replica(server)] * 2, TRAFFIC)
