"""The way in and the way out: what a client waits for beside the engine.

In: when the scheduler first sees a request, it may have been there for most of a step, so each
request tells an interval only: it came in before this step, and not before the one before. The
delay is the one that lies in most of the intervals (least distance from them; the median of what
is known exactly). Out: from the end of a step until its tokens are at the client.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pytwin.calibrate.recordings import law
from pytwin.calibrate.recordings.columns import RecordedRun, Request
from pytwin.calibrate.recordings.library import egress_candidates, identified
from pytwin.calibrate.recordings.split import Split

FloatArray = npt.NDArray[np.float64]

_MIN_REQUESTS = 20
# An adapter's first request is timed apart where it costs this much more (ms).
_FIRST_REQUEST_MS = 20.0
_MIN_FIRST = 3


@dataclass(frozen=True)
class Frontend:
    """The section of the profile, its errors, and remarks."""

    document: dict[str, Any]
    errors: dict[str, Any]
    remarks: tuple[str, ...]


def fit(runs: Sequence[RecordedRun], split: Split, features: dict[str, FloatArray]) -> Frontend:
    """Ingress, egress and first requests, on the requests that are not held out."""
    kinds = {_kind(run) for run in runs}
    kind = _most_requests(runs, kinds)
    used = [i for i, run in enumerate(runs) if _kind(run) == kind]
    remarks = []
    if len(kinds) > 1:
        names = ", ".join(runs[i].name for i in used)
        remarks.append(
            f"front ends of several kinds ({', '.join(sorted(kinds))}): ingress and egress are of "
            f"{names} only"
        )
    if kind == "server":
        remarks.append("no client's times: ingress is from the API server, egress unknown (0)")
    elif kind == "api":
        remarks.append("no client's times: the way between client and API server is not in it")
    rows = [(i, request, lo, hi) for i in used for request, lo, hi in _intervals(runs[i])]
    apart = [bool(split.held_out[_row(split, runs, row[0], row[1])]) for row in rows]
    fitted = [row for row, out in zip(rows, apart, strict=True) if not out]
    document: dict[str, Any] = {"unit": "us", "ingress": [], "egress": [], "first_request": []}
    errors: dict[str, Any] = {"client": kind}
    if len(fitted) < _MIN_REQUESTS:
        remarks.append(f"{len(fitted)} requests are too few to time the way in: taken as 0")
        return Frontend(document, errors, tuple(remarks))
    first = _first_requests(runs, used)
    later = [row for row in fitted if (row[0], row[1].id) not in first]
    if len(later) < _MIN_REQUESTS:
        later = fitted
    delay = _in_most(np.array([row[2:] for row in later]))
    document["ingress"].append(_term(delay, [], f"{_WAY[kind]}, to the scheduler"))
    held = np.array([row[2:] for row, out in zip(rows, apart, strict=True) if out]).reshape(-1, 2)
    errors["ingress"] = {
        "requests": len(fitted),
        "delay_ms": round(delay, 3),
        "held_out_distance_ms": _distance(held, delay) if len(held) else None,
    }
    early = [row for row in fitted if (row[0], row[1].id) in first]
    if len(early) >= _MIN_FIRST:
        more = _in_most(np.array([row[2:] for row in early])) - delay
        if more > _FIRST_REQUEST_MS:
            document["first_request"].append(
                _term(more, ["lora"], "serial work at an adapter's first request")
            )
    if kind != "server":
        _egress(document, errors, [(i, runs[i]) for i in used], split, features)
    return Frontend(document, errors, tuple(remarks))


_WAY = {
    "timed": "from the client's send",
    "bench": "HTTP, tokenizer",
    "api": "from the API server",
    "server": "from the API server",
}


def _kind(run: RecordedRun) -> str:
    return run.client.kind if run.client else "server"


def _most_requests(runs: Sequence[RecordedRun], kinds: set[str]) -> str:
    count = dict.fromkeys(sorted(kinds), 0)
    for run in runs:
        count[_kind(run)] += len(run.requests)
    # A client's times are worth more than none.
    return max(count, key=lambda kind: (kind != "server", count[kind]))


def _row(split: Split, runs: Sequence[RecordedRun], run: int, request: Request) -> int:
    index = runs[run].steps["index"]
    position = int(np.searchsorted(index, request.visible_step))
    return split.at(run, min(position, len(index) - 1))


def _intervals(run: RecordedRun) -> list[tuple[Request, float, float]]:
    """Per request, the least and the greatest delay (ms) that agree with when it was seen."""
    index, start = run.steps["index"], run.steps["start_s"]
    found = []
    for request in run.requests:
        begin = request.arrival_s if request.sent_s is None else request.sent_s
        place = int(np.searchsorted(index, request.visible_step))
        # Nothing is known of the step before the first one, or of an empty one in between.
        before = place > 0 and index[place - 1] == request.visible_step - 1
        low = 1e3 * (start[place - 1] - begin) if before else 0.0
        found.append((request, max(low, 0.0), max(1e3 * (request.visible_s - begin), 0.0)))
    return found


def _in_most(intervals: FloatArray) -> float:
    """The value of least total distance to the intervals (middle of the best stretch)."""
    ends = np.unique(intervals)
    low, high = np.sort(intervals[:, 0]), np.sort(intervals[:, 1])
    # Distance to those that begin above, and to those that end below, by running sums.
    above = np.searchsorted(low, ends, side="right")
    below = np.searchsorted(high, ends, side="left")
    over = np.concatenate([[0.0], np.cumsum(low)])
    under = np.concatenate([[0.0], np.cumsum(high)])
    cost = (over[-1] - over[above]) - ends * (len(low) - above) + ends * below - under[below]
    best = ends[cost <= cost.min() * (1 + 1e-9) + 1e-9]
    return float((best[0] + best[-1]) / 2)


def _distance(intervals: FloatArray, value: float) -> float:
    away = np.maximum(0, intervals[:, 0] - value) + np.maximum(0, value - intervals[:, 1])
    return round(float(away.mean()), 3)


def _first_requests(runs: Sequence[RecordedRun], used: Sequence[int]) -> set[tuple[int, str]]:
    first = set()
    for i in used:
        seen: set[int] = set()
        for request in sorted(runs[i].requests, key=lambda r: r.visible_s):
            if request.adapter and request.adapter not in seen:
                seen.add(request.adapter)
                first.add((i, request.id))
    return first


def _egress(
    document: dict[str, Any],
    errors: dict[str, Any],
    used: Sequence[tuple[int, RecordedRun]],
    split: Split,
    features: dict[str, FloatArray],
) -> None:
    """Mean delay of a step's tokens, from the step's end as the twin has it."""
    delay = np.full(len(split.run), np.nan)
    for i, run in used:
        mine = split.run == i
        delay[mine] = step_egress_ms(run)
    usable = ~np.isnan(delay)
    rows = usable & split.fitted
    candidates, _ = identified(egress_candidates(), features, rows)
    # The constant stands for what cannot be told apart; delays never shrink below a microsecond.
    target = np.maximum(delay, 1e-3)
    part = {name: values[rows] for name, values in features.items()}
    fitted = law.fit(law.data_of(candidates, part, target[rows], split.block[rows]))
    document["egress"] = fitted.terms()
    held = usable & split.held_out
    left = {name: values[held] for name, values in features.items()}
    off = np.abs(fitted.predict(left) - delay[held]) if held.any() else np.array([])
    errors["egress"] = {
        "steps": int(rows.sum()),
        "median_ms": round(float(np.median(delay[rows])), 3),
        "held_out_median_error_ms": round(float(np.median(off)), 3) if len(off) else None,
    }


def step_egress_ms(run: RecordedRun) -> FloatArray:
    """Per step, the mean time (ms) from its end to its tokens' arrival; NaN where none is known."""
    steps = run.steps
    total, count = np.zeros(len(steps["index"])), np.zeros(len(steps["index"]))
    by_id = {request.id: request for request in run.requests}
    made: dict[str, int] = {}
    position = {int(index): place for place, index in enumerate(steps["index"])}
    for step in run.recording.step_events:
        place = position.get(step.i)
        if place is None or step.t3 is None:
            continue
        end = steps["end_s"][place]
        for rid, tokens, first, _ in step.sched:
            request = by_id[rid]
            nth = made.get(rid, 0)
            if first + tokens < request.prompt_tokens + nth:
                continue
            made[rid] = nth + 1
            seen = _seen_s(request, nth)
            if seen is not None:
                total[place] += seen - end
                count[place] += 1
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(1e3 * total / count, dtype=np.float64)


def _seen_s(request: Request, nth: int) -> float | None:
    """When the client had the nth token; of merged tokens only the first and last are certain."""
    times = request.token_times_s
    if times is None or not len(times):
        return None
    if len(times) == request.output_tokens:
        return float(times[nth]) if nth < len(times) else None
    if nth == 0:
        return float(times[0])
    return float(times[-1]) if nth == request.output_tokens - 1 else None


def _term(milliseconds: float, factors: list[Any], why: str) -> dict[str, Any]:
    return {"coefficient": float(f"{1e3 * milliseconds:.6g}"), "factors": factors, "why": why}
