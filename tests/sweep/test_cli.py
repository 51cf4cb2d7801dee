"""`python -m pytwin.sweep`, as a user drives it."""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import pytwin.sweep
from tests.conftest import Outcome

Cli = Callable[..., subprocess.CompletedProcess[str]]
Write = Callable[[dict[str, Any]], Path]
Parts = Callable[[Path], dict[str, bytes]]


def one_line_error(outcome: Outcome, words: str) -> None:
    assert outcome.code == 2
    assert outcome.out == ""
    lines = [line for line in outcome.err.splitlines() if line.strip()]
    assert len(lines) == 1, outcome.err
    assert words in lines[0]


def test_a_sweep_and_its_summary(
    document: dict[str, Any], spec_file: Write, sweep_cli: Cli, tmp_path: Path
) -> None:
    done = sweep_cli(spec_file(document), "-o", tmp_path / "out", "--format", "json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["configurations"], summary["ok"], summary["failed"]) == (28, 28, 0)
    for words in ("28/28", "configurations/s", "simulated h/s", "0 failed"):
        assert words in done.stderr
    again = sweep_cli(spec_file(document), "-o", tmp_path / "out", "--resume", "--format", "csv")
    assert again.returncode == 0
    assert "finished before" in again.stderr
    header, values = csv.reader(again.stdout.splitlines())
    assert dict(zip(header, values, strict=True))["ok"] == "28"


def test_failed_rows_give_exit_code_1_infeasible_ones_do_not(
    document: dict[str, Any], spec_file: Write, sweep_cli: Cli, tmp_path: Path
) -> None:
    grid = document["grid"] | {"max_loras": [2, 500], "served_adapters": [512]}
    done = sweep_cli(spec_file(document | {"grid": grid}), "-o", tmp_path / "short")
    assert done.returncode == 0, done.stderr
    assert "infeasible      4" in done.stdout
    grid = document["grid"] | {"rates_rps": [-1, 1]}
    done = sweep_cli(spec_file(document | {"grid": grid}), "-o", tmp_path / "bad")
    assert done.returncode == 1
    assert "14 configurations failed" in done.stderr
    errors = pl.read_parquet(tmp_path / "bad" / "*.parquet")["error"].drop_nulls().unique()
    assert errors.to_list() == ["rates_rps (-1.0) must be >= 0"]


def test_dry_run_tells_the_cost_and_writes_nothing(
    document: dict[str, Any], spec_file: Write, sweep_cli: Cli, tmp_path: Path
) -> None:
    done = sweep_cli(spec_file(document), "-o", tmp_path / "out", "--dry_run", "--format", "json")
    assert done.returncode == 0, done.stderr
    cost = json.loads(done.stdout)
    assert (cost["configurations"], cost["parts"], cost["part_rows"]) == (28, 6, 5)
    assert cost["estimated_s"] > 0
    assert cost["estimated_disk_bytes"] > 1000
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "{out}", "--engine", "spark"], "engine (spark)"),
        (["-o", "{out}", "--workers", "0"], "workers (0)"),
        (["-o", "{out}", "--workers", "many"], "many"),
        (["-o", "{out}", "--format", "xml"], "xml"),
        (["-o", "{out}", "--reusme"], "reusme"),
        ([], "-o DIR"),
    ],
)
def test_wrong_usage(
    document: dict[str, Any],
    spec_file: Write,
    cli: Callable[..., Outcome],
    tmp_path: Path,
    arguments: list[str],
    words: str,
) -> None:
    given = [text.replace("{out}", str(tmp_path / "out")) for text in arguments]
    one_line_error(cli("sweep", spec_file(document), *given), words)
    assert not (tmp_path / "out").exists()


