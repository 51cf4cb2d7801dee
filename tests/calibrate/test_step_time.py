"""From logged steps and runs under traffic to a law: the law that made them is found."""

import numpy as np
import polars as pl
import pytest

from pytwin.calibrate import observations, step_time
from pytwin.calibrate.terms import component

# ms per unit of each component.
LAW = {
    "base": 12.0,
    "tokens": 0.02,
    "context": 7e-5,
    "slots": 0.02,
    "slots tokens": 1.5e-4,
    "adapters": 0.3,
}
RANDOM = np.random.default_rng(5)


def run(run_idx: int, family: str, **known: object) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(
        (
            "max_loras", "max_lora_rank", "max_num_seqs", "synthetic_output_len", "num_prompts",
            "total_input_tokens", "adapter_rates_pattern", "adapter_rank_pattern", "total_time_s",
            "completed", "output_throughput", "ts_running_mean", "ts_waiting_mean",
            "ts_kv_usage_mean", "kv_cache_tokens",
        )
    )  # fmt: skip
    return {**row, "run_idx": run_idx, "family": family, "status": "ok", **known}


def logged(run_idx: int, slots: int, seqs: int, adapters: int, tokens: int, count: int = 60):
    context = seqs * (5 + 100 / 2)
    duration = (
        LAW["base"] + LAW["tokens"] * tokens + LAW["context"] * context + LAW["slots"] * slots
        + LAW["slots tokens"] * slots * tokens + LAW["adapters"] * adapters
    )  # fmt: skip
    return {
        "run_idx": [run_idx] * count,
        "step": list(range(count)),
        "phase": ["bench"] * count,
        "dt_ms": list(duration * (1 + 0.002 * RANDOM.standard_normal(count))),
        "unique_adapters": [adapters] * count,
        "batched_tokens": [tokens] * count,
        "lora_loads_before": [0] * count,
    }


@pytest.fixture(scope="module")
def traces():
    runs, steps = [], []
    index = 0
    for slots in (0, 16, 64, 300):
        for seqs in (20, 60, 110, 220, 400):
            for share in (0.0, 0.2, 0.6):
                adapters = min(slots, int(seqs * share))
                runs.append(
                    run(
                        index, "est_latency_overhead", max_loras=slots or None, max_lora_rank=8,
                        max_num_seqs=seqs, synthetic_output_len=100, num_prompts=1000,
                        total_input_tokens=5000,
                    )
                )  # fmt: skip
                steps.append(pl.DataFrame(logged(index, slots, seqs, adapters, seqs)))
                index += 1
    return pl.DataFrame(runs, infer_schema_length=None), pl.concat(steps)


def collected(traces):
    runs, steps = traces
    samples = pl.DataFrame({"run_idx": [-1], "t_s": [0.0], "running": [0]})
    rates = pl.DataFrame({"run_idx": [-1], "rate_rps": [0.1]})
    return observations.collect(runs, steps, samples, rates, np.array([200.0]), ("ml_test",))


def test_the_law_behind_logged_steps_is_found(traces):
    problem = step_time.problem_of(collected(traces), step_time.candidates())
    law = step_time.fit(problem)
    found = dict(zip((entry.name for entry in law.components), law.coefficients, strict=True))
    assert found["base"] == pytest.approx(LAW["base"], rel=0.02)
    assert found["adapters"] == pytest.approx(LAW["adapters"], rel=0.1)
    assert law.errors()["lora decode"]["held_out_mape_percent"] < 0.5


def test_components_that_explain_nothing_are_dropped(traces):
    law = step_time.fit(step_time.problem_of(collected(traces), step_time.candidates()))
    assert len(law.components) < len(step_time.candidates()) / 2
    assert "waiting" not in {entry.name for entry in law.components}


def test_loads_are_no_part_of_a_single_request_step():
    steps = pl.DataFrame(logged(1, 1, 1, 1, 1))
    durations = steps["dt_ms"].to_numpy().copy()
    loads = np.zeros(60, dtype=int)
    # A load is logged before step k + 1 and happens inside step k.
    loads[np.arange(10, 60, 2)] = 1
    durations[np.arange(9, 59, 2)] += 8.0
    steps = steps.with_columns(dt_ms=durations, lora_loads_before=loads)
    runs = pl.DataFrame(
        [run(1, "est_loading", max_loras=1, max_lora_rank=8)], infer_schema_length=None
    )
    seen = collected((runs, steps))
    assert seen.target_ms[0] < 14.0


def test_traffic_averages_over_the_batches_a_run_went_through():
    runs = pl.DataFrame(
        [
            run(
                7, "ml_test", max_loras=16, max_lora_rank=8, adapter_rates_pattern=[1.0],
                adapter_rank_pattern=[8], total_time_s=3600.0, completed=3600,
                output_throughput=1000.0, ts_running_mean=20.0, ts_waiting_mean=0.0,
            )
        ],
        infer_schema_length=None,
    )  # fmt: skip
    time = np.arange(0.0, 3600.0, 2.0)
    running = np.where(time % 4 == 0, 10, 30)
    samples = pl.DataFrame({"run_idx": 7, "t_s": time, "running": running})
    rates = pl.DataFrame({"run_idx": [7] * 4, "rate_rps": [0.25] * 4})
    steps = pl.DataFrame(logged(1, 0, 1, 0, 1)).clear()
    seen = observations.collect(runs, steps, samples, rates, np.full(9, 200.0), ("ml_test",))
    assert seen.target_ms == pytest.approx([20.0])
    tokens = seen.average(step_time.design([component("x", "", "decode_seqs")], seen.features))
    # Weighted by generated tokens: (10*10 + 30*30) / (10 + 30).
    assert tokens[0, 0] == pytest.approx(25.0, rel=0.03)


def test_no_usable_run_is_an_error():
    runs = pl.DataFrame([run(1, "perf_memory", ts_waiting_mean=0.0)], infer_schema_length=None)
    with pytest.raises(ValueError, match="no usable step observation"):
        collected((runs, pl.DataFrame(logged(2, 0, 1, 0, 1))))
