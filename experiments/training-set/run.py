"""Simulate the training set, train the models on it: python experiments/training-set/run.py.

    run.py simulate -o out/training-set --workloads 25000     # resumable; parts in order
    pytwin learn fit out/training-set -o out/models
    run.py judge out/models -o out/fresh --workloads 150      # fresh workloads, the twin's answers

`judge` draws workloads that no training used (another seed of the design) and asks models and twin
about settings as a user would list them (log-uniform in served adapters and slots, not gathered at
the edge), within the training range.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from pytwin.catalog import shipped_profiles
from pytwin.learn.bundle import Bundle, load_bundle
from pytwin.learn.dataset import Dataset, read_dataset
from pytwin.learn.design import Plan, draw_spec
from pytwin.learn.judge import score
from pytwin.learn.models import TARGETS
from pytwin.sweep import run_sweep

TRAINING_SEED, FRESH_SEED = 1, 1001


def simulate(options: argparse.Namespace) -> None:
    """The sweep of a plan."""
    plan = Plan(
        tuple(shipped_profiles()),
        options.workloads,
        settings=options.settings,
        seed=options.seed,
        at_the_edge=not options.plain,
    )
    spec = draw_spec(plan, seeds=options.seeds)
    result = run_sweep(spec, options.output, resume=True, workers=options.workers)
    print(result.status_counts)


def judge(options: argparse.Namespace) -> None:
    """Models against the twin on fresh workloads."""
    plan = Plan(
        tuple(shipped_profiles()),
        options.workloads,
        settings=options.settings,
        seed=FRESH_SEED,
        at_the_edge=False,
    )
    run_sweep(draw_spec(plan), options.output, resume=True, workers=options.workers)
    data = read_dataset(options.output)
    result: dict[str, Any] = {"rows": len(data.groups), "workloads": options.workloads}
    for name in ("best.json.gz", "readable.json"):
        result[name] = against_the_twin(load_bundle(str(options.models / name)), data)
    print(json.dumps(result, indent=1))
    (options.output / "judged.json").write_text(json.dumps(result, indent=1) + "\n")


def against_the_twin(bundle: Bundle, data: Dataset) -> dict[str, Any]:
    """Scores of every target on the rows within the training range."""
    inside = data.take(bundle.inside(data.x))
    answers = bundle.predict(inside.x)
    found: dict[str, Any] = {"rows": len(inside.groups)}
    for target in TARGETS:
        labels = inside.labels[target.name]
        known = np.isfinite(labels)
        found[target.name] = score(target, answers[target.name][known], labels[known]).document()
    error = np.abs(answers["served_share"] / inside.labels["served_share"] - 1.0)
    found["throughput_mape_percent"] = float(100 * error.mean())
    return found


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(required=True)
    first = verbs.add_parser("simulate")
    first.set_defaults(run=simulate)
    first.add_argument("--seed", type=int, default=TRAINING_SEED)
    first.add_argument("--seeds", type=int, default=1, help="simulations of each setting")
    first.add_argument("--plain", action="store_true", help="do not gather settings at the edge")
    second = verbs.add_parser("judge")
    second.set_defaults(run=judge)
    second.add_argument("models", type=Path)
    for verb in (first, second):
        verb.add_argument("-o", "--output", type=Path, required=True)
        verb.add_argument("--workloads", type=int, required=True)
        verb.add_argument("--settings", type=int, default=8)
        verb.add_argument("--workers", type=int)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
