"""What goes beyond the measured ranges says so."""

from __future__ import annotations

import pytest

import pytwin as pt


@pytest.mark.parametrize(
    ("changes", "lengths", "told"),
    [
        ({"enable_prefix_caching": True}, (100, 50), "enable_prefix_caching"),
        ({}, (100, 20_000), "output_tokens"),
        ({}, (20_000, 50), "prompt_tokens"),
    ],
)
def test_what_was_never_measured_is_extrapolated_and_said_once(changes, lengths, told):
    server = pt.EngineConfig(profile="llama-3.1-8b-instruct@h100-64gb", max_loras=8, **changes)
    adapters = pt.adapters(8, rates_rps=0.01, ranks=8)
    traffic = pt.Workload.poisson(adapters=adapters, lengths=lengths, duration_s=60)
    reasons = [why for why in pt.simulate(server, traffic).extrapolated if told in why]
    assert len(reasons) == 1
