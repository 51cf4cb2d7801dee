"""`make bench`: the speed of `pt.simulate`, case by case, and of a sweep.

Each case runs in a process of its own: distinct seeds, nothing cached between them, everything
included (traffic, engine, metrics, result). Times are processor times; instructions are counted
by `perf` where it is there, as the difference between runs with more and fewer simulations.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from cases import CASES, GROUPS, PROFILE, Case

import pytwin as pt
from pytwin import _core
from pytwin.simulation import Twin

SWEEP_CASE = "sweep: one-minute configurations, 100 to 600 requests"
SWEEP_ROWS = 1000
INSTRUCTIONS_OVER = 300_000
HEADINGS = (
    "ms",
    "ns/request",
    "instructions/request",
    "steps/s",
    "configurations/s/core",
    "peak MB",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--match", default="", help="only cases whose name holds this text")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure_one(options.one, options.repeats)))
        return 0
    names = [case.name for case in CASES] + [SWEEP_CASE]
    figures = []
    for name in names:
        if options.match in name:
            figures.append(measure(name))
            print(f"{name}: {figures[-1]['ms']:.3f} ms", file=sys.stderr)
    if not figures:
        print(f"no case holds {options.match!r}: there are {', '.join(names)}", file=sys.stderr)
        return 2
    told = {"commit": commit(), "machine": machine(), "cases": figures}
    if options.json:
        options.json.write_text(json.dumps(told, indent=2) + "\n")
    print(markdown(told))
    return 0


def measure(name: str) -> dict[str, Any]:
    """One case in a process of its own, then under `perf` for its instructions."""
    figures = run_one([], name, None)
    # The making of a trace would be counted with it.
    given = any(case.given for case in CASES if case.name == name)
    counted = None if given else instructions(name, figures["requests"])
    figures["instructions_per_request"] = counted
    return figures


def run_one(prefix: list[str], name: str, repeats: int | None) -> dict[str, Any]:
    command = [*prefix, sys.executable, __file__, "--one", name]
    if repeats is not None:
        command += ["--repeats", str(repeats)]
    # The same order of every set and dict in each process, for the sake of the counts.
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def instructions(name: str, size: float) -> float | None:
    """Instructions per request of a simulation of `size` requests, in user mode.

    None where they cannot be counted.
    """
    perf = shutil.which("perf")
    if perf is None:
        return None
    counts, requests = [], []
    # Python's own start varies by some ten million: many simulations where they are small.
    many = 1 + max(1, min(30, round(INSTRUCTIONS_OVER / size)))
    for repeats in (1, many):
        log = Path(f"/tmp/pytwin-bench-{os.getpid()}.perf")  # noqa: S108 - removed below
        prefix = [perf, "stat", "-x", ",", "-e", "instructions:u", "-o", str(log), "--"]
        try:
            figures = run_one(prefix, name, repeats)
            lines = [line for line in log.read_text().splitlines() if "instructions" in line]
            counts.append(float(lines[0].split(",")[0]))
        except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
            return None  # not permitted, or not counted on this machine
        finally:
            log.unlink(missing_ok=True)
        requests.append(figures["requests"] * figures["repeats"])
    return (counts[1] - counts[0]) / (requests[1] - requests[0])


def measure_one(name: str, repeats: int | None) -> dict[str, Any]:
    if name == SWEEP_CASE:
        return measure_sweep(repeats or 5)
    case = next(case for case in CASES if case.name == name)
    return measure_case(case, repeats or case.repeats)


def measure_case(case: Case, repeats: int) -> dict[str, Any]:
    server, traffic = case.server(), case.traffic()
    # Reading the profile and starting the pools is not part of a simulation.
    pt.simulate(server, pt.Workload.poisson(rate_rps=1.0, lengths=(10, 10), duration_s=1.0))
    times, runs = [], []
    for seed in range(repeats):
        if case.given:
            seconds, metrics = core_alone(case, server, seed)
        else:
            began = time.process_time()
            metrics = pt.simulate(server, traffic, seed=seed).metrics
            seconds = time.process_time() - began
        times.append(seconds)
        runs.append(metrics)
    seconds = statistics.median(times)
    mean = {key: statistics.fmean(run[key] for run in runs) for key in runs[0]}
    return {
        "name": case.name,
        "group": case.group,
        "requests": mean["arrived"],
        "completed": mean["completed"],
        "repeats": repeats,
        "ms": 1e3 * seconds,
        "ns_per_request": 1e9 * seconds / mean["arrived"],
        "steps_per_s": mean["steps"] / seconds,
        "configurations_per_core_s": 1.0 / seconds,
        "max_waiting": mean["max_waiting"],
        "preemptions": mean["preemptions"],
        "peak_rss_mb": peak_rss_mb(),
    }


def core_alone(case: Case, server: pt.EngineConfig, seed: int) -> tuple[float, dict[str, Any]]:
    """Seconds of the core with its traffic given, and the metrics."""
    twin = Twin()
    traffic = pt.Workload.replay(case.trace(seed), duration_s=case.requests / case.rate_rps)
    document = twin.spec_json(server, traffic, seed=seed)
    began = time.process_time()
    outcome = _core.simulate(twin.library, document)
    return time.process_time() - began, outcome["metrics"]


def measure_sweep(repeats: int) -> dict[str, Any]:
    """Rows of a random design through the sweep's own path: rows, core, frame, Parquet."""
    from pytwin.sweep.expand import Design
    from pytwin.sweep.rows import simulate_rows
    from pytwin.sweep.spec import load_spec
    from pytwin.sweep.store import encode

    design = Design(load_spec(Path(__file__).with_name("million.yaml")))
    twin = Twin()
    simulate_rows(twin, list(design.rows(0, 10)), design.columns, 1)
    times, arrived, steps = [], [], []
    for repeat in range(repeats):
        began = time.process_time()
        rows = list(design.rows(repeat * SWEEP_ROWS, (repeat + 1) * SWEEP_ROWS))
        frame = simulate_rows(twin, rows, design.columns, 1)
        encode(frame)
        times.append(time.process_time() - began)
        arrived.append(int(frame["arrived"].sum()))
        steps.append(int(frame["steps"].sum()))
    seconds = statistics.median(times)
    requests = statistics.fmean(arrived)
    return {
        "name": SWEEP_CASE,
        "group": "sweep",
        "requests": requests,
        "completed": None,
        "repeats": repeats,
        "ms": 1e3 * seconds,
        "ns_per_request": 1e9 * seconds / requests,
        "steps_per_s": statistics.fmean(steps) / seconds,
        "configurations_per_core_s": SWEEP_ROWS / seconds,
        "max_waiting": None,
        "preemptions": None,
        "peak_rss_mb": peak_rss_mb(),
    }


def peak_rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def markdown(told: dict[str, Any]) -> str:
    """The tables, as experiments/speed/README.md holds them."""
    lines = [f"Commit {told['commit']}; {told['machine']}; profile {PROFILE}."]
    for group, title in (*GROUPS.items(), ("sweep", "Sweep")):
        figures = [case for case in told["cases"] if case["group"] == group]
        if not figures:
            continue
        lines += [
            "",
            f"| {title} | {' | '.join(HEADINGS)} |",
            "|---" * (1 + len(HEADINGS)) + "|",
        ]
        for case in figures:
            counted = case["instructions_per_request"]
            cells = [
                case["name"],
                f"{case['ms']:,.2f}",
                f"{case['ns_per_request']:,.0f}",
                "-" if counted is None else f"{counted:,.0f}",
                f"{case['steps_per_s']:,.0f}",
                short(case["configurations_per_core_s"]),
                f"{case['peak_rss_mb']:,.0f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def short(rate: float) -> str:
    """Three figures, without an exponent."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def machine() -> str:
    model = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        named = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = named[0].partition(":")[2].strip() if named else model
    return (
        f"{model}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    )


if __name__ == "__main__":
    sys.exit(main())
