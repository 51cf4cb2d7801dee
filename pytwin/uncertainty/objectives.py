"""Which adapter misses its objective, with what probability; and whether such forecasts hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pytwin.errors import PytwinError
from pytwin.uncertainty.ensemble import Member, share_queued, unexplained
from pytwin.uncertainty.factors import Uncertainty
from pytwin.uncertainty.intervals import law_of

if TYPE_CHECKING:
    import polars as pl

FloatArray = npt.NDArray[np.float64]

_MEANS = ("mean_ttft_ms", "mean_tpot_ms")


def adapter_outlook(
    team: Sequence[Member],
    records: Sequence[Mapping[str, Any]],
    uncertainty: Uncertainty,
    *,
    level: float,
    ttft_slo_ms: float,
    tpot_slo_ms: float,
    names: Sequence[str] | None,
) -> pl.DataFrame:
    """One row per adapter; see `Prediction.adapters`.

    `records` hold, for every member of `team` that is a seed or a draw, the core's adapter columns
    and the run's mean_waiting.
    """
    import polars as pl

    kinds = [member.kind for member in team if member.kind in ("seed", "draw")]
    sample_kind = "draw" if "draw" in kinds else "seed"
    seeds = _stack(records, kinds, "seed")
    sample = _stack(records, kinds, sample_kind)
    queued = share_queued(
        [row for row, kind in zip(records, kinds, strict=True) if kind == sample_kind]
    )
    limits = dict(zip(_MEANS, (ttft_slo_ms, tpot_slo_ms), strict=True))
    spread = {name: unexplained(uncertainty, name, queued) for name in _MEANS}
    first = records[0]
    rows = []
    for k, adapter in enumerate(first["adapter"]):
        if adapter == 0 and not seeds["arrived"][:, k].any():
            continue
        row: dict[str, Any] = {
            "adapter": int(adapter),
            "rank": int(first["rank"][k]),
            "rate_rps": float(first["rate_rps"][k]),
        }
        missed = {}
        for name in _MEANS:
            row[name] = _mean(seeds[name][:, k])
            law = law_of(sample[name][:, k], spread[name])
            low, high = (None, None) if law is None else law.interval(level)
            row[f"{name}_low"], row[f"{name}_high"] = low, high
            missed[name] = miss_probability(
                sample[name][:, k], limits[name], spread[name], _stalled(sample, k)
            )
        row["ttft_miss"], row["tpot_miss"] = (missed[name] for name in _MEANS)
        row["miss"] = _either(sample, k, limits, spread)
        row["request_miss"] = _mean(sample["slo_miss"][:, k])
        rows.append(row)
    frame = pl.DataFrame(rows, infer_schema_length=None)
    if names is None:
        return frame
    labels = pl.Series("name", ["", *names], dtype=pl.String)
    return frame.with_columns(name=labels.gather(frame["adapter"]))


def miss_probability(
    values: FloatArray, limit: float, unexplained: float, stalled: npt.NDArray[np.bool_]
) -> float | None:
    """Probability that a mean comes out above its objective.

    Parameters
    ----------
    values: the adapter's mean in each simulation; NaN where it finished nothing.
    limit: the objective.
    unexplained: log spread of reality around the simulations.
    stalled: simulations in which nothing finished while a request had missed: a miss.

    Returns
    -------
    float: over the simulations in which the adapter was judged at all; None if it never was.
    """
    exists = np.isfinite(values)
    lost = stalled & ~exists
    judged = int(exists.sum() + lost.sum())
    if judged == 0:
        return None
    law = law_of(values[exists], unexplained)
    above = 0.0 if law is None else law.above(limit)
    return (above * int(exists.sum()) + int(lost.sum())) / judged


def brier(probabilities: Sequence[float], happened: Sequence[bool]) -> float:
    """Mean squared difference of forecast and outcome (0 or 1)."""
    if len(probabilities) != len(happened) or not probabilities:
        raise PytwinError(
            f"forecasts ({len(probabilities)}) must be as many as outcomes ({len(happened)}), "
            "and at least one"
        )
    return math.fsum((p - y) ** 2 for p, y in zip(probabilities, happened, strict=True)) / len(
        happened
    )


def reliability(
    probabilities: Sequence[float], happened: Sequence[bool], bins: int = 10
) -> list[dict[str, float]]:
    """Of the forecasts in each bin of [0, 1]: their mean, how often it happened, and how many.

    `low` and `high` are where that share lies with 90 % if the forecasts are right (binomial,
    independent outcomes).
    """
    forecast = np.asarray(probabilities, dtype=np.float64)
    outcome = np.asarray(happened, dtype=np.float64)
    index = np.minimum((forecast * bins).astype(int), bins - 1)
    table = []
    for k in range(bins):
        inside = index == k
        count = int(inside.sum())
        if count == 0:
            continue
        mean = float(forecast[inside].mean())
        spread = 1.645 * math.sqrt(float((forecast[inside] * (1 - forecast[inside])).sum())) / count
        table.append(
            {
                "from": k / bins,
                "to": (k + 1) / bins,
                "forecasts": count,
                "mean_forecast": mean,
                "happened": float(outcome[inside].mean()),
                "low": max(0.0, mean - spread),
                "high": min(1.0, mean + spread),
            }
        )
    return table


def _stack(
    records: Sequence[Mapping[str, Any]], kinds: Sequence[str], wanted: str
) -> dict[str, FloatArray]:
    """Column -> (simulations, adapters)."""
    chosen = [row for row, kind in zip(records, kinds, strict=True) if kind == wanted]
    return {
        name: np.stack([np.asarray(row[name], dtype=np.float64) for row in chosen])
        for name in ("arrived", *_MEANS, "slo_miss")
    }


def _stalled(sample: Mapping[str, FloatArray], k: int) -> npt.NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        return np.asarray(sample["slo_miss"][:, k] > 0)


def _either(
    sample: Mapping[str, FloatArray],
    k: int,
    limits: Mapping[str, float],
    spread: Mapping[str, float],
) -> float | None:
    """Probability that one of the two means is above its objective.

    Both are scaled to their objectives, and the larger is taken in every simulation.
    """
    ratios = np.stack([sample[name][:, k] / limits[name] for name in _MEANS])
    # An adapter of one-token outputs has a TTFT and no TPOT.
    worst = np.where(np.isfinite(ratios), ratios, -np.inf).max(axis=0)
    leading = int(np.nanargmax(np.where(np.isfinite(ratios), ratios, -1.0).mean(axis=1)))
    values = np.where(np.isfinite(worst), worst, np.nan)
    return miss_probability(values, 1.0, spread[_MEANS[leading]], _stalled(sample, k))


def _mean(values: FloatArray) -> float | None:
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if kept.size else None
