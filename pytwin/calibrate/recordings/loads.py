"""Adapter loads: from disk to host memory, from host memory into a slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pytwin.calibrate.recordings import law
from pytwin.calibrate.recordings.columns import Load, RecordedRun
from pytwin.calibrate.recordings.library import load_candidates
from pytwin.calibrate.recordings.split import Split

FloatArray = npt.NDArray[np.float64]

_MIN_LOADS = 5


@dataclass(frozen=True)
class LoadTimes:
    """The section of the profile, its errors, and remarks."""

    document: dict[str, Any]
    errors: dict[str, Any]
    remarks: tuple[str, ...]


def fit(runs: Sequence[RecordedRun], split: Split, extra_ms: dict[str, float]) -> LoadTimes:
    """Load times on what is not held out; `extra_ms` is what steps showed beyond host times."""
    document: dict[str, Any] = {"unit": "us"}
    errors: dict[str, Any] = {}
    remarks: list[str] = []
    for source in ("disk", "memory"):
        rows = [
            (i, load) for i, run in enumerate(runs) for load in run.loads if load.source == source
        ]
        document[source] = []
        if len(rows) < _MIN_LOADS:
            if any(run.config.get("max_loras") for run in runs):
                remarks.append(
                    f"{len(rows)} loads from {source} are too few (at least {_MIN_LOADS}): "
                    "load_time takes them as free"
                )
            continue
        features = _features(runs, rows)
        target = np.array([load.ms for _, load in rows])
        at = np.array([split.at(i, load.position) for i, load in rows])
        held = split.held_out[at] & np.array([load.position >= 0 for _, load in rows])
        fold = split.block[at]
        # Two loads of a rank are an anecdote.
        kept = [
            entry
            for entry in load_candidates()
            if entry.name == "base" or _varies(entry.name, features, ~held)
        ]
        part = {name: values[~held] for name, values in features.items()}
        fitted = law.fit(law.data_of(kept, part, target[~held], fold[~held]))
        document[source] = fitted.terms()
        if extra_ms.get(source):
            document[source].append({
                "coefficient": float(f"{1e3 * extra_ms[source]:.6g}"),
                "factors": [],
                "why": "what a step with a load lasts beyond the load's host time",
            })  # fmt: skip
        errors[source] = _errors(fitted, features, target, held)
    return LoadTimes(document, errors, tuple(remarks))


def _features(
    runs: Sequence[RecordedRun], rows: Sequence[tuple[int, Load]]
) -> dict[str, FloatArray]:
    # An adapter whose load from disk was not seen is taken as wide as its slot.
    rank = np.array([float(load.rank or runs[i].max_lora_rank) for i, load in rows])
    slot = np.array([float(runs[i].max_lora_rank) for i, _ in rows])
    return {"rank": rank, "rank_padding": np.maximum(slot - rank, 0.0)}


def _varies(name: str, features: dict[str, FloatArray], rows: npt.NDArray[np.bool_]) -> bool:
    values = features["rank"][rows] if name == "rank" else features["rank_padding"][rows] > 0
    _, counts = np.unique(values, return_counts=True)
    return int((counts >= _MIN_LOADS).sum()) >= 2


def _errors(
    fitted: law.Fitted,
    features: dict[str, FloatArray],
    target: FloatArray,
    held: npt.NDArray[np.bool_],
) -> dict[str, Any]:
    off = np.abs(fitted.predict(features) / target - 1)
    return {
        "loads": int((~held).sum()),
        "median_ms": round(float(np.median(target)), 3),
        "median_error_percent": round(100 * float(np.median(off[~held])), 2),
        "held_out_median_error_percent": (
            round(100 * float(np.median(off[held])), 2) if held.any() else None
        ),
    }
