"""Placement against enumeration on small fleets, and its gap on large ones.

    python experiments/placement/run.py small --cases 120
    python experiments/placement/run.py large

Every figure in README.md comes from here.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from typing import Any

import numpy as np

import pytwin as pt
from pytwin import _core
from pytwin.fleet.placement import check, plan
from pytwin.fleet.placement.problem import Problem
from pytwin.fleet.placement.solve import METHODS, Solver
from pytwin.fleet.placement.verify import Verifier
from pytwin.simulation import Twin
from pytwin.workload.lengths import as_length_law

PROFILES = ("llama-3.1-8b-instruct@h100-64gb", "qwen-2.5-7b-instruct@h100-64gb")


def small_case(seed: int) -> dict[str, Any]:
    """Two to six hot adapters that need one to three replicas, for two to five minutes."""
    draw = np.random.default_rng([20_261_130, seed])
    count = int(draw.integers(2, 7))
    rates = np.exp(draw.uniform(np.log(1.0), np.log(25.0), count))
    total = draw.uniform(15.0, 95.0)
    rates = np.minimum(rates * total / rates.sum(), 30.0)
    lengths = "sharegpt" if draw.random() < 0.6 else (int(draw.integers(50, 600)), 200)
    return {
        "server": pt.EngineConfig(profile=PROFILES[int(draw.integers(2))]),
        "adapters": pt.adapters(count, rates.tolist(), draw.choice([8, 16, 32], count).tolist()),
        "lengths": lengths,
        "duration_s": float(draw.choice([120.0, 180.0, 300.0])),
        "seeds": (0, 1),
    }


def enumerated(case: dict[str, Any]) -> int | None:
    """The fewest replicas over all partitions, every subset under every setting; None: none holds.

    Written apart from the planner: all subsets are simulated, without early stop.
    """
    problem = Problem(**{**case, "lengths": as_length_law(case["lengths"])})
    judge = Verifier(problem)
    twin, good = Twin(), set()
    every = [
        frozenset(part)
        for size in range(1, problem.count + 1)
        for part in itertools.combinations(range(problem.count), size)
    ]
    for items in every:
        members = problem.items.subset(sorted(items))
        traffic = pt.Workload.poisson(
            adapters=members, lengths=problem.lengths, duration_s=problem.duration_s
        )
        for slots in range(1, len(items) + 1):
            server = problem.server.replace(
                max_loras=slots,
                max_cpu_loras=len(items),
                max_lora_rank=problem.rank_of(items),
                max_connections=25_000,
            )
            specs = [twin.spec_json(server, traffic, seed=seed) for seed in problem.seeds]
            columns = _core.simulate_many(twin.library, specs, 2)
            rows = [
                {name: values[k] for name, values in columns.items()} for k in range(len(specs))
            ]
            if all(
                judge.reason(items, seed, row) is None
                for seed, row in zip(problem.seeds, rows, strict=True)
            ):
                good.add(items)
                break
    best = {frozenset[int](): 0}
    for items in every:
        best[items] = min(
            (1 + best[items - part] for part in good if part <= items and min(items) in part),
            default=10**6,
        )
    fewest = best[frozenset(range(problem.count))]
    return fewest if fewest < 10**6 else None


def small(cases: int) -> list[dict[str, Any]]:
    rows = []
    for seed in range(cases):
        case = small_case(seed)
        optimum = enumerated(case)
        found = plan(**case)
        bounds = Solver(Problem(**{**case, "lengths": as_length_law(case["lengths"])})).bound
        used = len(found.replicas) or None
        others = {
            method: len(plan(**case, method=method).replicas)
            for method in METHODS
            if method not in ("auto", "exact") and seed % 4 == 0
        }
        rows.append(
            {
                "seed": seed,
                "optimum": optimum,
                "auto": used,
                "bound": round(bounds.replicas, 4),
                "bound_whole": bounds.whole,
                **others,
            }
        )
        wrong = optimum != used or (optimum is not None and bounds.whole > optimum)
        print(json.dumps(rows[-1]), "WRONG" if wrong else "", flush=True)
    return rows


LARGE = {
    "zipf 0.7, 150 requests/s": (500, 150.0, 0.7),
    "zipf 1.0, 250 requests/s": (500, 250.0, 1.0),
    "zipf 0.5, 250 requests/s": (500, 250.0, 0.5),
    "zipf 0.7, 400 requests/s": (500, 400.0, 0.7),
}


def large(only: str | None) -> None:
    for name, (count, rate, exponent) in LARGE.items():
        if only and only not in name:
            continue
        fleet = pt.adapters_zipf(count, total_rate_rps=rate, exponent=exponent, ranks=[8, 16, 32])
        begun = time.perf_counter()
        found = plan(PROFILES[0], fleet)
        took = time.perf_counter() - begun
        proof = found.certificate.get("relaxation", {}).get("replicas")
        row = {
            "fleet": name,
            "status": found.status,
            "replicas": len(found.replicas),
            "lower_bound": found.lower_bound,
            "relaxation": proof and round(proof, 3),
            "gap": found.gap,
            "simulations": found.simulations,
            "seconds": round(took, 1),
            "reason": found.reason,
        }
        print(json.dumps(row), flush=True)
        if found.replicas:
            begun = time.perf_counter()
            wrong = check(found.to_dict(), fleet)
            print(json.dumps({"check": wrong, "seconds": round(time.perf_counter() - begun, 1)}))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["small", "large"])
    parser.add_argument("--cases", type=int, default=120)
    parser.add_argument("--only", default=None)
    given = parser.parse_args()
    if given.what == "large":
        large(given.only)
        return
    rows = small(given.cases)
    placed = [row for row in rows if row["optimum"]]
    print(
        json.dumps(
            {
                "cases": len(rows),
                "placeable": len(placed),
                "optimal": sum(row["optimum"] == row["auto"] for row in rows),
                "bound_too_high": sum(row["bound_whole"] > row["optimum"] for row in placed),
                "by_optimum": {k: sum(r["optimum"] == k for r in placed) for k in range(1, 7)},
            }
        )
    )


if __name__ == "__main__":
    main()
