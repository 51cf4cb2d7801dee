"""`pytwin record` as a user drives it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from pytwin.conformance.cases import parse_case
from pytwin.record.case import case_of
from pytwin.record.read import read_recording
from tests.conftest import Outcome

from .conftest import header, requests_file, steps_file, write

Cli = Callable[..., Outcome]


def test_it_says_how_to_start_vllm(cli: Cli) -> None:
    done = cli("record", "my/model", "--directory", "a folder")
    assert done.code == 0
    assert "PYTWIN_RECORD='a folder' vllm serve my/model --enable-lora" in done.out
    assert "pytwin calibrate fit 'a folder'" in done.out


def test_inspect(cli: Cli, recording: Path) -> None:
    (row,) = json.loads(cli("record", "inspect", recording, "--format", "json").out)
    assert row["recording"] == "run"
    assert (row["steps"], row["requests"], row["finished"], row["aborted"]) == (3, 2, 1, 1)
    assert (row["adapter_loads"], row["whole"], row["stopped"]) == (2, True, None)
    assert row["seconds"] == pytest.approx(3.9)
    assert row["median_step_ms"] == pytest.approx(900.0)
    assert row["recorder_share"] == pytest.approx(0.003 / 3.9)
    table = cli("record", "inspect", recording)
    assert "max_loras 2, max_cpu_loras 2, 1 adapters seen" in table.out
    rows = list(csv.DictReader(io.StringIO(cli("record", "inspect", recording.parent,
                                               "--format", "csv").out)))  # fmt: skip
    assert rows[0]["device"] == "a processor"


def test_a_broken_recording_is_one_line(cli: Cli, tmp_path: Path) -> None:
    path = write(tmp_path / "run", steps=b"{")
    done = cli("record", "inspect", path)
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert "ends in a torn line (1)" in done.err


def test_a_torn_line_can_be_dropped(cli: Cli, recording: Path) -> None:
    with (recording / "worker.jsonl").open("ab") as file:
        file.write(b'{"e":"exec"')
    assert cli("record", "inspect", recording).code == 2
    (row,) = json.loads(
        cli("record", "inspect", recording, "--torn", "drop", "--format", "json").out
    )
    assert row["torn"] == "worker.jsonl"
    assert (row["whole"], row["recorder_share"]) == (False, None)


def test_convert_to_tables(cli: Cli, recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "tables"
    done = cli("record", "convert", recording, "-o", out)
    assert (done.code, done.out) == (0, "")
    read = read_recording(recording)
    for name in ("steps", "batches", "requests", "adapter_events"):
        assert pl.read_parquet(out / f"{name}.parquet").equals(getattr(read, name))
    told = json.loads((out / "recording.json").read_text())
    assert told["header"]["config"]["num_blocks"] == 21
    assert told["worker"]["device"] == "a processor"
    assert told["closed"] is True


def test_convert_several(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path / "both" / "a")
    write(tmp_path / "both" / "b")
    assert cli("record", "convert", tmp_path / "both", "-o", tmp_path / "out").code == 0
    assert sorted(path.parent.name for path in tmp_path.glob("out/*/steps.parquet")) == ["a", "b"]
    done = cli("record", "convert", tmp_path / "both", "-o", tmp_path / "case.json")
    assert done.code == 2
    assert "holds 2 recordings, a case is of one" in done.err


def test_convert_to_a_case(cli: Cli, recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "case.json"
    assert cli("record", "convert", recording, "--out", out).code == 0
    case = json.loads(out.read_text())
    parse_case(case)
    assert case["requests"][1]["id"] == "b"
    assert case["aborts"] == [{"step": 4, "id": "b"}]
    assert case["lora_preload"] == [9]
    assert case["lora_order"] == {"0": [5], "2": [5], "3": [5]}


def test_prompts_are_equal_where_their_blocks_were(tmp_path: Path) -> None:
    """Block hashes are all that a recording keeps of a prompt."""
    requests = requests_file()
    requests[1].blocks = ["aa"]  # type: ignore[union-attr]
    requests[3].blocks = ["aa", "bb"]  # type: ignore[union-attr]
    steps = steps_file()
    config = header().config | {"enable_prefix_caching": True}
    path = write(tmp_path / "run", requests=requests, steps=[header(config=config), *steps[1:]])
    a, b = (r["prompt_token_ids"] for r in case_of(read_recording(path))["requests"])
    assert (len(a), len(b)) == (6, 9)
    assert a[:4] == b[:4]
    assert a[4:] != b[4:6]
    assert len(set(b)) > 6
