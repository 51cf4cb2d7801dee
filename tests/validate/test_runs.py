"""`pytwin validate`: what it may read, what it says of each run."""

from __future__ import annotations

import json

import polars as pl
import pytest

from pytwin.validate import METRICS, build_report, read_runs
from tests.validate.made import MEASURED, NEVER_STARTED, write


def test_rows_have_the_agreed_columns(validate, tmp_path):
    rows, report = validate(write(tmp_path / "t", {}), "--condition", "arrivals")
    agreed = ["run_idx", "run_id", "family", "model", "twin_status", "extrapolated", "conditioned"]
    assert set(agreed) <= set(rows.columns)
    for name in METRICS:
        assert rows[f"real_{name}"].to_list() == [MEASURED[name]]
        assert rows[f"twin_{name}"][0] > 0
        assert rows[f"blind_{name}"][0] > 0
    assert rows["twin_status"].to_list() == ["ok"]
    assert rows["conditioned"].to_list() == ["exact"]
    assert rows["twin_completed"][0] <= 190
    kinds = {line["prediction"] for line in report["summary"]}
    assert kinds == {"blind", "arrivals"}
    assert len(report["worst"]) == 1


OUTCOMES = {
    **{name: value * 7 for name, value in MEASURED.items()},
    "starved_est": True,
    "served_ratio_est": 0.3,
    "ts_kv_usage_mean": 0.9,
    "ts_running_mean": 77.0,
}


def test_a_prediction_does_not_depend_on_what_came_out(validate, tmp_path):
    """Other outcomes, the same prediction: to the bit."""
    flags = ("--condition", "arrivals", "--interval", 0.9, "--draws", 2)
    honest, _ = validate(write(tmp_path / "a", {}), *flags)
    odd, _ = validate(write(tmp_path / "b", OUTCOMES), *flags)
    twin = [name for name in honest.columns if name.startswith(("twin_", "blind_", "near_"))]
    assert honest.select(twin).equals(odd.select(twin))
    assert not honest.select("real_completed").equals(odd.select("real_completed"))


def test_blind_predictions_do_not_use_the_arrival_count(validate, tmp_path):
    one, _ = validate(write(tmp_path / "a", {}))
    two, _ = validate(write(tmp_path / "b", {"client_arrivals_exact": 90}))
    told = "real_served_ratio"  # of the real run: what it served over what the client sent
    assert one.drop(told).equals(two.drop(told))
    assert one["conditioned"].to_list() == ["none"]


@pytest.mark.parametrize(
    ("change", "label", "at_most"),
    [
        ({"client_arrivals_exact": 100}, "exact", 100),
        ({"client_arrivals_exact": None, "client_arrivals_est": 50.4}, "est", 50),
        ({"client_arrivals_exact": None, "client_arrivals_est": None}, "none", 400),
    ],
)
def test_the_arrival_count_is_exact_else_estimated_else_none(
    validate, tmp_path, change, label, at_most
):
    rows, _ = validate(write(tmp_path / "t", change), "--condition", "arrivals")
    assert rows["conditioned"].to_list() == [label]
    assert rows["twin_completed"][0] <= at_most
    if label == "none":
        assert rows["twin_completed"].equals(rows["blind_completed"].alias("twin_completed"))


def test_columns_of_the_client_may_be_absent(validate, tmp_path):
    absent = ("client_arrivals_exact", "client_arrivals_est", "starved_est", "error_class")
    rows, _ = validate(write(tmp_path / "t", {}, drop=absent), "--condition", "arrivals")
    assert rows["conditioned"].to_list() == ["none"]
    assert rows["real_starved"].to_list() == [False]


def test_failed_runs_are_judged_only_for_their_start(validate, tmp_path):
    folder = write(
        tmp_path / "t",
        {},
        {**NEVER_STARTED, "error_class": "oom_cuda", "max_loras": 2000, "max_cpu_loras": 2000},
        {**NEVER_STARTED, "error_class": "no_kv_memory"},
        {**NEVER_STARTED, "error_class": "slurm_time_limit"},
    )
    rows, report = validate(folder)
    assert rows.height == 4
    assert rows["twin_status"].to_list() == ["ok", "infeasible", "ok", "ok"]
    assert rows["twin_total_throughput"].null_count() == 3
    (start,) = report["start"]
    assert (start["started"], start["twin_says_so"]) == (1, 1)
    assert (start["could_not_start"], start["twin_says_so_too"]) == (2, 1)
    assert start["not_judged"] == 1


def test_a_run_that_started_is_simulated_even_where_the_memory_model_says_no(validate, tmp_path):
    rows, _ = validate(write(tmp_path / "t", {"max_loras": 2000, "max_cpu_loras": 2000}))
    assert rows["twin_status"].to_list() == ["infeasible"]
    assert rows["twin_completed"][0] > 0
    assert rows["extrapolated"].to_list() == [True]


def test_models_without_a_profile_are_skipped_with_the_reason(validate, tmp_path):
    rows, report = validate(write(tmp_path / "t", {}, {"model": "mistral-7b"}))
    assert rows["twin_status"].to_list() == ["ok", "skipped"]
    assert rows["twin_error"][1] == "model (mistral-7b) has no shipped profile"
    assert report["left_out"][0]["runs"] == 1


def test_runs_that_did_not_serve_what_their_name_says_are_left_out(validate, tmp_path):
    rows, report = validate(write(tmp_path / "t", {}, {"run_id": "dt_real/x/_4_16_16_"}))
    assert rows["excluded"].to_list() == [None, "named as serving 16 adapters, but 8 have rates"]
    assert all(line["runs"] == 1 for line in report["summary"])


