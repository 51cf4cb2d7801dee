"""Requests of a log without adapters, dealt to adapters."""

from __future__ import annotations

from dataclasses import replace

from pytwin.fleet.logs.log import RequestLog
from pytwin.workload.checks import non_negative, ranks, whole

_DEAL_STREAM = 0xDEA1


def assign_adapters(
    log: RequestLog,
    n: int,
    exponent: float = 1.0,
    seed: int = 0,
    *,
    rank: int | tuple[int, ...] = 16,
) -> RequestLog:
    """The log with each request given to one of `n` adapters by a Zipf law.

    Request by request, independently: adapter k of 1 .. n has probability proportional to
    1/k**exponent. So every adapter is a thinned copy of the log: all share its daily swing and its
    bursts, at most scaled, and none goes viral alone; popularities do not drift. (`fleet_traffic`
    generates traffic where they do.) The adapters are named adapter-1 .. adapter-n; `rank` is
    cycled over them. Adapters that the log had are forgotten.

    Raises
    ------
    WorkloadError: n < 1, a negative exponent or a bad rank.
    """
    import numpy as np
    import polars as pl

    count = whole("adapters", n, least=1, most=1_000_000)
    power = non_negative("exponent", exponent)
    given = ranks("rank", rank)
    shares = np.arange(1, count + 1, dtype=np.float64) ** -power
    edges = np.cumsum(shares / shares.sum())
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, _DEAL_STREAM))))
    drawn = np.searchsorted(edges, random.random(log.frame.height), side="right")
    dealt = np.minimum(drawn, count - 1)  # the last edge may round to below 1
    names = pl.Series([f"adapter-{k}" for k in range(1, count + 1)])
    rank_of = pl.Series([given[k % len(given)] for k in range(count)], dtype=pl.Int64)
    frame = log.frame.with_columns(
        names.gather(dealt).alias("adapter"), rank_of.gather(dealt).alias("rank")
    )
    return replace(log, frame=frame)
