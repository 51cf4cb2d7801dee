"""A validation report as tables in the documentation."""

from __future__ import annotations

import json

import pytest

from calibration import tables
from tests.validate.made import write


def test_a_report_becomes_tables(cli, tmp_path):
    folder = write(tmp_path / "t", {}, {"total_throughput": 2000.0, "starved_est": True})
    done = cli(
        "validate", "--traces", folder, "--families", "dt_real", "--condition", "arrivals",
        "--seeds", 2, "--draws", 2, "--interval", 0.9, "--out", tmp_path / "report.json",
    )  # fmt: skip
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "report.json").read_text())
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results: begin -->\nold\n<!-- results: end -->\nafter\n")
    tables.write(page, "results", tables.results(report))
    text = page.read_text()
    assert text.startswith("before\n<!-- results: begin -->\n")
    assert text.endswith("<!-- results: end -->\nafter\n")
    assert "old" not in text
    first = next(row for row in report["summary"] if row["prediction"] == "arrivals")
    assert f"| arrivals | Llama | all | 2 | {first['throughput_mape']:.2f} (" in text
    missed = sum(not row["met"] for row in report["targets"])
    assert text.count("**missed**") == missed
    covered = "\n".join(tables.coverage(report))
    assert covered.count("| TTFT |") == 2  # arrivals and blind


def test_a_page_without_a_place_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing here\n")
    with pytest.raises(SystemExit, match="has no place for results"):
        tables.write(page, "results", [])
