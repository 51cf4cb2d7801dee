"""Public logs read into one form; what cannot be is told in one line."""

from __future__ import annotations

import polars as pl
import pytest

from pytwin.errors import DataError, PytwinError, WorkloadError
from pytwin.fleet.logs import assign_adapters, check_gaps, read_log

AZURE = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04,3180,8
2023-11-16 18:17:05.4799600+00:00,110,0
2023-11-17 18:17:03.9799600,110,27
"""
BURSTGPT = """\
Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,GPT-4,1087,230,1317,Conversation log
118,GPT-4,417,0,417,API log
119.5,ChatGPT,417,276,693,Conversation log
"""
MOONCAKE = """\
{"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, 2]}
{"timestamp": 3000, "input_length": 7322, "output_length": 490, "hash_ids": [0, 14]}
{"timestamp": 5999, "input_length": 7236, "output_length": 794, "hash_ids": []}
"""
SERVEGEN = """\
request_id,timestamp,input_tokens,output_tokens
0,0.25,31,100
1,0.75,40,7
"""
OWN = """\
arrival_s,adapter,prompt_tokens,output_tokens,rank
0.5,sql,120,40,8
1.5,,300,200,
2.5,sql,90,12,8
"""


@pytest.fixture
def log_file(tmp_path):
    def write(text: str, name: str = "log.csv") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.parametrize("kind", ["auto", "azure"])
def test_azure_times_are_counted_from_the_first_request(log_file, kind):
    log = read_log(log_file(AZURE), kind)
    assert log.frame["arrival_s"].to_list() == pytest.approx([0.0, 0.02004, 86400.0], abs=1e-9)
    assert log.frame["prompt_tokens"].to_list() == [4808, 3180, 110]
    assert log.frame["output_tokens"].to_list() == [10, 8, 27]
    assert log.dropped == 1
    assert log.adapters == ()


@pytest.mark.parametrize("kind", ["auto", "burstgpt"])
def test_burstgpt_drops_failures_and_names_models(log_file, kind):
    log = read_log(log_file(BURSTGPT), kind)
    assert log.frame["arrival_s"].to_list() == [0.0, 40.0, 114.5]
    assert log.frame["adapter"].to_list() == ["ChatGPT", "GPT-4", "ChatGPT"]
    assert log.dropped == 1


@pytest.mark.parametrize("kind", ["auto", "mooncake"])
def test_mooncake_counts_in_milliseconds(log_file, kind):
    log = read_log(log_file(MOONCAKE, "log.jsonl"), kind)
    assert log.frame["arrival_s"].to_list() == pytest.approx([0.0, 3.0, 5.999])
    assert log.frame["output_tokens"].to_list() == [500, 490, 794]


@pytest.mark.parametrize("kind", ["auto", "servegen"])
def test_servegen(log_file, kind):
    log = read_log(log_file(SERVEGEN), kind)
    assert log.frame["arrival_s"].to_list() == [0.0, 0.5]
    assert log.frame["prompt_tokens"].to_list() == [31, 40]


def test_own_form_keeps_times_names_and_ranks(log_file):
    log = read_log(log_file(OWN))
    assert log.frame["arrival_s"].to_list() == [0.5, 1.5, 2.5]
    assert log.adapters == ("sql",)
    assert log.ranks["sql"] == 8
    assert log.trace().names == ("sql",)
    assert log.trace().adapter.tolist() == [1, 0, 1]


def test_parquet_reads_as_csv_does(log_file, tmp_path):
    log = read_log(log_file(OWN))
    log.frame.write_parquet(tmp_path / "log.parquet")
    assert read_log(tmp_path / "log.parquet").frame.equals(log.frame)


BROKEN = {
    "backwards": (OWN.replace("1.5", "9"), r"row 2: arrival_s \(2.5\) must not go backwards"),
    "text": (OWN.replace("120", "many"), r"row 0: prompt_tokens \(many\) must be a finite number"),
    "absent": (OWN.replace("120", ""), r"row 0: prompt_tokens \(None\) must be a finite number"),
    "negative": (OWN.replace("200", "-2"), r"row 1: output_tokens \(-2\) must be >= 0"),
    "fraction": (OWN.replace("200", "2.5"), r"row 1: output_tokens \(2.5\) must be a whole number"),
    "no tokens": (OWN.replace("12,8", "0,8"), r"row 2: output_tokens \(0\) must be a whole number"),
    "column": (OWN.replace("prompt_tokens", "prompt"), "lacks column prompt_tokens"),
    "header only": (OWN.splitlines()[0] + "\n", "holds no request"),
    "nothing": ("", "is empty"),
    "unknown": ("a,b\n1,2\n", "is of no known format"),
    "azure time": (AZURE.replace("2023-11-16 18:17:04,", "noon,"), r"row 1: TIMESTAMP \(noon\)"),
    "azure back": (AZURE.replace("11-17", "11-15"), "row 3: TIMESTAMP .* must not go backwards"),
    "only failures": (
        "timestamp,input_tokens,output_tokens\n1,2,0\n",
        "holds no request with tokens",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_is_said_in_one_line(log_file, case):
    text, message = BROKEN[case]
    with pytest.raises(PytwinError, match=message) as caught:
        read_log(log_file(text))
    assert "\n" not in str(caught.value)


def test_unknown_formats_and_files(log_file, tmp_path):
    with pytest.raises(DataError, match=r"log format \(syslog\) is unknown: use auto, pytwin"):
        read_log(log_file(OWN), "syslog")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="lacks column TIMESTAMP"):
        read_log(log_file(OWN), "azure")
    with pytest.raises(DataError, match="cannot be read"):
        read_log(tmp_path / "absent.csv")
    with pytest.raises(DataError, match="is a directory"):
        read_log(tmp_path)


def _log_with_hole(log_file, hole_s: float):
    early = [float(t) for t in range(7200)]
    times = early + [7199 + hole_s + t for t in range(7200)]
    frame = pl.DataFrame(
        {"arrival_s": times, "adapter": "a", "prompt_tokens": 1, "output_tokens": 1}
    )
    return read_log(log_file(frame.write_csv()))


def test_a_hole_is_named_with_its_place(log_file):
    with pytest.raises(DataError, match=r"from 7199 s to 21599 s .*--allow-gaps"):
        check_gaps(_log_with_hole(log_file, 4 * 3600.0), 3600.0)


def test_less_than_three_bins_is_no_hole(log_file):
    check_gaps(_log_with_hole(log_file, 2.9 * 3600.0), 3600.0)


def test_a_sparse_log_has_long_gaps_but_no_hole(log_file):
    rows = "".join(f"{t},a,1,1\n" for t in range(0, 1_000_000, 50_000))
    check_gaps(read_log(log_file("arrival_s,adapter,prompt_tokens,output_tokens\n" + rows)), 60.0)


def test_dealing_follows_zipf_and_the_seed(log_file):
    rows = "".join(f"{t},,1,1\n" for t in range(30_000))
    log = read_log(log_file("arrival_s,adapter,prompt_tokens,output_tokens\n" + rows))
    dealt = assign_adapters(log, 4, 1.0, seed=3, rank=(8, 16))
    shares = dealt.frame["adapter"].value_counts(normalize=True).sort("adapter")["proportion"]
    # 1, 1/2, 1/3, 1/4 over 25/12; 4 standard deviations of 30,000 draws are 0.012.
    assert shares.to_list() == pytest.approx([12 / 25, 6 / 25, 4 / 25, 3 / 25], abs=0.012)
    assert dealt.ranks == {f"adapter-{k}": (8, 16)[(k - 1) % 2] for k in range(1, 5)}
    assert dealt.frame["arrival_s"].equals(log.frame["arrival_s"])
    assert assign_adapters(log, 4, 1.0, seed=3, rank=(8, 16)).frame.equals(dealt.frame)
    assert not assign_adapters(log, 4, 1.0, seed=4).frame.equals(dealt.frame)
    with pytest.raises(WorkloadError, match=r"adapters \(0\) must be from 1"):
        assign_adapters(log, 0)
