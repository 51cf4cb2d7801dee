"""Calibration on the real runs, where they are at hand: laws and memory as good as claimed."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from calibration.models import MODELS, Model
from calibration.refit import Traces
from pytwin.calibrate import early_eos, load_time, memory, observations, step_time
from pytwin.catalog import load_lengths

pytest.importorskip("scipy")


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
    table = load_lengths(model.lengths)
    prompts = np.repeat(table.prompt_tokens, table.weights.astype(int)).astype(np.float64)
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
    assert 0.0 < early_eos.fit(runs, load_lengths(model.lengths)) < 0.1


def test_what_is_held_out_never_reaches_a_fit(fitted):
    assert "dt_real" not in fitted.runs["family"].unique().to_list()
    assert "dt_real" not in fitted.calib_memory["family"].unique().to_list()
