"""How fast the twin decides, beside vLLM's own scheduler on the same cases in the same run."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from typing import Any

from .cases import materialise, parse_case
from .client import Reference, ReferenceRaisedError
from .generate import random_case
from .versions import EngineVersion

# The twin is quick: each case is repeated until its time can be told.
LEAST_SECONDS = 0.02


def compare_speed(
    presets: Sequence[str], version: EngineVersion, seeds: Sequence[int], reference: Reference
) -> list[dict[str, Any]]:
    """Engine iterations per second of both, per preset; the last row is the geometric mean.

    vLLM's time is what its own calls take (adding requests, schedule, update, adapter caches),
    without the harness around them. The twin's is the whole call, the case's JSON included, with
    the trace left unwritten and the adapters visited in an order of its own: that order moves
    adapters between tiers, and changes no batch.
    """
    rows: list[dict[str, Any]] = []
    for preset in presets:
        steps, theirs, ours = 0, 0.0, 0.0
        for seed in seeds:
            case = materialise(parse_case(random_case(seed, preset, version)), version)
            try:
                trace = reference.trace(case)
            except ReferenceRaisedError:
                continue
            summary = json.loads(trace[-1])
            steps += summary["steps"]
            theirs += summary["scheduler_seconds"]
            ours += _twin_seconds(case, version)
        if steps:
            rows.append(_row(preset, steps, steps / theirs, steps / ours))
    means = [
        math.exp(math.fsum(math.log(row[name]) for row in rows) / len(rows))
        for name in ("vllm_steps_per_s", "twin_steps_per_s")
    ]
    rows.append(_row("geometric mean", sum(row["steps"] for row in rows), *means))
    return rows


def _row(preset: str, steps: int, theirs: float, ours: float) -> dict[str, Any]:
    return {
        "preset": preset,
        "steps": steps,
        "vllm_steps_per_s": round(theirs),
        "twin_steps_per_s": round(ours),
        "ratio": round(ours / theirs, 1),
    }


def _twin_seconds(case: dict[str, Any], version: EngineVersion) -> float:
    from pytwin import _core

    text = json.dumps(case)
    calls, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < LEAST_SECONDS:
        _core.conformance_trace(text, version.name, write=False)
        calls += 1
    return spent / calls
