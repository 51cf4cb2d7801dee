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

    Seconds are of processor time, so that a busy machine slows neither. vLLM's are those of its own
    calls (adding requests, schedule, update, adapter caches), without the harness around them. The
    twin's are those of the whole call, the case's JSON included, with no trace written: `exact` is
    what conformance compares, `fast` keeps decoding requests as one. The twin visits adapters in an
    order of its own: that moves adapters between tiers, and changes no batch.
    """
    rows: list[dict[str, Any]] = []
    for preset in presets:
        steps, theirs, exact, fast = 0, 0.0, 0.0, 0.0
        for seed in seeds:
            case = materialise(parse_case(random_case(seed, preset, version)), version)
            try:
                summary = json.loads(reference.trace(case)[-1])
            except ReferenceRaisedError:
                continue
            steps += summary["steps"]
            theirs += summary["scheduler_seconds"]
            exact += _twin_seconds(case, version, exact=True)
            fast += _twin_seconds(case, version, exact=False)
        if steps:
            rows.append(_row(preset, steps, steps / theirs, steps / exact, steps / fast))
    means = [
        math.exp(math.fsum(math.log(row[name]) for row in rows) / len(rows))
        for name in ("vllm_steps_per_s", "exact_steps_per_s", "fast_steps_per_s")
    ]
    rows.append(_row("geometric mean", sum(row["steps"] for row in rows), *means))
    return rows


def _row(preset: str, steps: int, theirs: float, exact: float, fast: float) -> dict[str, Any]:
    return {
        "preset": preset,
        "steps": steps,
        "vllm_steps_per_s": round(theirs),
        "exact_steps_per_s": round(exact),
        "fast_steps_per_s": round(fast),
        "exact_ratio": round(exact / theirs, 1),
        "fast_ratio": round(fast / theirs, 1),
    }


def _twin_seconds(case: dict[str, Any], version: EngineVersion, *, exact: bool) -> float:
    from pytwin import _core

    text = json.dumps(case)
    calls, started = 0, time.process_time()
    while (spent := time.process_time() - started) < LEAST_SECONDS:
        _core.conformance_trace(text, version.name, write=False, exact=exact)
        calls += 1
    return spent / calls
