"""`--engine ray`: the same bytes as on this machine, whatever is lost on the way."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytwin.errors import ConfigError, DataError
from pytwin.sweep import Design, parse_spec, run_sweep
from pytwin.sweep.ray_engine import _Common, _of_worker, identity, simulate_part
from tests.conftest import Outcome

Write = Callable[[dict[str, Any]], Path]
Start = Callable[..., subprocess.Popen[str]]
Parts = Callable[[Path], dict[str, bytes]]

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install pytwin[ray]"
)


def test_without_ray_it_says_what_to_install(
    document: dict[str, Any],
    spec_file: Write,
    cli: Callable[..., Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    out = tmp_path / "out"
    outcome = cli("sweep", spec_file(document), "-o", out, "--engine", "ray")
    assert outcome.code == 2
    assert outcome.err.strip().endswith("not installed: pip install 'pytwin[ray]'")
    assert not out.exists()


@needs_ray
def test_an_address_that_does_not_answer(
    document: dict[str, Any], spec_file: Write, cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    arguments = ("--engine", "ray", "--address", "127.0.0.1:9")
    outcome = cli("sweep", spec_file(document), "-o", tmp_path / "out", *arguments)
    assert outcome.code == 2
    assert "address (127.0.0.1:9) leads to no Ray cluster" in outcome.err
    assert not (tmp_path / "out").exists()


def test_an_address_is_for_ray(
    document: dict[str, Any], spec_file: Write, cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = cli("sweep", spec_file(document), "-o", tmp_path / "out", "--address", "a:1")
    assert outcome.code == 2
    assert "add --engine ray" in outcome.err
    assert not (tmp_path / "out").exists()


def common_of(document: dict[str, Any], **changes: Any) -> tuple[Design, _Common]:
    design = Design(parse_spec(document))
    given = {"columns": design.columns, "identity": identity(), "profiles": {}}
    return design, _Common(**(given | changes))


def test_a_worker_makes_the_bytes_of_a_local_sweep(
    document: dict[str, Any], tmp_path: Path, parts: Parts
) -> None:
    """With the user's own profile sent along: the name that rows give it leads nowhere there."""
    run_sweep(parse_spec(document), tmp_path / "local")
    text = Path(document["base"]["profile"]).read_text()
    absent = str(tmp_path / "not-on-this-machine.json")
    moved = document | {"base": document["base"] | {"profile": absent}}
    design, common = common_of(moved, profiles={absent: text})
    frames = [
        simulate_part(common, part, list(design.rows(*design.part_range(part))))
        for part in range(design.n_parts)
    ]
    local = parts(tmp_path / "local")
    assert len(local) == len(frames)
    import polars as pl

    for made, content in zip(frames, local.values(), strict=True):
        here = pl.read_parquet(content)
        there = pl.read_parquet(made.content)
        assert there.drop("profile").equals(here.drop("profile"))
        assert made.status_counts == {"ok": here.height}
    design, common = common_of(document)
    assert simulate_part(common, 0, list(design.rows(0, 5))).content == next(iter(local.values()))


@pytest.mark.parametrize("name", ["pytwin", "polars", "code.core", "code.python"])
def test_a_worker_with_other_code_refuses(document: dict[str, Any], name: str) -> None:
    design, common = common_of(document, identity=identity() | {name: "another"})
    with pytest.raises(ConfigError, match=rf"{name} on .* must be that of the driver \(another\)"):
        simulate_part(common, 0, list(design.rows(0, 1)))


def test_what_a_worker_raises_is_one_line() -> None:
    class RaisedError(Exception):
        cause: BaseException | None = None

    told = RaisedError("Traceback ...\nModuleNotFoundError: No module named 'pytwin'")
    assert "install pytwin" in str(_of_worker(told, 3))
    told = RaisedError("Traceback\nline\nValueError: odd")
    assert str(_of_worker(told, 3)).startswith("part 3 failed on a worker (ValueError: odd)")
    told.cause = ConfigError("polars on b (2) must be that of the driver (1)")
    assert type(_of_worker(told, 3)) is ConfigError
    told.cause = MemoryError("no\nmore")
    assert isinstance(_of_worker(told, 3), DataError)
    assert "\n" not in str(_of_worker(told, 3))


