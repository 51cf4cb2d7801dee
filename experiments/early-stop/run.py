"""What ending a run early saves and costs: full and stopped runs of random configurations."""

from __future__ import annotations

import argparse
import random
import time
from typing import Any

import pytwin as pt
from pytwin import _core
from pytwin.simulation import Twin

MODES: dict[str, dict[str, Any]] = {
    "full": {},
    "stop_starving": {"stop_starving": True},
    "stop_tolerance=0.1": {"stop_tolerance": 0.1},
    "stop_tolerance=0.05": {"stop_tolerance": 0.05},
}
JUDGED = ("total_throughput", "mean_tpot_ms", "mean_ttft_ms")
PROFILES = ("llama-3.1-8b-instruct@h100-64gb", "qwen-2.5-7b-instruct@h100-64gb")
SERVED = (16, 32, 64, 96, 128, 192, 256, 320, 384)
SLOTS = (8, 16, 32, 64, 96, 128, 192, 256, 384)
RATES_RPS = (0.4, 0.2, 0.1, 0.05, 0.025, 0.0125, 0.00625)
RANKS = ((8,), (8, 16), (8, 16, 32), (32,))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configurations", type=int, default=250)
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    draw = random.Random(options.seed)  # noqa: S311
    twin = Twin()
    found: list[dict[str, dict[str, Any]]] = []
    for _ in range(options.configurations):
        server, traffic = configuration(draw)
        results = {mode: simulate(twin, server, traffic, asked) for mode, asked in MODES.items()}
        if results["full"]["status"] == "ok":
            found.append(results)
    starved = sum(row["full"]["metrics"]["starved"] for row in found)
    print(f"{len(found)} configurations that start, {starved} of them starved\n")
    print("| mode | stopped | mean stop | processor time | starved told wrongly | " + heads())
    print("|---|---|---|---|---|" + "---|" * len(JUDGED))
    for mode in list(MODES)[1:]:
        print(line(mode, found))


def configuration(draw: random.Random) -> tuple[pt.EngineConfig, pt.Workload]:
    served = draw.choice(SERVED)
    slots = draw.choice([slots for slots in SLOTS if slots <= served])
    rates, ranks = draw.choices(RATES_RPS, k=3), draw.choice(RANKS)
    server = pt.EngineConfig(
        profile=draw.choice(PROFILES),
        max_loras=slots,
        max_cpu_loras=served,
        max_lora_rank=max(ranks),
        max_connections=25_000,
    )
    return server, pt.Workload.poisson(adapters=pt.adapters(served, rates, ranks))


def simulate(
    twin: Twin, server: pt.EngineConfig, traffic: pt.Workload, asked: dict[str, Any]
) -> dict[str, Any]:
    document = twin.spec_json(server, traffic, seed=1, **asked)
    start = time.process_time()
    outcome = _core.simulate(twin.library, document)
    return {**outcome, "cpu_s": time.process_time() - start}


def heads() -> str:
    return "".join(f"{name}: median, 90 %, greatest error | " for name in JUDGED).rstrip()


def line(mode: str, found: list[dict[str, dict[str, Any]]]) -> str:
    pairs = [(row[mode], row["full"]) for row in found if row[mode]["stop_reason"]]
    mean_stop = sum(stopped["stopped_at_s"] for stopped, _ in pairs) / max(len(pairs), 1)
    share = sum(row[mode]["cpu_s"] for row in found) / sum(row["full"]["cpu_s"] for row in found)
    wrong = sum(
        stopped["metrics"]["starved"] != full["metrics"]["starved"] for stopped, full in pairs
    )
    cells = [mode, str(len(pairs)), f"{mean_stop:.0f} s", f"{100 * share:.0f} %", str(wrong)]
    for name in JUDGED:
        errors = sorted(
            abs(stopped["metrics"][name] / full["metrics"][name] - 1) for stopped, full in pairs
        )
        shown = (errors[len(errors) // 2], errors[int(0.9 * len(errors))], errors[-1])
        cells.append(", ".join(f"{100 * error:.1f} %" for error in shown))
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
