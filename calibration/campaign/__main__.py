"""`python -m calibration.campaign`: measure a server, fit its profile, judge it."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from . import environment, report
from .judge import judge
from .measure import FAILED, Bench, make_adapters, make_tiny_model, measure, save_config
from .plan import CPU_START_S, GPU_START_S, cpu_plan, gpu_plan, total_s

# CPU attention wants blocks of a multiple of 32 tokens; torch.compile is off with LoRA there.
CPU_FLAGS = [
    "--max-model-len",
    "1024",
    "--max-num-seqs",
    "16",
    "--max-num-batched-tokens",
    "256",
    "--block-size",
    "32",
    "--num-gpu-blocks-override",
    "96",
    "--kv-cache-memory-bytes",
    "268435456",
    "--enforce-eager",
    "--no-enable-prefix-caching",
]
GPU_FLAGS = ["--no-enable-prefix-caching"]
# Nothing is fetched or reported; the order of a Python set is the same in every run.
OFFLINE = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "PYTHONHASHSEED": "0"}


def main() -> int:
    """Parses, measures, judges; 1 if a run failed."""
    given, extra = _parser().parse_known_args()
    plan = cpu_plan() if given.cpu else gpu_plan()
    if given.plan:
        print(report.plan_table(plan, CPU_START_S if given.cpu else GPU_START_S))
        return 0
    if given.out is None or not (given.cpu or given.model):
        raise SystemExit("campaign: -o DIR and --model MODEL (or --cpu) are needed; see --help")
    named = given.runs.split(",") if given.runs else [run.name for run in plan]
    chosen = [run for run in plan if run.name in named]
    unknown = sorted(set(named) - {run.name for run in plan})
    if unknown:
        raise SystemExit(f"campaign: runs ({unknown[0]}) is not in the plan: see --plan")
    try:
        bench = _bench(given, [word for word in extra if word != "--"])
    except environment.NoVllmError as error:
        raise SystemExit(f"campaign: {error}") from None
    if not given.judge_only:
        begun = total_s(chosen, CPU_START_S if given.cpu else GPU_START_S)
        _say(f"{len(chosen)} runs, about {begun / 60:.0f} minutes")
        make_adapters(bench, chosen)
        for run in chosen:
            _say(f"{run.name}: {run.tells}")
            _say(f"{run.name}: {measure(bench, run)}")
    if not given.measure_only:
        found = judge(bench, plan)
        text = report.markdown(found, _caption(given))
        (bench.out / "report.md").write_text(text)
        print(text)
        if given.update is not None:
            report.update(given.update, text)
    return int(any((bench.folder(run) / FAILED).is_file() for run in plan))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m calibration.campaign",
        description="Measure a vLLM server, fit its profile and judge it. Words behind -- go to "
        "`vllm serve`. What is done already is not measured again.",
    )
    parser.add_argument("--model", help="a directory or a name that vLLM knows")
    parser.add_argument("-o", "--out", type=Path, help="where everything is written")
    parser.add_argument("--cpu", action="store_true", help="CPU vLLM, a tiny random model")
    parser.add_argument("--python", type=Path, help="of an environment with vLLM and pytwin")
    parser.add_argument("--venv", type=Path, help="with --cpu: made here if it is not there")
    parser.add_argument("--plan", action="store_true", help="print the plan and end")
    parser.add_argument("--runs", help="only these, separated by commas")
    parser.add_argument("--measure-only", action="store_true", help="no fit, no report")
    parser.add_argument("--judge-only", action="store_true", help="fit and judge what is there")
    parser.add_argument("--update", type=Path, help="put the report into this document as well")
    return parser


def _bench(given: argparse.Namespace, extra: Sequence[str]) -> Bench:
    out: Path = given.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    if given.judge_only:
        return Bench(Path(sys.executable), "", out / "config.json", out, out, (), {})
    if given.cpu:
        python = given.python or environment.cpu_venv(given.venv)
        python = environment.with_plugin(python, install=given.python is None)
        model = given.model or str(make_tiny_model(python, out / "model"))
    else:
        python = environment.with_plugin(given.python or Path(sys.executable), install=False)
        model = given.model
    return Bench(
        python=python,
        model=model,
        config=save_config(python, model, out / "model"),
        adapters=out / "adapters",
        out=out,
        serve_flags=[*(CPU_FLAGS if given.cpu else GPU_FLAGS), *extra],
        environment=OFFLINE if given.cpu else {"PYTHONHASHSEED": "0"},
    )


def _caption(given: argparse.Namespace) -> str:
    words = ["python -m calibration.campaign", *(["--cpu"] if given.cpu else [])]
    words += ["--model", shlex.quote(given.model)] if given.model else []
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True, text=True, check=False, cwd=environment.ROOT,
    ).stdout.strip()  # fmt: skip
    today = dt.datetime.now(dt.UTC).date().isoformat()
    return f"`{' '.join(words)}`, {today}, commit {commit or 'unknown'}, {_machine()}"


def _machine() -> str:
    cores = len(os.sched_getaffinity(0))
    return f"{platform.machine()}, {cores} cores, {platform.system()}"


def _say(text: str) -> None:
    print(f"campaign: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
