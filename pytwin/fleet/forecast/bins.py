"""Requests counted in bins of time: what forecasts are made from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pytwin.errors import DataError, WorkloadError
from pytwin.fleet.logs.log import BASE_MODEL, RequestLog, check_gaps
from pytwin.workload.checks import positive

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DAY_S = 86_400.0
_MAX_CELLS = 200_000_000
_TAIL_MEANS, _TAIL_SHARE = 10.0, 0.05


@dataclass(frozen=True, eq=False)
class History:
    """Requests per adapter and bin.

    Attributes
    ----------
    counts: float64 (adapters, bins), whole numbers >= 0.
    bin_s: length of a bin in seconds.
    adapters: their names, one per row.
    ranks: rank of each adapter, where it is known.
    season_bins: bins in a day; 0 where a day is no whole number >= 2 of bins.
    """

    counts: NDArray[np.float64]
    bin_s: float
    adapters: tuple[str, ...] = ()
    ranks: dict[str, int] = field(default_factory=dict)
    season_bins: int = -1

    def __post_init__(self) -> None:
        import numpy as np

        positive("bin_s", self.bin_s)
        counts = np.ascontiguousarray(self.counts, dtype=np.float64)
        if counts.ndim != 2 or 0 in counts.shape:
            raise WorkloadError(
                f"counts (shape {counts.shape}) must be adapters x bins, at least 1 x 1"
            )
        if not np.isfinite(counts).all() or counts.min() < 0:
            raise WorkloadError("counts must be finite and >= 0")
        object.__setattr__(self, "counts", counts)
        names = self.adapters or tuple(f"adapter-{k}" for k in range(1, len(counts) + 1))
        if len(names) != len(counts):
            raise WorkloadError(
                f"adapters ({len(names)} names) must be as many as rows of counts ({len(counts)})"
            )
        object.__setattr__(self, "adapters", names)
        if self.season_bins < 0:
            object.__setattr__(self, "season_bins", season_of(self.bin_s))

    @property
    def bins(self) -> int:
        """Number of bins."""
        return int(self.counts.shape[1])

    def before(self, bins: int) -> History:
        """The first `bins` bins: what is known when bin `bins` begins."""
        return replace(self, counts=self.counts[:, :bins])

    def after(self, bins: int) -> History:
        """What comes from bin `bins` on."""
        return replace(self, counts=self.counts[:, bins:])


def season_of(bin_s: float) -> int:
    """Bins in a day, or 0 where that is no whole number >= 2."""
    bins = round(DAY_S / bin_s)
    return bins if bins >= 2 and abs(bins * bin_s - DAY_S) < 1e-6 * DAY_S else 0


def bin_counts(
    log: RequestLog,
    bin_s: float,
    *,
    end_s: float | None = None,
    adapters: Iterable[str] | None = None,
    allow_gaps: bool = False,
) -> History:
    """The log's requests per adapter and whole bin; requests for the base model are left out.

    Parameters
    ----------
    bin_s: length of a bin in seconds.
    end_s: where the log ends. Left out, it is taken from the last arrival: the bin that holds it
        counts as whole if the log nearly reaches its end (by ten mean gaps, at most a twentieth of
        the bin), else it is left out, as half a bin would look like half the traffic.
    adapters: the rows and their order; those of the log, in order of their first request, if
        left out.
    allow_gaps: take holes in the log as zero traffic instead of refusing them.

    Raises
    ------
    DataError: a hole, no adapter, or less than one whole bin.
    """
    import numpy as np
    import polars as pl

    width = positive("bin_s", bin_s)
    if not allow_gaps:
        check_gaps(log, width)
    names = log.adapters if adapters is None else tuple(adapters)
    if not names:
        raise DataError(
            f"{log.source} names no adapter: deal its requests out with --deal N "
            "(assign_adapters) or add a column adapter"
        )
    bins = _whole_bins(log, width) if end_s is None else int(positive("end_s", end_s) / width)
    if bins < 1:
        raise DataError(
            f"{log.source} ends at {log.last_s:.0f} s, before one whole bin: bin_s ({width:g}) "
            "must be smaller, or the log longer"
        )
    if bins * len(names) > _MAX_CELLS:
        raise DataError(
            f"bin_s ({width:g}) makes {bins} bins of {len(names)} adapters: at most {_MAX_CELLS} "
            "cells are counted, make it larger"
        )
    row_of = {name: row for row, name in enumerate(names)}
    frame = log.frame.filter(pl.col("adapter") != BASE_MODEL)
    rows = frame["adapter"].replace_strict(row_of, default=-1, return_dtype=pl.Int64).to_numpy()
    at = np.floor(frame["arrival_s"].to_numpy() / width).astype(np.int64)
    inside = (at < bins) & (rows >= 0)
    flat = np.bincount(rows[inside] * bins + at[inside], minlength=bins * len(names))
    return History(flat.reshape(len(names), bins).astype(np.float64), width, names, log.ranks)


def _whole_bins(log: RequestLog, bin_s: float) -> int:
    last = log.last_s
    bins = int(last / bin_s)
    slack = min(_TAIL_MEANS * last / log.frame.height, _TAIL_SHARE * bin_s)
    return bins + 1 if (bins + 1) * bin_s - last <= slack else bins
