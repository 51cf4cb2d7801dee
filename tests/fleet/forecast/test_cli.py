"""`pytwin forecast`: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import csv
import io
import json

import polars as pl
import pytest

import pytwin as pt

GENERATE = ("forecast", "generate", "--adapters", 4, "--total-rate-rps", 0.1, "--lengths", "9,9")


@pytest.fixture
def log(tmp_path, cli) -> str:
    path = str(tmp_path / "log.csv")
    done = cli(*GENERATE, "--duration-s", 4 * 86_400, "--ranks", "8,32", "-o", path)
    assert (done.code, done.out) == (0, "")
    assert "requests of 4 adapters" in done.err
    return path


def test_json_tells_rates_methods_scores_and_bursts(log, cli):
    done = cli("forecast", log, "--method", "ewma", "--format", "json")
    assert (done.code, done.err) == (0, "")
    told = json.loads(done.out)
    assert (told["bins"], told["horizon_bins"], told["level"]) == (96, 24, 0.9)
    assert {row["adapter"] for row in told["adapters"]} == {f"adapter-{k}" for k in range(1, 5)}
    for row in told["adapters"]:
        assert 0 <= row["lower_rps"] <= row["rate_rps"] <= row["upper_rps"] <= row["peak_rps"]
        assert row["method"] == "ewma"
        assert row["band"] == "adapter"
        assert row["mase"] > 0
    assert all(burst["factor"] is None or burst["factor"] > 1 for burst in told["bursts"])


def test_table_and_csv(log, cli):
    table = cli("forecast", log, "--method", "persistence")
    assert table.code == 0
    assert "adapter-1" in table.out
    assert "24 bins of 3600 s after 96; band 0.9" in table.out
    rows = list(csv.DictReader(io.StringIO(cli("forecast", log, "--method", "ewma",
                                               "--format", "csv").out)))  # fmt: skip
    assert len(rows) == 4
    assert float(rows[0]["rate_rps"]) > 0


def test_auto_chooses_and_says_what(log, cli):
    done = cli("forecast", log, "--horizon-s", 10 * 3600, "--bin-s", 14_400, "--format", "json")
    assert done.code == 0
    told = json.loads(done.out)
    assert told["horizon_bins"] == 3
    assert all(row["class"] in ("dense", "sparse") for row in told["adapters"])


def test_what_it_writes_is_read_by_others(log, cli, tmp_path):
    target, rates = tmp_path / "fleet.csv", tmp_path / "rates.parquet"
    for quantile, column in (("mean", "rate_rps"), ("upper", "upper_rps"), ("peak", "peak_rps")):
        done = cli("forecast", log, "--method", "ewma", "--adapters-out", target, "--quantile",
                   quantile, "--rates-out", rates, "--format", "json")  # fmt: skip
        assert done.code == 0
        fleet = pt.adapters_from_csv(target)
        told = json.loads(done.out)["adapters"]
        assert fleet.rates_rps == pytest.approx([row[column] for row in told])
        assert fleet.names == tuple(row["adapter"] for row in told)
        by_name = dict(zip(fleet.names, fleet.ranks, strict=True))
        assert by_name == {"adapter-1": 8, "adapter-2": 32, "adapter-3": 8, "adapter-4": 32}
    frame = pl.read_parquet(rates)
    assert frame.columns == ["adapter", "bin", "rate_rps", "lower_rps", "upper_rps"]
    assert frame.height == 4 * 24


def test_a_log_without_adapters_is_dealt_out(tmp_path, cli):
    path = tmp_path / "azure.csv"
    lines = [f"2023-11-16 {h:02d}:{m:02d}:00.5,10,{5 * (m % 7 > 0)}" for h in range(20)
             for m in range(60)]  # fmt: skip
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(lines) + "\n")
    refused = cli("forecast", path)
    assert refused.code == 2
    assert "--deal N" in refused.err
    done = cli("forecast", path, "--deal", 3, "--ranks", 64, "--method", "ewma", "--bin-s", 1800,
               "--horizon-s", 3600, "--adapters-out", tmp_path / "f.csv")  # fmt: skip
    assert done.code == 0, done.err
    assert "180 requests without tokens were left out" in done.err
    assert pt.adapters_from_csv(tmp_path / "f.csv").ranks == [64, 64, 64]


def test_generated_rates_are_the_truth(tmp_path, cli):
    log, rates = tmp_path / "log.parquet", tmp_path / "rates.csv"
    done = cli(*GENERATE, "--duration-s", 86_400, "-o", log, "--rates-out", rates,
               "--daily-amplitude", 0, "--daily-spread", 0, "--bursts-per-day", 0,
               "--virals-per-week", 0)  # fmt: skip
    assert done.code == 0, done.err
    total = pl.read_csv(rates).group_by("bin").agg(pl.col("rate_rps").sum())["rate_rps"]
    assert total.to_list() == pytest.approx([0.1] * 24)
    assert pl.read_parquet(log).height == pytest.approx(8640, abs=4 * 93)


def test_holes_are_refused_until_allowed(log, cli, tmp_path):
    frame = pl.read_csv(log)
    cut = tmp_path / "cut.csv"
    frame.filter(~pl.col("arrival_s").is_between(90_000, 130_000)).write_csv(cut)
    refused = cli("forecast", cut, "--method", "ewma")
    assert refused.code == 2
    assert "--allow-gaps" in refused.err
    assert refused.err.count("\n") == 1
    assert cli("forecast", cut, "--method", "ewma", "--allow-gaps").code == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "prophet"], "--method"),
        (["--level", 1], r"level (1.0) must be above 0"),
        (["--horizon-s", 0], r"horizon_s (0.0) must be > 0"),
        (["--bin-s", -1], r"bin_s (-1.0) must be > 0"),
        (["--bin-s", 1e9], "before one whole bin"),
        (["--log-format", "azure"], "lacks column TIMESTAMP"),
        (["--adapters-out", "fleet.parquet"], "must end in .csv"),
        (["--horizon-s", 1e9, "--method", "seasonal-naive", "--bin-s", 5000], "must divide 86400"),
        (["--false-alarm", 2], "false_alarm (2.0)"),
    ],
)
def test_what_it_refuses(log, cli, flags, message):
    done = cli("forecast", log, *flags)
    assert done.code == 2
    assert message in done.err
    assert done.out == ""
    assert done.err.count("\n") == 1


def test_a_short_log_says_that_its_bands_are_poisson(tmp_path, cli):
    path = tmp_path / "short.csv"
    assert cli(*GENERATE, "--duration-s", 20_000, "-o", path).code == 0
    done = cli("forecast", path, "--bin-s", 3600, "--method", "ewma")
    assert done.code == 0
    assert "too short to learn bands" in done.err