def test_the_errors_are_those_of_the_rows(validate, tmp_path):
    folder = write(tmp_path / "t", {}, {"total_throughput": 2000.0, "starved_est": True})
    rows, report = validate(folder)
    pairs = list(zip(rows["real_total_throughput"], rows["twin_total_throughput"], strict=True))
    mape = [100 * abs(twin - real) / real for real, twin in pairs]
    half = [100 * abs(twin - real) / (real + twin) for real, twin in pairs]
    by_regime = {line["regime"]: line for line in report["summary"]}
    assert by_regime["all"]["throughput_mape"] == pytest.approx(sum(mape) / 2)
    assert by_regime["all"]["throughput_smape_half"] == pytest.approx(sum(half) / 2)
    assert by_regime["all"]["throughput_smape_full"] == pytest.approx(sum(half))
    assert by_regime["unstarved"]["throughput_mape"] == pytest.approx(mape[0])
    assert by_regime["starved"]["throughput_mape"] == pytest.approx(mape[1])
    assert [line["run_idx"] for line in report["worst"]] == [1, 0]


def test_any_number_of_workers_gives_the_same_rows(validate, tmp_path):
    folder = write(tmp_path / "t", {}, {"max_loras": 1})
    one, _ = validate(folder, "--workers", 1)
    two, _ = validate(folder, "--workers", 2)
    assert one.equals(two)


def test_the_report_may_be_printed_and_saved(cli, tmp_path):
    folder = write(tmp_path / "t", {})
    base = ("validate", "--traces", folder, "--families", "dt_real", "--seeds", 1)
    table = cli(*base, "--out", tmp_path / "report.json")
    assert "throughput_mape" in table.out
    assert json.loads((tmp_path / "report.json").read_text())["seeds"] == 1
    assert cli(*base, "--format", "csv").out.startswith("prediction,model,family,regime,runs")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda f: (f / "runs.parquet").unlink(), "runs.parquet does not exist"),
        (lambda f: (f / "adapters.parquet").unlink(), "adapters.parquet does not exist"),
        (lambda f: (f / "runs.parquet").write_bytes(b"x" * 99), "is not readable Parquet"),
        (lambda f: write(f, {}, drop=("max_loras",)), "lacks column max_loras"),
        (lambda f: write(f, {"adapter_rank_pattern": "8,16"}), "not in the schema of traces"),
        (lambda f: write(f, {"family": "ml_test"}), "families (dt_real) have no run in"),
    ],
)
def test_a_bad_directory_gets_one_line(cli, tmp_path, spoil, expected):
    folder = write(tmp_path / "t", {})
    spoil(folder)
    done = cli("validate", "--traces", folder, "--families", "dt_real")
    assert done.code == 2
    assert expected in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--traces", "absent"), "traces (absent) must be a directory"),
        (("--traces", ".", "--seeds", 0), "seeds (0) must be >= 1"),
        (("--traces", ".", "--workers", 0), "workers (0) must be >= 1"),
        (("--traces", ".", "--rows", "rows.txt"), "must end in .parquet or .csv"),
        (("--traces", ".", "--condition", "all"), "--condition"),
    ],
)
def test_bad_flags(cli, flags, expected):
    done = cli("validate", *flags)
    assert done.code == 2
    assert expected in done.err


def test_real_runs_are_read(traces):
    runs = read_runs(traces, families=["dt_real"])
    assert len(runs.configs) == runs.outcomes.height > 100
    started = [c for c, s in zip(runs.configs, runs.outcomes["status"], strict=True) if s == "ok"]
    assert all(c.rates_rps and c.mean_lengths and c.profile and c.arrivals for c in started)
    assert {c.conditioned for c in started} == {"exact"}
    assert {rate for c in started for rate in c.rates_rps} <= {
        0.003125, 0.00625, 0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2,
    }  # fmt: skip


def test_the_two_mislabelled_runs_are_found(traces):
    runs = read_runs(traces, families=["ml_test"])
    excluded = [c.run_id for c in runs.configs if c.excluded]
    assert len(excluded) == 2
    assert all("rate_3.2-1.6-0.025_size_16-16-16" in run_id for run_id in excluded)


def test_an_empty_report_is_a_report():
    columns = ["run_id", "family", "model", "real_status", "real_error", "twin_status"]
    frame = pl.DataFrame(schema=dict.fromkeys([*columns, "twin_error", "excluded"], pl.String))
    numbers = [f"{side}_{name}" for side in ("real", "twin") for name in METRICS]
    frame = frame.with_columns(pl.lit(None, pl.Float64).alias(name) for name in numbers)
    report = build_report(
        frame.with_columns(
            run_idx=pl.lit(0),
            conditioned=pl.lit("none"),
            real_starved=pl.lit(None, pl.Boolean),
            twin_starved=pl.lit(None, pl.Boolean),
        )
    )
    assert report.summary == report.worst == report.start == []


def test_runs_whose_outcomes_are_kept_back_are_predicted_all_the_same(validate, tmp_path):
    told, _ = validate(write(tmp_path / "a", {}), "--condition", "arrivals", "--interval", 0.9)
    kept_back = (*MEASURED, "status", "error_class", "starved_est")
    folder = write(tmp_path / "b", {})
    runs = pl.read_parquet(folder / "runs.parquet").drop(kept_back)
    runs.write_parquet(folder / "runs.parquet")
    rows, report = validate(folder, "--condition", "arrivals", "--interval", 0.9)
    said = [name for name in rows.columns if name.startswith(("twin_", "blind_", "near_"))]
    assert rows.select(said).equals(told.select(said))
    assert report["summary"] == report["targets"] == []
