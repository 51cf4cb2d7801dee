"""Close the loop: the law that brings the *simulated* TPOT and throughput nearest to the measured.

Fitting step times on the twin's batches is open-loop: near the critical load an error of 1 % in a
step's duration grows to several percent of TPOT, because slower steps keep more requests running.
Here each run's gain (percent of TPOT and of throughput per percent of step time) is measured by
simulating it with all coefficients 3 % larger, and the coefficients are moved so that the simulated
runs' errors fall, while the logged steps' errors and the coefficients' own changes stay small.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration import replay
from pytwin.calibrate.observations import LOADS
from pytwin.calibrate.solve import Problem
from pytwin.calibrate.step_time import EMPHASIS
from pytwin.calibrate.terms import Component, to_terms
from pytwin.validate import RunConfig

FloatArray = npt.NDArray[np.float64]

_NUDGE = 0.03
# A coefficient that moves by this much (relative) costs as much as one run's 3 % error.
_FREEDOM = 0.15
_SCALE = 0.03
_GAINS = (0.3, 5.0)


def close(
    document: dict[str, Any],
    components: Sequence[Component],
    coefficients: FloatArray,
    logged: Problem,
    runs: Sequence[tuple[RunConfig, dict[str, Any]]],
    seed: int,
) -> tuple[FloatArray, dict[str, float]]:
    """Coefficients after one closed-loop step, and the errors before it (percent).

    `logged` holds the micro-benchmarks' observations, one column per component.
    """
    from scipy.optimize import least_squares

    here = _simulate(document, components, coefficients, runs, seed)
    there = _simulate(document, components, coefficients * (1 + _NUDGE), runs, seed)
    tpot = _errors(here, "mean_tpot_ms")
    load = _errors(here, "total_throughput")
    tpot_gain = np.clip((_errors(there, "mean_tpot_ms") - tpot) / np.log1p(_NUDGE), *_GAINS)
    load_gain = np.clip((_errors(there, "total_throughput") - load) / np.log1p(_NUDGE), -1.5, 0.0)
    share = np.stack([run.design * coefficients for run in here])
    share /= share.sum(axis=1, keepdims=True)
    queued = np.array([run.real["ts_waiting_mean"] > 5 for run in here])
    alike = np.where(queued, queued.sum(), (~queued).sum())
    weight = 1 / np.sqrt(alike)
    weight = weight * EMPHASIS["traffic"]

    fitted = logged.matrix * coefficients
    target = logged.target
    micro_weight = logged.weight * np.sqrt(len(target)) / np.linalg.norm(logged.weight)
    families = len(set(logged.family.tolist()))
    micro_weight = micro_weight * np.sqrt(families / len(target))

    def residuals(change: FloatArray) -> FloatArray:
        moved = share @ change
        return np.concatenate(
            [
                weight * _soft(tpot + tpot_gain * moved),
                weight * _soft(load + load_gain * moved) * queued,
                micro_weight * _soft(fitted @ (1 + change) / target - 1),
                change * _SCALE / _FREEDOM,
            ]
        )

    solution = least_squares(
        residuals, np.zeros(len(coefficients)), bounds=(-0.5, 0.5), max_nfev=200
    )
    report = {
        "tpot_mape_percent": round(100 * float(np.abs(np.expm1(tpot)).mean()), 2),
        "tpot_bias_percent": round(100 * float(np.median(tpot)), 2),
        "throughput_mape_percent": round(100 * float(np.abs(np.expm1(load)).mean()), 2),
        "throughput_bias_percent": round(100 * float(np.median(load)), 2),
    }
    return coefficients * (1 + solution.x), report


def with_law(
    document: dict[str, Any], components: Sequence[Component], coefficients: FloatArray
) -> dict[str, Any]:
    """The profile under this law: step times, and load times by the factor of component `loads`."""
    steps = [entry.name != LOADS for entry in components]
    terms = to_terms(
        [entry for entry, kept in zip(components, steps, strict=True) if kept],
        coefficients[np.array(steps)],
        1000.0,
    )
    told = {**document, "step_time": {"unit": "us", "terms": terms}}
    if not all(steps):
        factor = float(coefficients[steps.index(False)])
        told["load_time"] = scaled_loads(document["load_time"], factor)
    return told


def scaled_loads(load_time: dict[str, Any], factor: float) -> dict[str, Any]:
    """Load times from memory, `factor` times the logged host time."""
    change = factor / float(load_time.get("traffic_factor", 1.0))
    memory = [
        {**term, "coefficient": float(f"{term['coefficient'] * change:.6g}")}
        for term in load_time["memory"]
    ]
    return {**load_time, "memory": memory, "traffic_factor": float(f"{factor:.4g}")}


def _soft(error: FloatArray) -> FloatArray:
    """Errors far beyond the scale count by their root: bistable runs must not pull."""
    scaled = error / _SCALE
    squeezed = np.sign(scaled) * np.sqrt(2 * (np.sqrt(1 + scaled**2) - 1))
    return np.asarray(squeezed * _SCALE, dtype=np.float64)


def _simulate(
    document: dict[str, Any],
    components: Sequence[Component],
    coefficients: FloatArray,
    runs: Sequence[tuple[RunConfig, dict[str, Any]]],
    seed: int,
) -> list[replay.Replayed]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "profile.json"
        path.write_text(json.dumps(with_law(document, components, coefficients)))
        return replay.replay(runs, path, components, seed)


def _errors(replayed: Sequence[replay.Replayed], name: str) -> FloatArray:
    return np.log([run.metrics[name] / run.real[name] for run in replayed])
