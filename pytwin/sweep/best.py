"""The best setting per mix, from a sweep's result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

SETTING = ("served_adapters", "max_loras")


def settings(frame: pl.DataFrame, mix: Sequence[str]) -> pl.DataFrame:
    """One row per mix and setting, seeds averaged; infeasible and failed ones left out.

    Parameters
    ----------
    frame: a sweep's result with columns `mix`, served_adapters and max_loras.
    mix: columns that tell one mix from another; none if there is but one.

    Returns
    -------
    pl.DataFrame: `mix`, served_adapters, max_loras, total_throughput and
        offered_token_throughput (tokens/s, mean over seeds), starved (true if in any seed),
        seeds; sorted.
    """
    import polars as pl

    keys = [*mix, *SETTING]
    return (
        frame.filter(pl.col("status") == "ok")
        .group_by(keys)
        .agg(
            pl.col("total_throughput", "offered_token_throughput").mean(),
            pl.col("starved").cast(pl.Boolean).any(),
            seeds=pl.len(),
        )
        .sort(keys)
    )


def best_settings(
    frame: pl.DataFrame, mix: Sequence[str], *, tolerance: float = 0.01
) -> pl.DataFrame:
    """The setting of highest throughput among those that do not starve, per mix.

    Throughputs within `tolerance` of the highest count as equal: of those the cheapest in memory
    is taken, that is the fewest GPU slots (max_loras), then the fewest adapters in host memory.

    Returns
    -------
    pl.DataFrame: the rows of `settings`, one per mix; a mix that starves everywhere has none.
    """
    import polars as pl

    healthy = settings(frame, mix).filter(~pl.col("starved"))
    top = pl.col("total_throughput").max()
    equal = healthy.filter(
        pl.col("total_throughput") >= (1.0 - tolerance) * (top.over(list(mix)) if mix else top)
    ).sort([*mix, "max_loras", "served_adapters"])
    return equal.unique(list(mix), keep="first", maintain_order=True) if mix else equal.head(1)
