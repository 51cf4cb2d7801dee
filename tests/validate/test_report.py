"""`pytwin validate`: floor, verdicts, coverage, near-critical runs, targets, the measuring side."""

from __future__ import annotations

import polars as pl
import pytest

from pytwin.validate.targets import targets
from tests.validate.made import write


def test_intervals_come_with_coverage_near_critical_and_targets(validate, tmp_path):
    folder = write(tmp_path / "t", {}, {"mean_ttft_ms": 1e6, "total_throughput": 1.0})
    rows, report = validate(
        folder, "--condition", "arrivals", "--interval", 0.9, "--draws", 4, "--workers", 2
    )
    for prefix in ("twin", "blind"):
        for name in ("total_throughput", "mean_tpot_ms", "mean_itl_ms", "mean_ttft_ms"):
            low, twin, high = (rows[f"{prefix}_{name}{end}"] for end in ("_low", "", "_high"))
            assert ((low < twin) & (twin < high)).all()
    assert rows["near_critical"].dtype == pl.Boolean
    assert rows["near_critical"].null_count() == 0
    assert rows["twin_starved_probability"].is_between(0, 1).all()
    covered = {
        (row["prediction"], row["metric"]): row
        for row in report["coverage"]
        if row["regime"] == "all"
    }
    # The second run's figures are absurd: below any throughput, above any TTFT.
    for kind in ("blind", "arrivals"):
        assert covered[kind, "total_throughput"]["below"] >= 50
        assert covered[kind, "mean_ttft_ms"]["above"] >= 50
        ends = covered[kind, "mean_ttft_ms"]
        assert ends["covered"] + ends["below"] + ends["above"] == pytest.approx(100)
    figures = {line["figure"] for line in report["targets"]}
    assert "coverage of mean_ttft_ms" in figures
    assert all(line["met"] in (True, False) for line in report["targets"])
    assert report["near_critical"]


def test_without_intervals_nothing_is_said_of_them(validate, tmp_path):
    rows, report = validate(write(tmp_path / "t", {}))
    assert rows["twin_total_throughput_low"].null_count() == 1
    assert rows["near_critical"].null_count() == 1
    assert report["coverage"] == report["near_critical"] == []
    assert report["interval"] is None


def test_the_floor_is_the_spread_of_the_seeds(validate, tmp_path):
    """Blind, the count of arrivals moves throughput; given the count it moves far less."""
    folder = write(tmp_path / "t", {}, {"max_loras": 8})
    rows, report = validate(folder, "--condition", "arrivals", "--seeds", 6)
    both = rows.select("twin_total_throughput_floor", "blind_total_throughput_floor")
    assert (both["blind_total_throughput_floor"] > both["twin_total_throughput_floor"]).all()
    by_kind = {row["prediction"]: row for row in report["floor"] if row["regime"] == "all"}
    assert by_kind["blind"]["throughput_floor"] == pytest.approx(
        rows["blind_total_throughput_floor"].mean()
    )
    # The floor is known in closed form: 192 expected arrivals, 1 / sqrt(192) of which is the
    # standard deviation; the mean absolute value of a normal is 0.8 of it. Lengths add to it.
    assert 3.0 < by_kind["blind"]["throughput_floor"] < 12.0
    single, _ = validate(folder, "--seeds", 1)
    assert single["twin_total_throughput_floor"].null_count() == 2


def test_verdicts_leave_out_what_is_near_the_line(validate, tmp_path):
    long = {"total_time_s": 300.0, "max_loras": 8}  # so that what is in flight at the end is little
    near = {**long, "served_ratio_est": 0.905, "starved_est": False}
    clear = {**long, "served_ratio_est": 0.99, "starved_est": False}
    wrong = {**long, "served_ratio_est": 0.5, "starved_est": True, "mean_ttft_ms": 5000.0}
    _, report = validate(write(tmp_path / "t", near, clear, wrong))
    (line,) = report["verdicts"]
    assert (line["runs"], line["clear_runs"]) == (3, 2)
    assert line["starved_right"] == pytest.approx(200 / 3)
    assert line["starved_right_clear"] == 50
    assert line["slow_right"] == pytest.approx(200 / 3)


def test_runs_with_less_kv_memory_are_told_by_their_outcome(validate, tmp_path):
    usual = {"ts_kv_usage_mean": 0.005, "ts_running_mean": 10.0}
    less = {"ts_kv_usage_mean": 0.5, "ts_running_mean": 10.0}
    idle = {"ts_kv_usage_mean": 0.5, "ts_running_mean": 1.0}
    rows, report = validate(write(tmp_path / "t", usual, less, idle))
    assert rows["less_kv_memory"].to_list() == [False, True, None]
    said = [(row["less_kv_memory"], row["runs"]) for row in report["less_kv_memory"]]
    assert said == [(True, 1), (False, 1)]
    plain, _ = validate(write(tmp_path / "u", {}))
    twin = "twin_total_throughput"
    assert rows[twin][0] == rows[twin][1] == plain[twin][0]


@pytest.mark.parametrize(
    ("flags", "moved"),
    [
        (("--max-connections", 2), "completed"),
        (("--metrics-poll-s", 0), "mean_itl_ms"),
        (("--early-eos", 0.9), "total_throughput"),
        (("--no-pool-lengths",), "total_throughput"),
    ],
)
def test_the_measuring_side_can_be_switched(validate, tmp_path, flags, moved):
    folder = write(tmp_path / "t", {"total_time_s": 300.0, "pool_mean_output_len": 150.0})
    usual, report = validate(folder)
    other, changed = validate(folder, *flags)
    assert usual[f"twin_{moved}"][0] != other[f"twin_{moved}"][0]
    assert report["measurement"] != changed["measurement"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--interval", 1.5), "interval (1.5) must be above 0 and below 1"),
        (("--draws", -1), "draws (-1) must be >= 0"),
        (("--metrics-poll-s", -1), "metrics_poll_s (-1.0) must be >= 0; 0 is no polls"),
        (("--early-eos", 2), "early_eos (2.0) must be from 0 to 1"),
        (("--max-connections", -1), "max_connections (-1) must be >= 0; 0 is no limit"),
    ],
)
def test_bad_measuring_flags(cli, flags, expected):
    done = cli("validate", "--traces", ".", *flags)
    assert done.code == 2
    assert expected in done.err


def test_targets_are_held_against_the_figures():
    head = {"prediction": "arrivals", "model": "m", "family": "f", "regime": "all", "runs": 9}
    kept = {"throughput_mape": 1.0, "tpot_mape": 3.1, "itl_mape": None, "ttft_median_error": 9.0}
    verdict = {**head, "starved_right_clear": 97.9, "slow_right": 98.0}
    inside = {**head, "metric": "mean_tpot_ms", "covered": 96.0}
    lines = targets([{**head, **kept}], [verdict], [inside])
    assert {line["figure"]: line["met"] for line in lines} == {
        "throughput_mape (all)": True,
        "tpot_mape (all)": False,
        "ttft_median_error (all)": True,
        "starved_right_clear": False,
        "slow_right": True,
        "coverage of mean_tpot_ms": False,
    }
    blind = targets([{**head, **kept, "prediction": "blind", "throughput_mape": 1.9}], [], [])
    assert {line["target"] for line in blind} == {"<= 1.8", "<= 3.9", "<= 13"}
    assert [line["met"] for line in blind] == [False, True, True]
