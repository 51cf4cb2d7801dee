"""The frames of a small recording, value by value, and of real ones."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from pytwin.record import events as ev
from pytwin.record import frames
from pytwin.record.read import read_recording

from .conftest import RUN, lines, requests_file, step, steps_file, worker_file, write


def test_steps(recording: Path) -> None:
    table = read_recording(recording).steps
    assert table.schema == pl.Schema(frames.STEPS)
    prefill = ["step", "tokens", "prefill_tokens", "prefill_sequences", "prefill_context_tokens"]
    assert table.select(prefill).rows() == [(0, 6, 6, 1, 0), (2, 5, 4, 1, 0), (3, 4, 3, 1, 4)]
    decode = ["decode_sequences", "decode_context_tokens", "lora_sequences", "lora_tokens"]
    assert table.select(decode).rows() == [(0, 0, 1, 6), (1, 6, 1, 1), (1, 7, 1, 1)]
    adapters = ["adapters", "max_rank", "loads", "load_s", "activations", "activate_s"]
    assert table.select(adapters).rows() == [
        (1, 8, 1, 0.02, 1, 0.01), (1, 8, 0, 0.0, 0, 0.0), (1, 8, 0, 0.0, 0, 0.0),
    ]  # fmt: skip
    times = ["schedule_start_s", "update_end_s", "exec_start_s", "exec_s", "sample_s", "gpu_s"]
    assert table.select(times).row(1) == (4.0, 4.9, 4.2, 0.4, 0.05, 0.39)
    assert table["skipped"].to_list() == [0, 1, 0]
    assert table["finished"].to_list() == [0, 0, 1]


def test_a_rank_that_is_unknown_is_null(tmp_path: Path) -> None:
    worker = [e for e in worker_file() if not isinstance(e, ev.LoraLoad) or e.id != 5]
    table = read_recording(write(tmp_path / "run", worker=worker)).steps
    assert table["max_rank"].to_list() == [None, None, None]


def test_batches(recording: Path) -> None:
    table = read_recording(recording).batches
    assert table.schema == pl.Schema(frames.BATCHES)
    assert table.rows()[1:3] == [
        (2, "a", 1, 6, "C", True, 5),
        (2, "b", 4, 0, "N", False, None),
    ]


def test_requests(recording: Path) -> None:
    served = [ev.File(format=1, run=RUN), ev.Served(t=5.95, id="a", e2e=4.4, ttft=1.5, out=3)]
    (recording / "frontend-7.jsonl").write_bytes(lines(served))
    table = read_recording(recording).requests
    assert table.schema == pl.Schema(frames.REQUESTS)
    a, b = table.rows(named=True)
    assert (a["adapter"], a["lora_id"], a["prompt_tokens"], a["arrival_step"]) == ("five", 5, 6, 0)
    assert a["arrival_s"] == pytest.approx(1.8)  # 1001.8 on the clock on which 0.5 is 1000.5
    assert (a["first_scheduled_s"], a["first_token_s"], a["finished_s"]) == (2.0, 2.9, 5.9)
    assert (a["finish_reason"], a["output_tokens"], a["preemptions"]) == ("length", 3, 0)
    assert (a["served_ttft_s"], a["served_e2e_s"]) == (1.5, 4.4)
    assert (b["finish_reason"], b["finished_s"], b["lora_id"]) == ("abort", 5.95, None)
    assert b["first_token_s"] is None
    assert b["served_ttft_s"] is None


def test_a_preempted_request_computes_its_prompt_again_as_a_prefill(tmp_path: Path) -> None:
    steps = [
        *steps_file()[:2],
        step(2, [("a", 1, 6, "C")]),
        step(3, [], preempted=["a"], tokens=0),
        step(4, [("a", 8, 0, "R")]),
        step(5, [("a", 1, 8, "C")]),
    ]
    requests = requests_file()[:3]
    read = read_recording(write(tmp_path / "run", steps=steps, requests=requests, worker=None))
    assert read.steps["prefill_tokens"].to_list() == [6, 0, 8, 0]
    assert read.steps["decode_sequences"].to_list() == [0, 1, 0, 1]
    assert read.requests["preemptions"].to_list() == [1]
    assert read.requests["first_token_s"].to_list() == [2.9]


def test_adapter_events(recording: Path) -> None:
    table = read_recording(recording).adapter_events
    assert table.schema == pl.Schema(frames.ADAPTER_EVENTS)
    assert table.rows() == [
        (1.0, "load", 9, 16, None, 0.2, None),
        (1.1, "activate", 9, None, 0, 0.1, None),
        (2.21, "load", 5, 8, None, 0.02, 0),
        (2.23, "activate", 5, None, 1, 0.01, 0),
    ]


@pytest.mark.parametrize(
    ("name", "steps", "requests", "preloaded"),
    [
        ("async_llm_200req_12lora_prefix", 2220, 200, 0),
        ("async_llm_200req_8lora", 2468, 200, 0),
        ("vllm_serve_bench_100req_8lora", 1225, 100, 8),
    ],
)
def test_recordings_of_the_first_format_read(
    traces: Path, name: str, steps: int, requests: int, preloaded: int
) -> None:
    path = traces.parent / "cpu-vllm-traces" / name
    if not path.is_dir():
        pytest.skip(f"no recorded run at {path}")
    read = read_recording(path)
    assert read.header.format == 0
    assert (read.closed, read.worker, len(read.preloaded)) == (None, None, preloaded)
    table = read.steps
    assert table.height == steps
    assert table["exec_s"].null_count() == 0
    parts = table["prefill_tokens"] + table["decode_sequences"]
    assert (parts == table["tokens"]).all()
    assert read.requests.height == requests
    assert read.requests["output_tokens"].sum() + requests > 0
    # Every token is made by a step: one per decode, one per prompt that became whole.
    made = int(table["decode_sequences"].sum())
    assert int(read.requests["output_tokens"].sum()) >= made
