"""A request log in memory, and the holes in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytwin.errors import DataError
from pytwin.workload.replay import Trace, read_trace

if TYPE_CHECKING:
    import polars as pl

BASE_MODEL = ""
"""What the requests without adapter are called."""

_GAP_BINS = 3.0
_GAP_MEANS = 100.0


@dataclass(frozen=True, eq=False)
class RequestLog:
    """Who asked when, for which adapter, how long.

    Attributes
    ----------
    frame: arrival_s (float64, seconds from the log's start, never falling), adapter (string, "" is
        the base model), prompt_tokens, output_tokens (uint32), and rank (int64) where it is known.
    source: the file it was read from, for messages.
    dropped: requests left out because no token was asked for or answered (failures).
    """

    frame: pl.DataFrame
    source: str = "log"
    dropped: int = 0

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters, in order of their first request; the base model is none."""
        names = self.frame["adapter"].unique(maintain_order=True)
        return tuple(name for name in names if name != BASE_MODEL)

    @property
    def last_s(self) -> float:
        """Time of the last arrival, in seconds."""
        return float(self.frame["arrival_s"][-1])

    @property
    def ranks(self) -> dict[str, int]:
        """Rank of each adapter, where the log states it."""
        if "rank" not in self.frame.columns:
            return {}
        firsts = self.frame.unique("adapter", keep="first", maintain_order=True)
        return dict(zip(firsts["adapter"], firsts["rank"], strict=True))

    def trace(self) -> Trace:
        """The log as a trace that `Workload.replay` plays back."""
        return read_trace(self.frame)

    def between(self, start_s: float, end_s: float) -> RequestLog:
        """The requests with start_s <= arrival_s < end_s, their times counted from start_s."""
        import polars as pl

        part = self.frame.filter(pl.col("arrival_s").is_between(start_s, end_s, closed="left"))
        return replace(self, frame=part.with_columns(pl.col("arrival_s") - start_s))


def check_gaps(log: RequestLog, bin_s: float) -> None:
    """Refuse a log with a hole: a time in which no adapter had a request.

    A hole is a gap between two arrivals (or before the first) that is longer than three bins and
    longer than a hundred mean gaps. Under Poisson arrivals of the log's own rate a gap of a
    hundred means has probability e^-100, at a tenth of that rate still e^-10; a log that stopped
    writing looks the same as traffic that stopped, and a forecast must not learn from the first.

    Raises
    ------
    DataError: where the longest hole begins and ends, in seconds of the log.
    """
    import numpy as np

    arrivals = np.concatenate([[0.0], log.frame["arrival_s"].to_numpy()])
    gaps = np.diff(arrivals)
    longest = int(gaps.argmax())
    # The median of the others would be robust too, but is 0 where times are whole seconds.
    others = float(np.delete(gaps, longest).mean()) if len(gaps) > 1 else 0.0
    limit = max(_GAP_BINS * bin_s, _GAP_MEANS * others)
    if gaps[longest] > limit:
        start, end = arrivals[longest], arrivals[longest + 1]
        raise DataError(
            f"{log.source}: no request of any adapter from {start:.0f} s to {end:.0f} s "
            f"({gaps[longest]:.0f} s), a hole must not exceed {limit:.0f} s: cut the log there, or "
            "say --allow-gaps (allow_gaps=True) if the traffic really was zero"
        )
