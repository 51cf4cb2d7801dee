"""What lies in the directory: whole parts or none, the same bytes however the sweep ran."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import pytwin.sweep
from pytwin import _core
from pytwin.errors import DataError
from pytwin.sweep import SweepResult, fingerprint, parse_spec, run_sweep
from pytwin.sweep.fingerprint import code_digests
from pytwin.sweep.lock import DirectoryLock
from pytwin.sweep.manifest import ChangedError

Parts = Callable[[Path], dict[str, bytes]]


def run(document: dict[str, Any], directory: Path, **options: Any) -> SweepResult:
    return run_sweep(parse_spec(document), directory, **options)


@pytest.fixture
def finished(document: dict[str, Any], tmp_path: Path) -> Path:
    directory = tmp_path / "finished"
    run(document, directory)
    return directory


def test_one_and_two_workers_give_the_same_bytes(
    document: dict[str, Any], tmp_path: Path, parts: Parts
) -> None:
    for workers in (1, 2, 5):
        run(document, tmp_path / str(workers), workers=workers)
    one = parts(tmp_path / "1")
    assert len(one) == 6
    assert parts(tmp_path / "2") == one
    assert parts(tmp_path / "5") == one


def test_part_rows_change_the_files_but_no_value(
    document: dict[str, Any], finished: Path, tmp_path: Path
) -> None:
    run(document | {"part_rows": 1000}, tmp_path / "one")
    assert len(list((tmp_path / "one").glob("*.parquet"))) == 1
    whole = pytwin.sweep.open(tmp_path / "one").collect()
    assert pytwin.sweep.open(finished).collect().equals(whole)


def test_the_directory_holds_what_it_should(finished: Path) -> None:
    names = sorted(path.name for path in finished.iterdir())
    assert names == [
        "manifest.json", *(f"part-{part:06d}.parquet" for part in range(6)), "parts.jsonl",
    ]  # fmt: skip
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert (manifest["rows"], manifest["part_rows"], manifest["parts"]) == (28, 5, 6)
    assert manifest["summary"] == {"ok": 28, "infeasible": 0, "failed": 0}
    assert manifest["seeds"] == [0, 1]
    assert {
        "spec",
        "spec_sha256",
        "pytwin_version",
        "profiles",
        "host",
        "created",
        "finished",
    } < set(manifest)
    heights = [pl.read_parquet(path).height for path in sorted(finished.glob("*.parquet"))]
    assert heights == [5, 5, 5, 5, 5, 3]


def test_open_gives_the_rows_in_order(document: dict[str, Any], finished: Path) -> None:
    design = pytwin.sweep.Design(parse_spec(document))
    lazy = pytwin.sweep.open(finished)
    assert isinstance(lazy, pl.LazyFrame)
    names = ["max_loras", "served_adapters", "rates_rps", "seed"]
    wanted = [{name: row[name] for name in names} for row in design.rows(0, design.n_rows)]
    assert lazy.select(names).collect().to_dicts() == wanted


def test_open_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no sweep"):
        pytwin.sweep.open(tmp_path)


@pytest.mark.parametrize("lost", [[0], [5], [1, 3, 4], [0, 1, 2, 3, 4, 5]])
def test_resume_makes_what_is_missing_and_nothing_else(
    document: dict[str, Any], finished: Path, parts: Parts, lost: list[int]
) -> None:
    before = parts(finished)
    times = {name: (finished / name).stat().st_mtime_ns for name in before}
    for part in lost:
        (finished / f"part-{part:06d}.parquet").unlink()
    (finished / "part-000009.parquet.tmp").write_bytes(b"half a part")
    result = run(document, finished, resume=True)
    assert result.new_parts == len(lost)
    assert result.status_counts == {"ok": 28, "infeasible": 0, "failed": 0}
    assert parts(finished) == before
    assert not list(finished.glob("*.tmp"))
    for name, written in times.items():
        if int(name[5:11]) not in lost:
            assert (finished / name).stat().st_mtime_ns == written


def test_resume_starts_in_an_absent_or_empty_directory(
    document: dict[str, Any], tmp_path: Path
) -> None:
    assert run(document, tmp_path / "a" / "b", resume=True).new_parts == 6
    (tmp_path / "empty").mkdir()
    assert run(document, tmp_path / "empty", resume=True).new_parts == 6
    assert run(document, tmp_path / "empty", resume=True).new_parts == 0


def test_nothing_is_overwritten_without_resume(
    document: dict[str, Any], finished: Path, parts: Parts
) -> None:
    before = parts(finished)
    with pytest.raises(DataError, match=r"not empty.*--resume"):
        run(document, finished)
    assert parts(finished) == before


@pytest.mark.parametrize("resume", [True, False])
def test_a_directory_of_other_things_is_left_alone(
    document: dict[str, Any], tmp_path: Path, resume: bool
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="choose another directory"):
        run(document, tmp_path, resume=resume)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".yaml"] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seeds": 3}, r"spec\.seeds \(2 there, 3 here\)"),
        ({"seeds": [0, 2]}, r"spec\.seeds"),
        ({"where": None}, r"spec\.where"),
        ({"part_rows": 4}, r"spec\.part_rows \(5 there, 4 here\)"),
        ({"name": "other"}, r"spec\.name"),
        (
            {"grid": {"max_loras": [1], "served_adapters": [4], "rates_rps": [1]}},
            r"grid\.max_loras",
        ),
    ],
)
def test_another_spec_is_refused_and_named(
    document: dict[str, Any], finished: Path, parts: Parts, change: dict[str, Any], words: str
) -> None:
    before = parts(finished)
    with pytest.raises(ChangedError, match=words):
        run(document | change, finished, resume=True)
    assert parts(finished) == before


def test_another_profile_is_refused(document: dict[str, Any], profile: str, tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text(Path(profile).read_text())
    changed = document | {"base": document["base"] | {"profile": str(own)}}
    run(changed, tmp_path / "out")
    own.write_text(own.read_text().replace("9000.0", "9001.0"))
    with pytest.raises(ChangedError, match="profiles"):
        run(changed, tmp_path / "out", resume=True)


@pytest.mark.parametrize(
    ("key", "words"), [("pytwin_version", "pytwin_version"), ("core_version", "core_version")]
)
def test_another_version_is_refused(
    document: dict[str, Any], finished: Path, key: str, words: str
) -> None:
    path = finished / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: "0.0.1"}))
    with pytest.raises(ChangedError, match=words):
        run(document, finished, resume=True)


@pytest.mark.parametrize("name", ["core", "python"])
def test_other_code_under_the_same_version_is_refused(
    document: dict[str, Any],
    finished: Path,
    parts: Parts,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """A core that was built anew, or a module that was changed: versions do not tell."""
    before = parts(finished)
    (finished / "part-000001.parquet").unlink()
    changed = code_digests() | {name: "0123"}
    monkeypatch.setattr("pytwin.sweep.manifest.code_digests", lambda: changed)
    with pytest.raises(ChangedError, match=rf"another code\.{name} \(.* there, .*0123.* here\)"):
        run(document, finished, resume=True)
    monkeypatch.undo()
    run(document, finished, resume=True)
    assert parts(finished) == before


def test_the_code_digests_are_of_the_code() -> None:
    core = hashlib.sha256(Path(_core.__file__).read_bytes()).hexdigest()
    assert code_digests()["core"] == core
    package = Path(pytwin.sweep.__file__).parents[1]
    # Each pattern of the list leads somewhere: a module that is moved must not drop out.
    for pattern in fingerprint.MODULES:
        assert list(package.glob(pattern)), pattern


def test_a_manifest_of_before_can_be_read_but_not_gone_on_with(
    document: dict[str, Any], finished: Path
) -> None:
    path = finished / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["code"]
    path.write_text(json.dumps(manifest))
    assert pytwin.sweep.open(finished).collect().height == 28
    with pytest.raises(ChangedError, match=r"another code\.core \(nothing there"):
        run(document, finished, resume=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "damaged"), ("{}", "damaged"), ('{"schema": 99}', "schema 99"), ("\x00", "damaged")],
)
def test_a_damaged_manifest_is_told(
    document: dict[str, Any], finished: Path, text: str, words: str
) -> None:
    (finished / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=words):
        run(document, finished, resume=True)


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def drop_a_row(content: bytes) -> bytes:
    buffer = io.BytesIO()
    pl.read_parquet(content)[:-1].write_parquet(buffer)
    return buffer.getvalue()


def empty(content: bytes) -> bytes:
    return b""


# Without the journal's checksum one flipped bit may leave a readable file.
@pytest.mark.parametrize(
    ("damage", "journal"),
    [
        *((damage, "kept") for damage in (cut, flip, drop_a_row, empty)),
        *((damage, "gone") for damage in (cut, drop_a_row, empty)),
    ],
)
def test_a_damaged_part_is_named_with_the_way_out(
    document: dict[str, Any],
    finished: Path,
    parts: Parts,
    damage: Callable[[bytes], bytes],
    journal: str,
) -> None:
    before = parts(finished)
    victim = finished / "part-000002.parquet"
    if journal == "gone":
        (finished / "parts.jsonl").unlink()
    victim.write_bytes(damage(before[victim.name]))
    with pytest.raises(DataError, match=r"part-000002.parquet is damaged \(.*\): delete it"):
        run(document, finished, resume=True)
    victim.unlink()
    run(document, finished, resume=True)
    assert parts(finished) == before


def test_a_torn_journal_is_mended(document: dict[str, Any], finished: Path, parts: Parts) -> None:
    before = parts(finished)
    journal = finished / "parts.jsonl"
    journal.write_text(journal.read_text()[:-20])
    (finished / "part-000005.parquet").unlink()
    run(document, finished, resume=True)
    assert parts(finished) == before
    last = json.loads(journal.read_text().splitlines()[-1])
    assert last["part"] == 5


def test_foreign_parquet_is_not_taken_for_a_part(document: dict[str, Any], finished: Path) -> None:
    shutil.copy(finished / "part-000000.parquet", finished / "copy.parquet")
    with pytest.raises(DataError, match=r"copy\.parquet is no part"):
        run(document, finished, resume=True)


def hold(directory: Path, held: Any, done: Any) -> None:
    with DirectoryLock(directory):
        held.set()
        done.wait(60)


def test_two_sweeps_cannot_share_a_directory(document: dict[str, Any], tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, held, done))
    other.start()
    try:
        assert held.wait(60)
        with pytest.raises(DataError, match=rf"in use by another sweep \(pid {other.pid} on "):
            run(document, tmp_path)
    finally:
        done.set()
        other.join()
    assert run(document, tmp_path).new_parts == 6


@pytest.mark.parametrize("text", ['{"pid": 999999, "host": "elsewhere"}', "", "garbage"])
def test_a_lock_left_behind_is_taken_over(
    document: dict[str, Any], tmp_path: Path, text: str
) -> None:
    (tmp_path / "sweep.lock").write_text(text)
    run(document, tmp_path, resume=True)
    assert not (tmp_path / "sweep.lock").exists()


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_to_the_same_bytes(
    document: dict[str, Any],
    spec_file: Callable[[dict[str, Any]], Path],
    start_sweep: Callable[..., Any],
    tmp_path: Path,
    parts: Parts,
) -> None:
    """Many small parts: the moments fall into files being written as often as into simulation."""
    many = document | {"seeds": 12, "part_rows": 2}
    spec = spec_file(many)
    expected = tmp_path / "expected"
    total = run(many, expected).new_parts
    whole = parts(expected)
    directory = tmp_path / "killed"
    moments = random.Random(20)  # noqa: S311
    kills = inside = 0
    while kills < 12:
        before = len(parts(directory))
        process = start_sweep(spec, "-o", directory, "--resume")
        # Past a part, or in the middle of starting up: wherever the moment falls.
        wanted = min(before + moments.choice((0, 1, 1, 5, 8)), total - 1)
        while process.poll() is None and len(parts(directory)) < wanted:
            time.sleep(0.002)
        time.sleep(moments.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        kept = parts(directory)
        inside += before < len(kept) < total
        assert all(whole[name] == content for name, content in kept.items())
        if len(kept) == total:
            shutil.rmtree(directory)  # it was quicker than the kill: once more from the start
    assert inside > 0
    run(many, directory, resume=True)
    assert parts(directory) == whole
