"""Carrying out a plan: for each run a server with the recorder, its load, its recording."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytwin.record.read import RecordingError, read_recording

from .client import drive
from .plan import Run
from .server import ServerError, serve

# The recorder marks its files as whole once the server has been silent for a second.
SILENCE_S = 1.6
DONE = "done.json"
FAILED = "failed.txt"


@dataclass(frozen=True)
class Bench:
    """Where and how to measure.

    Attributes:
        python: of the environment with vLLM.
        model: what is served; a directory or a name that vLLM knows.
        config: the model's config.json.
        adapters: directory of the adapters.
        out: of the campaign.
        serve_flags: of `vllm serve`, for every run.
        environment: of the server, on top of this process's.
        timeout_s: for what is in flight after the last arrival.
    """

    python: Path
    model: str
    config: Path
    adapters: Path
    out: Path
    serve_flags: Sequence[str]
    environment: dict[str, str]
    timeout_s: float = 120.0

    def folder(self, run: Run) -> Path:
        """The run's directory; the recording lies in it."""
        return self.out / "runs" / run.name


def make_tiny_model(python: Path, directory: Path) -> Path:
    """A tiny random Llama and its tokenizer; its directory."""
    base = directory / "base"
    if not (base / "tokenizer.json").is_file():
        _models(python, ["base", str(base)])
    return base


def save_config(python: Path, model: str, directory: Path) -> Path:
    """The config.json of any model that the environment can find."""
    local = Path(model) / "config.json"
    if local.is_file():
        return local
    directory.mkdir(parents=True, exist_ok=True)
    code = ("import sys; from transformers import AutoConfig; "
            "AutoConfig.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])")  # fmt: skip
    subprocess.run([str(python), "-c", code, model, str(directory)], check=True)
    return directory / "config.json"


def make_adapters(bench: Bench, plan: Iterable[Run]) -> None:
    """Every adapter that a plan asks for, unless it is there."""
    names = sorted({run.adapter_name(k + 1) for run in plan for k in range(run.adapters)})
    if any(not (bench.adapters / name).exists() for name in names):
        _models(bench.python, ["adapters", str(bench.adapters), "--config", str(bench.config),
                               "--names", ",".join(names)])  # fmt: skip


def _models(python: Path, arguments: list[str]) -> None:
    script = Path(__file__).with_name("models.py")
    subprocess.run([str(python), str(script), *arguments], check=True)


def measure(bench: Bench, run: Run) -> str:
    """Carries out one run unless it is done; what happened, in one line."""
    folder = bench.folder(run)
    if (folder / DONE).is_file():
        return "done before"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    raw = folder / "raw"
    environment = dict(bench.environment)
    if run.recorded:
        environment["PYTWIN_RECORD"] = str(raw)
    requests = run.requests()
    vocab = _vocabulary(bench.config)
    try:
        with serve(bench.python, flags(bench, run), log=folder / "server.log",
                   environment=environment) as server:  # fmt: skip
            client = asyncio.run(
                drive(requests, port=server.port, model="base", vocab=vocab,
                      timeout_s=bench.timeout_s)
            )  # fmt: skip
            time.sleep(SILENCE_S)
    except ServerError as error:
        (folder / FAILED).write_text(f"{error}\n{_last_error(folder / 'server.log')}\n")
        return f"FAILED: {error}"
    if run.recorded:
        _adopt(raw, folder)
    (folder / "client.json").write_text(json.dumps(client))
    ok = sum(request.status == "ok" for request in requests)
    told = {"requests": len(requests), "ok": ok, "started_s": round(server.started_s, 1),
            "load_s": round(client["duration_s"], 1), "flags": flags(bench, run)}  # fmt: skip
    try:
        steps = read_recording(folder).steps.height if run.recorded else 0
    except RecordingError as error:
        (folder / FAILED).write_text(f"{error}\n")
        return f"FAILED: {error}"
    (folder / DONE).write_text(json.dumps(told | {"steps": steps}, indent=1) + "\n")
    return f"{ok} of {len(requests)} requests, {steps} steps in {client['duration_s']:.0f} s"


def flags(bench: Bench, run: Run) -> list[str]:
    """What stands behind `vllm serve`, but for host and port."""
    words = [bench.model, "--served-model-name", "base", *bench.serve_flags]
    if run.kv_blocks:
        words += ["--num-gpu-blocks-override", str(run.kv_blocks)]
    if run.max_loras:
        words += ["--enable-lora", "--max-loras", str(run.max_loras)]
        words += ["--max-cpu-loras", str(run.max_cpu_loras or run.max_loras)]
        words += ["--max-lora-rank", str(run.max_lora_rank), "--lora-modules"]
        names = [run.adapter_name(k + 1) for k in range(run.adapters)]
        words += [f"{name}={bench.adapters / name}" for name in names]
    return words


def _adopt(raw: Path, folder: Path) -> None:
    """Moves the one recording below `raw` into the run's directory."""
    found = sorted(raw.iterdir()) if raw.is_dir() else []
    if len(found) != 1:
        print(f"campaign: {len(found)} recordings in {raw}", file=sys.stderr)
        return
    for path in found[0].iterdir():
        path.rename(folder / path.name)
    shutil.rmtree(raw)


def _vocabulary(config: Path) -> int:
    told = json.loads(config.read_text())
    return int((told.get("text_config") or told)["vocab_size"])


def _last_error(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    errors = [line for line in lines if "Error" in line]
    return (errors or lines or [""])[-1][:500]
