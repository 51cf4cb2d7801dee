"""A profile's step and load times against those of a recording."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pytwin.calibrate.recordings.columns import RecordedRun
from pytwin.calibrate.recordings.judge import error_row
from pytwin.calibrate.terms import evaluate

FloatArray = npt.NDArray[np.float64]

_EDGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
_MIN_ROWS = 5


def step_errors(data: Mapping[str, Any], run: RecordedRun) -> list[dict[str, Any]]:
    """Rows of errors: all steps, by kind, requests in the batch, adapters and prompt tokens.

    A step's duration is without adapter loads; errors in percent: mean and median of the absolute
    error, and the bias of the total time.
    """
    features = run.features
    measured = features["duration_ms"]
    predicted = evaluate(data["step_time"]["terms"], features) / 1e3
    timed = ~np.isnan(measured) & (measured > 0)
    decode = features["prefill_tokens"] == 0
    groups: dict[str, npt.NDArray[np.bool_]] = {
        "all": timed, "decode": timed & decode, "prefill": timed & ~decode,
    }  # fmt: skip
    groups |= _bins("decode, requests", features["seqs"], timed & decode)
    for count in sorted(set(features["adapters"][timed & decode].tolist())):
        if count <= 8:
            groups[f"decode, adapters {count:.0f}"] = (
                timed & decode & (features["adapters"] == count)
            )
    groups |= _bins("decode, adapters", features["adapters"], timed & decode, least=9)
    groups |= _bins("prefill, prompt tokens", features["prefill_tokens"], timed & ~decode)
    return [
        {"steps": name, **error_row(predicted[rows], measured[rows])}
        for name, rows in groups.items()
        if rows.sum() >= _MIN_ROWS
    ]


def _bins(
    name: str, values: FloatArray, rows: npt.NDArray[np.bool_], least: int = 1
) -> dict[str, npt.NDArray[np.bool_]]:
    found = {}
    edges = [edge for edge in _EDGES if edge >= least] if least > 1 else list(_EDGES)
    if least > 1:
        edges = [least, *edges]
    for low, high in zip(edges, [*edges[1:], np.inf], strict=True):
        inside = rows & (values >= low) & (values < high)
        end = "and more" if high == np.inf else f"to {high - 1:.0f}"
        found[f"{name} {low} {end}" if high != low + 1 else f"{name} {low}"] = inside
    return found


def load_errors(data: Mapping[str, Any], run: RecordedRun) -> list[dict[str, Any]]:
    """Rows of errors of adapter loads, per source (disk, memory), in ms and percent."""
    rows = []
    for source in ("disk", "memory"):
        seen = [load for load in run.loads if load.source == source and load.position >= 0]
        if not seen:
            continue
        rank = np.array([float(load.rank or run.max_lora_rank) for load in seen])
        features = {
            **{name: np.full(len(seen), value) for name, value in run.settings.items()},
            "rank": rank,
            "rank_padding": np.maximum(float(run.max_lora_rank) - rank, 0.0),
        }
        measured = np.array([load.ms for load in seen])
        predicted = evaluate(data.get("load_time", {}).get(source, []), features) / 1e3
        rows.append({
            "loads": source,
            "count": len(seen),
            "measured_median_ms": float(np.median(measured)),
            "predicted_median_ms": float(np.median(predicted)),
            "median_error_percent": round(
                100 * float(np.median(np.abs(predicted / measured - 1))), 2
            ),
        })  # fmt: skip
    return rows
