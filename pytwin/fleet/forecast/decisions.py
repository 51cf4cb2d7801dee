"""What a forecast is worth: replicas planned by it against replicas that were needed."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from pytwin.errors import DataError
from pytwin.workload.checks import positive, whole

if TYPE_CHECKING:
    import polars as pl

PlanOn = Literal["mean", "upper"]


@dataclass(frozen=True)
class DecisionScores:
    """Outcomes of planning each bin's replicas by a forecast; shares are of 1.

    Attributes
    ----------
    bins: how many were judged.
    replica_bins: replicas planned, summed over bins; needed_replica_bins: by the true rates.
    short_bins: share of bins with fewer replicas than needed.
    unserved: share of all requests that came above the planned capacity.
    idle: share of planned replicas that were more than needed.
    changes: replicas started or stopped from bin to bin; each moves adapters about.
    """

    bins: int
    replica_bins: int
    needed_replica_bins: int
    short_bins: float
    unserved: float
    idle: float
    changes: int

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def score_decisions(
    forecast: pl.DataFrame,
    truth: pl.DataFrame,
    capacity_rps: float,
    *,
    plan_on: PlanOn = "upper",
    least_replicas: int = 1,
) -> DecisionScores:
    """Plan ceil(total rate / capacity_rps) replicas a bin by the forecast, and judge by the truth.

    A loop over time concatenates the first bins of each re-plan's forecast, with bins numbered
    through, and gives the truth of the same bins once. Where a capacity in requests/s is too coarse
    a measure of a replica (adapters, ranks, lengths), simulate instead.

    Parameters
    ----------
    forecast: adapter, bin, rate_rps and, to plan on it, upper_rps (as of `forecast_rates`). The
        sum of adapters' upper ends lies above the upper end of their sum: "upper" is cautious.
    truth: adapter, bin, rate_rps: what came.
    capacity_rps: of one replica, in requests/s.
    plan_on: "upper" or "mean" (rate_rps).
    least_replicas: never fewer.

    Raises
    ------
    DataError: bins of the forecast and the truth differ, or a column is missing.
    WorkloadError: a capacity that is not > 0.
    """
    capacity = positive("capacity_rps", capacity_rps)
    least = whole("least_replicas", least_replicas, least=0)
    column = "upper_rps" if plan_on == "upper" else "rate_rps"
    planned = _totals(forecast, "forecast", column)
    came = _totals(truth, "truth", "rate_rps")
    if planned["bin"].to_list() != came["bin"].to_list():
        raise DataError(
            f"forecast ({planned.height} bins) and truth ({came.height} bins) must be of the same "
            "bins: cut one to the other"
        )

    def replicas(rates: pl.Series) -> list[int]:
        # 1e-9: a rate of exactly two capacities needs two replicas, whatever its sum rounds to.
        return [max(least, math.ceil(rate / capacity - 1e-9)) for rate in rates]

    had, needed = replicas(planned["rate"]), replicas(came["rate"])
    excess = sum(max(rate - n * capacity, 0.0) for rate, n in zip(came["rate"], had, strict=True))
    total = float(came["rate"].sum())
    pairs = list(zip(had, needed, strict=True))
    return DecisionScores(
        bins=len(had),
        replica_bins=sum(had),
        needed_replica_bins=sum(needed),
        short_bins=sum(h < n for h, n in pairs) / len(had),
        unserved=excess / total if total > 0 else 0.0,
        idle=sum(max(h - n, 0) for h, n in pairs) / max(sum(had), 1),
        changes=sum(abs(b - a) for a, b in itertools.pairwise(had)),
    )


def _totals(frame: pl.DataFrame, label: str, column: str) -> pl.DataFrame:
    import polars as pl

    missing = [name for name in ("bin", column) if name not in frame.columns]
    if missing or frame.is_empty():
        what = f"lacks column {missing[0]}" if missing else "holds no row"
        raise DataError(f"{label} {what}: give adapter, bin, {column}")
    return frame.group_by("bin").agg(pl.col(column).sum().alias("rate")).sort("bin")
