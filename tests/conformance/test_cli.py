"""`pytwin conformance` as a user drives it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytwin.conformance.client import Reference
from pytwin.conformance.tables import as_markdown, as_text, update_block, with_total
from pytwin.errors import PytwinError

CASE = {
    "config": {"max_loras": 1},
    "requests": [
        {"id": "a", "arrival_step": 0, "prompt_len": 20, "max_tokens": 3, "lora_id": 1},
        {"id": "b", "arrival_step": 0, "prompt_len": 5, "max_tokens": 2, "lora_id": 2},
    ],
}
FIELDS = [
    *("type", "i", "added", "aborted", "scheduled", "total_tokens", "preempted", "blocks"),
    *("free_head", "free_blocks", "running", "waiting", "loras", "lora_order", "lora_events"),
    *("lora_slots", "lora_gpu_lru", "lora_cpu_lru", "output", "finished", "free_blocks_after"),
]


def pytwin(
    *arguments: str, stdin: str | None = None, directory: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytwin", "conformance", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        cwd=directory,
    )


@pytest.fixture
def case_file(tmp_path: Path) -> Path:
    path = tmp_path / "case.json"
    path.write_text(json.dumps(CASE))
    return path


@pytest.mark.parametrize("version", ["0.8.5", "0.32", "0.32.0"])
def test_run_prints_the_trace(case_file: Path, version: str) -> None:
    done = pytwin("run", str(case_file), "--engine-version", version)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["type"] for r in records] == ["header", *["step"] * (len(records) - 2), "summary"]
    assert list(records[0]) == ["type", "vllm", "config", "requests", "hash_seed"]
    assert list(records[-1]) == [
        "type", "steps", "preemptions", "tokens", "unfinished", "seconds",
    ]  # fmt: skip
    assert records[0]["requests"] == 2
    assert records[0]["config"]["num_blocks"] == 257
    assert list(records[1]) == FIELDS
    assert records[1]["scheduled"] == [["a", 20, 0, "N"]]  # b waits for the only slot
    assert records[1]["lora_events"] == [["load", 1], ["activate", 1, 0]]
    assert records[-1]["unfinished"] == 0


def test_run_reads_stdin_and_ignores_the_format(case_file: Path) -> None:
    plain = pytwin("run", str(case_file)).stdout
    for form in ("table", "json", "csv"):
        done = pytwin("run", "-", "--format", form, stdin=case_file.read_text())
        assert done.returncode == 0, done.stderr
        assert done.stdout == plain


def test_flags_take_underscores(case_file: Path) -> None:
    done = pytwin("run", str(case_file), "--engine_version", "0.8.5")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["run", "-", "--engine-version", "0.9"], "{}", "engine version (0.9) is unknown"),
        (["run", "no-such-file.json"], None, "no-such-file.json"),
        (["run", "x.json", "--enginee-version", "0.8.5"], None, "Did you mean --engine-version"),
        (["run", "-"], "{", "not JSON"),
        (["run", "-"], '{"requests": [], "config": {"speculative": 1}}', "unknown key"),
        (
            ["run", "-", "--engine-version", "0.8.5"],
            '{"requests": [], "config": {"async_scheduling": true}}',
            "does not exist in engine version 0.8.5",
        ),
        (["fuzz", "--engine-version", "1.0"], None, "is unknown"),
        (["fuzz", "--preset", "hard"], None, "preset (hard) is unknown"),
        (["fuzz", "--engine-version", "0.8.5", "--preset", "priority"], None, "0.8.5 lacks"),
        (["fuzz", "--seeds", "0"], None, "seeds (0) must be >= 1"),
        (["replay", "no-such-directory"], None, "is no directory"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], stdin: str | None, message: str, tmp_path: Path
) -> None:
    done = pytwin(*arguments, stdin=stdin, directory=tmp_path)
    assert done.returncode == 2, done.stdout
    assert done.stdout == ""
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.network
def test_fuzz_prints_a_table_per_preset(
    reference_of: Callable[[str], Reference], tmp_path: Path
) -> None:
    reference_of("0.32")  # skips when vLLM's files are not to be had
    done = pytwin(
        "fuzz", "--engine-version", "0.32", "--seeds", "1", "--preset", "lora,prefix",
        "--format", "json", directory=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["preset"] for row in rows] == ["lora", "prefix", "total"]
    assert rows[-1]["differences"] == 0
    assert rows[-1]["steps"] == rows[0]["steps"] + rows[1]["steps"] > 100
    assert list(tmp_path.iterdir()) == []  # nothing differs: nothing is saved


@pytest.mark.network
def test_fuzz_writes_its_table_into_a_document(
    reference_of: Callable[[str], Reference], tmp_path: Path
) -> None:
    reference_of("0.32")
    document = tmp_path / "table.md"
    document.write_text("before\n<!-- fuzz 0.32 -->\nold\n<!-- /fuzz 0.32 -->\nafter\n")
    done = pytwin("fuzz", "--seeds", "1", "--preset", "lora", "--update", str(document))
    assert done.returncode == 0, done.stderr
    text = document.read_text()
    assert text.startswith("before\n<!-- fuzz 0.32 -->\npytwin ")
    assert text.endswith("<!-- /fuzz 0.32 -->\nafter\n")
    assert "`pytwin conformance fuzz --engine-version 0.32 --seeds 1 --preset lora`" in text
    assert "| lora | 1 |" in text
    assert "old" not in text


def test_replay_tells_a_difference_and_exits_1(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    events = [
        {"e": "header", "t": 0.0, "vllm": "0.32.0", "config": {"num_blocks": 21, "max_loras": 0}},
        {"e": "req", "t": 0.1, "id": "a", "step": 0, "arrival": 9.5, "prompt": 5, "max_tokens": 1},
        {"e": "step", "i": 0, "t0": 0.2, "t1": 0.3, "t2": 0.4, "t3": 0.5,
         "added": ["a"], "sched": [["a", 5, 0, "N"]], "tokens": 5,
         "preempted": [], "nrun": 1, "nwait": 0, "free": 17, "loras": [],
         "fin": {"a": ["length", 1]}},
    ]  # fmt: skip
    (run / "steps.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    done = pytwin("replay", str(tmp_path))
    assert done.returncode == 1
    assert "run: first difference at iteration 0, free_blocks" in done.stderr
    assert "17" in done.stderr
    assert "19" in done.stderr
    assert done.stdout.splitlines()[0].split() == [
        "recording", "steps", "preemptions", "adapter", "loads", "differences",
    ]  # fmt: skip


def test_tables() -> None:
    rows = with_total([{"preset": "x", "steps": 1200}, {"preset": "yy", "steps": 34}], "preset")
    assert as_text(rows, "table").splitlines() == [
        "preset  steps",
        "x       1,200",
        "yy         34",
        "total   1,234",
    ]
    assert as_text(rows, "csv").splitlines() == ["preset,steps", "x,1200", "yy,34", "total,1234"]
    assert json.loads(as_text(rows, "json")) == rows
    assert as_markdown(rows, "By hand:").splitlines() == [
        "By hand:",
        "",
        "| preset | steps |",
        "| --- | --: |",
        "| x | 1,200 |",
        "| yy | 34 |",
        "| total | 1,234 |",
    ]


def test_a_document_without_marks_is_told(tmp_path: Path) -> None:
    document = tmp_path / "table.md"
    document.write_text("nothing\n")
    with pytest.raises(PytwinError, match="has no place for the table"):
        update_block(document, "fuzz 0.32", "text")
    assert document.read_text() == "nothing\n"
