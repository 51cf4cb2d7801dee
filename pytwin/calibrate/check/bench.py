"""A result of `vllm bench serve` as a measured run.

`--save-detailed` tells each request's start, lengths, TTFT and gaps: the same arrivals are played
back. `--save-result` alone tells totals: then arrivals are drawn from the stated rate and
burstiness, with the mean lengths, and only means are compared. Neither names adapters
(`--lora-modules` picks one at random per request): they are drawn uniformly from as many as are
said to be served.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pytwin.calibrate.check.arrivals import SEEDS, Measured
from pytwin.calibrate.recordings.client import load_json
from pytwin.errors import DataError

FloatArray = npt.NDArray[np.float64]

_DETAILS = ("input_lens", "output_lens", "ttfts", "itls")
_TOTALS = ("completed", "duration", "total_input_tokens", "total_output_tokens", "request_rate")
# Draws where the arrivals themselves are drawn: a mean over them has little noise of its own.
_DRAWS = 8
_LATENCIES = ("ttft", "tpot", "itl", "e2el")


@dataclass(frozen=True)
class Bench:
    """A bench result: what was measured, and the arrivals to play back (one trace per draw)."""

    measured: Measured
    traces: tuple[pl.DataFrame, ...]
    figures: Mapping[str, float]  # totals only: what the result itself states; else empty


def read_bench(path: Path, adapters: int, ranks: Sequence[int]) -> Bench:
    """A result's JSON; `adapters` served of these ranks (cycled), 0 for the base model.

    Raises
    ------
    DataError: not JSON, no bench result, lists of different lengths, or nothing completed.
    """
    document = load_json(path)
    missing = [name for name in _TOTALS if name not in document]
    if missing:
        raise DataError(
            f"{path} has no {missing[0]}: give what vllm bench serve --save-result or "
            "--save-detailed writes"
        )
    if not document["completed"]:
        raise DataError(f"{path}: no request completed, so nothing can be compared")
    _numbers(path, document)
    remarks = []
    if adapters:
        remarks.append(
            f"the result names no adapters: drawn uniformly from {adapters}, over {SEEDS} draws"
        )
    if document.get("max_concurrency"):
        remarks.append(
            f"max_concurrency ({document['max_concurrency']}): starts are played back as they "
            "were; a simulated delay does not hold back later requests"
        )
    try:
        if all(document.get(name) for name in _DETAILS):
            return _detailed(path, document, adapters, ranks, remarks)
        return _totals(path, document, adapters, ranks, remarks)
    except DataError:
        raise
    except (TypeError, KeyError, AttributeError, ValueError, OverflowError) as error:
        raise DataError(f"{path} is no result of vllm bench serve: {error}") from None


def _numbers(path: Path, document: Mapping[str, Any]) -> None:
    """The totals that are read are numbers that a measurement can have."""
    optional = ("burstiness", *(f"mean_{name}_ms" for name in _LATENCIES))
    for name in (*_TOTALS, *(name for name in optional if document.get(name))):
        value = document[name]
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        infinite = name == "request_rate" and number == math.inf  # vLLM writes "inf"
        positive = number > 0 or (number == 0 and name == "total_output_tokens")
        if not (positive and (infinite or math.isfinite(number))):
            raise DataError(f"{path}: {name} ({value}) must be a positive number: save it again")


def _detailed(
    path: Path, document: Mapping[str, Any], adapters: int, ranks: Sequence[int],
    remarks: list[str],
) -> Bench:  # fmt: skip
    count = len(document["input_lens"])
    lists = [*_DETAILS, *(["start_times"] if document.get("start_times") else [])]
    for name in lists:
        if len(document[name]) != count:
            raise DataError(
                f"{path}: {name} has {len(document[name])} entries and input_lens {count}: the "
                "file is damaged"
            )
    errors = document.get("errors") or [""] * count
    good = [k for k in range(count) if not errors[k] and int(document["output_lens"][k]) > 0]
    if not good:
        raise DataError(f"{path}: every request failed, so nothing can be compared")
    if len(good) < count:
        remarks.append(f"{count - len(good)} failed requests are left out")
    starts = _starts(document, count, remarks)
    first = min(starts[k] for k in good)
    rows, gaps, ends = [], [], []
    for k in sorted(good, key=lambda k: starts[k]):
        itls = np.array(document["itls"][k], dtype=np.float64)
        ttft, outputs = float(document["ttfts"][k]), int(document["output_lens"][k])
        whole = ttft + float(itls.sum())
        if not (math.isfinite(starts[k] + whole) and ttft >= 0 and bool((itls >= 0).all())):
            raise DataError(f"{path}: start, ttft or itls of request {k} is no time: save it again")
        gaps.append(1e3 * itls)
        ends.append(starts[k] + whole)
        rows.append({
            "arrival_s": float(starts[k] - first),
            "prompt_tokens": int(document["input_lens"][k]),
            "output_tokens": outputs,
            "ttft_ms": 1e3 * ttft,
            "tpot_ms": 1e3 * float(itls.sum()) / (outputs - 1) if outputs > 1 else None,
            "e2el_ms": 1e3 * whole,
        })  # fmt: skip
    frame = pl.DataFrame(rows, infer_schema_length=None)
    measured = Measured(
        name=path.name,
        requests=frame,
        itl_ms=np.concatenate(gaps),
        duration_s=float(max(ends) - first),
        complete=True,
        remarks=tuple(remarks),
    )
    arrivals = frame.select("arrival_s", "prompt_tokens", "output_tokens")
    traces = [_with_adapters(arrivals, adapters, ranks, seed) for seed in range(SEEDS)]
    return Bench(measured, tuple(traces), {})


def _starts(document: Mapping[str, Any], count: int, remarks: list[str]) -> FloatArray:
    if document.get("start_times"):
        return np.array(document["start_times"], dtype=np.float64)
    remarks.append("no start_times: arrivals are drawn from request_rate and burstiness")
    return _drawn(document, count, 0)


def _drawn(document: Mapping[str, Any], count: int, seed: int) -> FloatArray:
    """Arrivals by vllm bench serve's law: gamma gaps of the stated rate and shape."""
    rate = float(document["request_rate"])
    if math.isinf(rate):
        return np.zeros(count)
    shape = float(document.get("burstiness") or 1.0)
    gaps = np.random.default_rng(seed).gamma(shape, 1 / (rate * shape), count)
    return np.asarray(np.cumsum(gaps) - gaps[0], dtype=np.float64)


