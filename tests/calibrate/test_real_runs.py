"""Calibration on the real runs, where they are at hand: laws and memory as good as claimed."""

from pathlib import Path

import polars as pl
import pytest

from calibration import kv_memory
from calibration.models import MODELS, Model
from calibration.refit import Traces, sample_of_prompts
from pytwin.calibrate import early_eos, load_time, memory, observations, step_time
from pytwin.catalog import load_lengths


@pytest.fixture(scope="module")
def fitted(traces: Path) -> Traces:
    return Traces(traces)


def of_model(fitted: Traces, model: Model) -> pl.DataFrame:
    return fitted.runs.filter(pl.col("model") == model.name)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_memory_is_told_from_shapes_and_a_few_servers(fitted, model):
    runs = of_model(fitted, model)
    rows = fitted.calib_memory.filter(pl.col("model") == model.name)
    found = memory.fit(rows, runs, model.shape)
    report = memory.judge(found, rows, runs, model.shape.max_model_len)
    assert report["kv_tokens_worst_percent"] <= 1.5
    right, total = map(int, report["can_start_right"].split("/"))
    assert right / total >= 0.98
    # Fitted on every other server, the others are told as well.
    half = memory.fit(rows[::2], runs, model.shape)
    report = memory.judge(half, rows[1::2], runs, model.shape.max_model_len)
    assert report["kv_tokens_worst_percent"] <= 1.5


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_the_step_law_holds_on_workloads_it_has_not_seen(fitted, model):
    runs = of_model(fitted, model)
    prompts = sample_of_prompts(load_lengths(model.lengths))
    seen = observations.collect(
        runs,
        fitted.of("steps", runs),
        fitted.of("timeseries", runs),
        fitted.of("adapters", runs),
        prompts,
        ("ml_test",),
    )
    errors = step_time.fit(step_time.problem_of(seen, step_time.candidates())).errors()
    assert errors["traffic"]["held_out_mape_percent"] < 3.0
    assert errors["idle"]["held_out_mape_percent"] < 2.0
    assert errors["lora decode"]["held_out_mape_percent"] < 3.0


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_loads_and_early_ends(fitted, model):
    runs = of_model(fitted, model)
    document, report = load_time.fit(fitted.of("lora_loads", runs), runs)
    assert report["disk_mape_percent"] < 8.0
    assert report["memory_mape_percent"] < 8.0
    assert all(term["coefficient"] > 0 for term in document["disk"] + document["memory"])
    ends = early_eos.fit(runs, fitted.of("timeseries", runs), load_lengths(model.lengths))
    assert 0.005 < ends["probability"] < 0.06
    assert 0.0 <= ends["per_token"] < 2e-4


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_servers_short_of_kv_memory_are_few_and_found(fitted, model):
    runs = of_model(fitted, model)
    rows = fitted.calib_memory.filter(pl.col("model") == model.name)
    traffic = kv_memory.with_kv_tokens(
        runs.filter(pl.col("family") == "ml_test", pl.col("status") == "ok"),
        memory.fit(rows, runs, model.shape),
    )
    short = kv_memory.short_of_memory(traffic, fitted.of("timeseries", traffic))
    assert 0 < len(short) < 0.08 * traffic.height
    assert all(0.4 < share < 0.95 for share in short.values())


def test_what_is_held_out_never_reaches_a_fit(fitted):
    assert "dt_real" not in fitted.runs["family"].unique().to_list()
    assert "dt_real" not in fitted.calib_memory["family"].unique().to_list()
