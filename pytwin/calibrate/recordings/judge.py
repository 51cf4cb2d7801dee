"""How good a step law is: on what it was fitted on, on what it was not, from run to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pytwin.calibrate.recordings.split import Split
from pytwin.calibrate.terms import evaluate

FloatArray = npt.NDArray[np.float64]
Rows = npt.NDArray[np.bool_]
Terms = Sequence[Mapping[str, Any]]


def predicted_ms(
    terms: Terms, extra: Mapping[str, float], features: Mapping[str, FloatArray]
) -> FloatArray:
    """Duration of each step in ms, without the host time of loads but with what they add to it."""
    total = evaluate(terms, features) / 1e3
    for source, each in extra.items():
        total = total + each * features[f"loads_{source}"]
    return np.asarray(total, dtype=np.float64)


def kinds(features: Mapping[str, FloatArray]) -> dict[str, Rows]:
    """Decode steps, steps with prompt tokens, all."""
    prompt = features["prefill_tokens"] > 0
    return {"decode": ~prompt, "prefill": prompt, "all": np.ones(len(prompt), dtype=bool)}


def error_row(predicted: FloatArray, measured: FloatArray) -> dict[str, float]:
    """Errors of predicted against measured durations, in percent.

    mape: mean of |error|; median_error: its median; bias: of the total time.
    """
    off = 100 * (predicted / measured - 1)
    return {
        "rows": len(measured),
        "mape_percent": round(float(np.abs(off).mean()), 2),
        "median_error_percent": round(float(np.median(np.abs(off))), 2),
        "bias_percent": round(100 * float(predicted.sum() / measured.sum() - 1), 2),
    }


def judge(
    terms: Terms, extra: Mapping[str, float], features: Mapping[str, FloatArray], parts: Split
) -> dict[str, dict[str, float]]:
    """Errors per kind of step, of the very coefficients that the profile holds."""
    predicted = predicted_ms(terms, extra, features)
    measured = features["duration_ms"]
    timed = ~np.isnan(measured) & (measured > 0)
    report = {}
    for name, rows in kinds(features).items():
        inside, outside = rows & timed & parts.fitted, rows & timed & parts.held_out
        if not inside.any():
            continue
        row = error_row(predicted[inside], measured[inside])
        if outside.any():
            held = error_row(predicted[outside], measured[outside])
            row |= {f"held_out_{key}": value for key, value in held.items()}
        report[name] = row
    return report


def spread(
    terms: Terms, extra: Mapping[str, float], features: Mapping[str, FloatArray], parts: Split
) -> dict[str, dict[str, float]]:
    """Quantiles of the relative error of single held-out steps (percent)."""
    measured = features["duration_ms"]
    off = 100 * (predicted_ms(terms, extra, features) / measured - 1)
    timed = ~np.isnan(measured) & (measured > 0) & parts.held_out
    report = {}
    for name, rows in kinds(features).items():
        if (rows & timed).sum() >= 5:
            low, middle, high = np.quantile(off[rows & timed], (0.05, 0.5, 0.95))
            report[name] = {
                "p05_percent": round(float(low), 2),
                "p50_percent": round(float(middle), 2),
                "p95_percent": round(float(high), 2),
            }
    return report


def stretches(
    terms: Terms, extra: Mapping[str, float], features: Mapping[str, FloatArray],
    group: npt.NDArray[np.int64], rows: Rows,
) -> FloatArray:  # fmt: skip
    """Per group of rows, the logarithm of predicted over measured total time."""
    predicted, measured = predicted_ms(terms, extra, features), features["duration_ms"]
    rows = rows & ~np.isnan(measured)
    return np.array([
        np.log(predicted[rows & (group == g)].sum() / measured[rows & (group == g)].sum())
        for g in sorted(set(group[rows].tolist()))
    ])  # fmt: skip