def _totals(
    path: Path, document: Mapping[str, Any], adapters: int, ranks: Sequence[int],
    remarks: list[str],
) -> Bench:  # fmt: skip
    count = int(document["completed"])
    duration = float(document["duration"])
    prompts, outputs = document["total_input_tokens"], document["total_output_tokens"]
    remarks.append(
        "totals only (no --save-detailed): arrivals are drawn from request_rate and burstiness "
        f"over {_DRAWS} draws, every request has the mean lengths, only means are compared"
    )
    lengths = (max(1, round(prompts / count)), max(1, round(outputs / count)))
    traces = [
        _with_adapters(
            pl.DataFrame({
                "arrival_s": _drawn(document, count, seed),
                "prompt_tokens": [lengths[0]] * count,
                "output_tokens": [lengths[1]] * count,
            }),
            adapters, ranks, seed,
        )
        for seed in range(_DRAWS)
    ]  # fmt: skip
    figures = {
        "completed": float(count),
        "duration": duration,
        "request_throughput": count / duration,
        "output_throughput": outputs / duration,
        "total_token_throughput": (prompts + outputs) / duration,
    }
    figures |= {
        f"mean_{name}_ms": float(document[f"mean_{name}_ms"])
        for name in _LATENCIES
        if document.get(f"mean_{name}_ms")
    }
    measured = Measured(
        name=path.name,
        requests=traces[0],
        itl_ms=np.array([]),
        duration_s=duration,
        complete=True,
        remarks=tuple(remarks),
    )
    return Bench(measured, tuple(traces), figures)


def _with_adapters(
    arrivals: pl.DataFrame, adapters: int, ranks: Sequence[int], seed: int
) -> pl.DataFrame:
    if not adapters:
        return arrivals.with_columns(adapter=pl.lit(""))
    drawn = np.random.default_rng([seed, 1]).integers(1, adapters + 1, arrivals.height)
    given = list(ranks) or [16]
    return arrivals.with_columns(
        adapter=pl.Series([str(number) for number in drawn]),
        rank=pl.Series([given[(number - 1) % len(given)] for number in drawn]),
    )