@needs_ray
def test_a_cluster_that_cannot_be_started(
    document: dict[str, Any],
    spec_file: Write,
    cli: Callable[..., Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray

    def refuse(**options: Any) -> None:
        raise RuntimeError("no room for the object store\nand more lines")

    monkeypatch.setattr(ray, "init", refuse)
    arguments = ("--engine", "ray", "--address", "local")
    outcome = cli("sweep", spec_file(document), "-o", tmp_path / "out", *arguments)
    assert outcome.code == 2
    assert "cannot be started here (RuntimeError: no room for the object store)" in outcome.err
    assert not (tmp_path / "out").exists()


@needs_ray
@pytest.mark.slow
def test_a_cluster_of_its_own(
    document: dict[str, Any],
    spec_file: Write,
    sweep_cli: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    parts: Parts,
) -> None:
    """Started for the sweep; rows that fail and rows that cannot start are rows there, too."""
    grid = document["grid"] | {"max_loras": [2, 8, 500], "rates_rps": [0.1, -1]}
    mixed = document | {"grid": grid | {"served_adapters": [512]}}
    options = ("--engine", "ray", "--address", "local", "--workers", "1", "--format", "json")
    done = sweep_cli(spec_file(mixed), "-o", tmp_path / "ray", *options)
    assert done.returncode == 1, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["ok"], summary["infeasible"], summary["failed"]) == (4, 2, 6)
    run_sweep(parse_spec(mixed), tmp_path / "local")
    assert parts(tmp_path / "ray") == parts(tmp_path / "local")


def workers_of(raylet: int) -> list[int]:
    """Processes of a machine's raylet that are simulating a part."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name = (process / "cmdline").read_bytes()
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if parent == raylet and name.startswith(b"ray::simulate_part"):
            found.append(int(process.name))
    return found


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two machines on this one, with one core each; `second` is the one that is no head."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install pytwin[ray]")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")
    from ray.cluster_utils import Cluster

    sizes = {"num_cpus": 1, "object_store_memory": 80 * 1024 * 1024, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=sizes)
    try:
        made.second = made.add_node(**sizes)
        yield made
    finally:
        made.shutdown()


def raylet_of(machine: Any) -> int:
    return int(machine.all_processes["raylet"][0].process.pid)


def wait_for(happened: Callable[[], Any], seconds: float = 120.0) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := happened():
            return found
        time.sleep(0.005)
    raise AssertionError("it did not happen")


@pytest.mark.slow
def test_a_worker_and_a_machine_lost_in_the_middle_change_nothing(
    slow_document: dict[str, Any],
    spec_file: Write,
    start_sweep: Start,
    tmp_path: Path,
    parts: Parts,
    cluster: Any,
) -> None:
    local, out = tmp_path / "local", tmp_path / "ray"
    run_sweep(parse_spec(slow_document), local)
    total = len(parts(local))
    process = start_sweep(
        spec_file(slow_document), "-o", out, "--engine", "ray", "--address", cluster.address
    )
    first, second = raylet_of(cluster.head_node), raylet_of(cluster.second)
    os.kill(wait_for(lambda: workers_of(first))[0], signal.SIGKILL)
    wait_for(lambda: parts(out) and workers_of(second))
    cluster.remove_node(cluster.second, allow_graceful=False)
    assert len(parts(out)) < total, "the sweep was over before the machine was lost"
    _, complaint = process.communicate(timeout=120)
    assert process.returncode == 0, complaint
    assert parts(out) == parts(local)
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["engine"], manifest["status"]) == ("ray", "finished")
    assert "0 failed" in complaint


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished_and_the_local_engine_goes_on(
    slow_document: dict[str, Any],
    spec_file: Write,
    start_sweep: Start,
    sweep_cli: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    parts: Parts,
    cluster: Any,
) -> None:
    spec, local, out = spec_file(slow_document), tmp_path / "local", tmp_path / "ray"
    run_sweep(parse_spec(slow_document), local)
    options = ("--engine", "ray", "--address", cluster.address)
    process = start_sweep(spec, "-o", out, *options)
    wait_for(lambda: parts(out))
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130, complaint
    assert "Traceback" not in complaint
    assert f"--resume {' '.join(options)}" in complaint
    kept = parts(out)
    assert 0 < len(kept) < len(parts(local))
    machines = (cluster.head_node, cluster.second)
    wait_for(lambda: not any(workers_of(raylet_of(machine)) for machine in machines))
    assert sweep_cli(spec, "-o", out, "--resume").returncode == 0
    assert parts(out) == parts(local)