def test_bad_specs(
    document: dict[str, Any], spec_file: Write, cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    one_line_error(cli("sweep", spec_file(document | {"gird": 1}), "-o", out), "did you mean grid?")
    one_line_error(cli("sweep", tmp_path / "absent.yaml", "-o", out), "cannot be read")
    one_line_error(
        cli("sweep", spec_file(document | {"where": "open('x')"}), "-o", out), "where (open('x'))"
    )
    assert not out.exists()


def test_a_directory_that_cannot_be(
    document: dict[str, Any], spec_file: Write, cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    one_line_error(cli("sweep", spec_file(document), "-o", tmp_path / "file"), "is no directory")
    one_line_error(
        cli("sweep", spec_file(document), "-o", tmp_path / "file" / "x"), "cannot be made"
    )
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        one_line_error(cli("sweep", spec_file(document), "-o", tmp_path / "locked"), "cannot be")


def test_a_part_that_cannot_be_written(
    document: dict[str, Any], spec_file: Write, sweep_cli: Cli, tmp_path: Path, parts: Parts
) -> None:
    """A limit on file size stands for a full disk: the kernel refuses the write."""
    spec, out = spec_file(document), tmp_path / "out"
    assert sweep_cli(spec, "-o", out).returncode == 0
    before = parts(out)
    for part in (3, 4):
        (out / f"part-{part:06d}.parquet").unlink()
    kept = parts(out)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))

    done = sweep_cli(spec, "-o", out, "--resume", preexec_fn=limit)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert "part-000003.parquet cannot be written: File too large" in last
    assert "--resume" in last
    assert "Traceback" not in done.stderr
    assert parts(out) == kept
    assert not list(out.glob("*.tmp"))
    assert sweep_cli(spec, "-o", out, "--resume").returncode == 0
    assert parts(out) == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk(
    document: dict[str, Any],
    spec_file: Write,
    sweep_cli: Cli,
    tmp_path: Path,
    small_disk: Path,
    parts: Parts,
) -> None:
    spec = spec_file(document | {"seeds": 4})
    done = sweep_cli(spec, "-o", small_disk / "out")
    assert done.returncode == 2
    assert "No space left on device" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    kept = parts(small_disk / "out")
    assert kept
    assert sweep_cli(spec, "-o", tmp_path / "whole").returncode == 0
    whole = parts(tmp_path / "whole")
    assert len(kept) < len(whole)
    assert all(whole[name] == content for name, content in kept.items())


def test_a_directory_that_cannot_be_written(
    document: dict[str, Any],
    spec_file: Write,
    sweep_cli: Cli,
    small_disk: Path,
    parts: Parts,
) -> None:
    """Not even by root: a disk that is mounted for reading only."""
    spec, out = spec_file(document | {"seeds": 1, "part_rows": 14}), small_disk / "out"
    assert sweep_cli(spec, "-o", out).returncode == 0
    before = parts(out)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for place, words in (
        (out, "sweep.lock cannot be written: Read-only file system"),
        (small_disk / "new", "cannot be made: Read-only file system"),
    ):
        done = sweep_cli(spec, "-o", place, "--resume")
        assert done.returncode == 2
        assert words in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
    assert parts(out) == before
    assert pytwin.sweep.open(out).collect().height == 14


def test_nobody_hears_what_is_said(
    document: dict[str, Any], spec_file: Write, sweep_cli: Cli, tmp_path: Path, parts: Parts
) -> None:
    """`2>/dev/full`: a log that cannot be written costs the log, not the sweep."""
    spec = spec_file(document)
    assert sweep_cli(spec, "-o", tmp_path / "heard").returncode == 0
    shell = f'{sys.executable} -m pytwin.sweep "$@" 2>/dev/full'
    for resume in ([], ["--resume"]):
        command = ["sh", "-c", shell, "sh", spec, "-o", tmp_path / "unheard", *resume]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "ok              28" in done.stdout
    assert parts(tmp_path / "unheard") == parts(tmp_path / "heard")


@pytest.mark.slow
def test_ctrl_c_keeps_finished_parts_and_tells_how_to_go_on(
    slow_document: dict[str, Any],
    spec_file: Write,
    start_sweep: Callable[..., subprocess.Popen[str]],
    sweep_cli: Cli,
    tmp_path: Path,
    parts: Parts,
) -> None:
    spec, out = spec_file(slow_document), tmp_path / "out"
    process = start_sweep(spec, "-o", out)
    while process.poll() is None and not parts(out):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "Traceback" not in told
    assert f"go on with: pytwin sweep {spec} -o {out} --resume" in told
    kept = parts(out)
    assert kept
    assert json.loads((out / "manifest.json").read_text())["status"] == "interrupted"
    done = sweep_cli(spec, "-o", out, "--resume")
    assert done.returncode == 0
    assert "are there already" in done.stderr
    assert all(parts(out)[name] == content for name, content in kept.items())
