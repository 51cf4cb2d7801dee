"""A sweep's result as what models learn from: features, labels, and which rows belong together."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytwin.config import EngineConfig
from pytwin.errors import DataError
from pytwin.learn.describe import Describer, Setting, Traffic
from pytwin.workload.plain import workload_from_values

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

STARVED_BELOW = 0.9
"""The authors' rule: starved where throughput is at most this share of nominal rate x lengths."""

_NEEDED = (
    "profile", "rates_rps", "ranks", "lengths", "served_adapters", "max_loras", "max_lora_rank",
    "duration_s", "seed", "status", "total_throughput", "mean_tpot_ms", "mean_ttft_ms",
    "adapters_in_groups_missing_slo",
)  # fmt: skip


@dataclass(frozen=True)
class Dataset:
    """Rows that models learn from.

    Attributes
    ----------
    names: of the features, in the order of the columns of `x`.
    x: shape (rows, features).
    labels: name -> shape (rows,): served_share (throughput over nominal rate x lengths), starved
        (served_share <= 0.9), slo_missed (a group of adapters of equal rate and rank
        has a mean TTFT or TPOT above the objective),
        tpot_ms, ttft_ms (means over completed requests; NaN where none completed), throughput
        (input + output tokens/s).
    groups: shape (rows,): number of the workload; rows of one are never split.
    frame: the sweep's rows behind them, in the same order.
    """

    names: tuple[str, ...]
    x: NDArray[np.float64]
    labels: dict[str, NDArray[np.float64]]
    groups: NDArray[np.int64]
    frame: pl.DataFrame

    @property
    def duration_s(self) -> float:
        """The horizon of the simulations, the same in all rows."""
        return float(self.frame["duration_s"][0])

    def column(self, name: str) -> NDArray[np.float64]:
        """One feature, shape (rows,)."""
        values: NDArray[np.float64] = self.x[:, self.names.index(name)]
        return values

    def take(self, kept: NDArray[Any]) -> Dataset:
        """Some rows."""
        rows = self.frame[kept.nonzero()[0] if kept.dtype == bool else kept, :]
        labels = {name: values[kept] for name, values in self.labels.items()}
        return Dataset(self.names, self.x[kept], labels, self.groups[kept], rows)


def read_dataset(directory: str | os.PathLike[str]) -> Dataset:
    """The finished rows of a sweep as a data set.

    Raises
    ------
    DataError: no sweep there, a column is missing, or no row has a result.
    """
    import polars as pl

    import pytwin.sweep

    try:
        frame = pytwin.sweep.open(directory).filter(pl.col("status") == "ok").collect()
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"sweep ({directory}) has a part that cannot be read: {reason}") from None
    missing = [name for name in _NEEDED if name not in frame.columns]
    if missing:
        raise DataError(
            f"sweep ({directory}) has no column {', '.join(missing)}: vary or set it in the spec"
        )
    horizons = frame["duration_s"].unique().sort().to_list()
    if len(horizons) > 1:
        shown = ", ".join(f"{value:g}" for value in horizons)
        raise DataError(f"duration_s ({shown}) must be the same in all rows: sweep one horizon")
    if frame.is_empty():
        raise DataError(f"sweep ({directory}) has no row with status ok: nothing to learn from")
    return dataset_of(frame)


def dataset_of(frame: pl.DataFrame) -> Dataset:
    """The same from a frame of rows with status ok."""
    import numpy as np
    import polars as pl

    describers: dict[str, Describer] = {}
    x = np.full((len(frame), len(Describer.names)), np.nan)
    offered = np.zeros(len(frame))
    horizon = float(frame["duration_s"][0])
    key = ["profile", "rates_rps", "ranks", "lengths"]
    numbered = frame.select(*key, *_settings_columns()).with_row_index("row")
    groups = np.zeros(len(frame), dtype=np.int64)
    for number, (workload, rows) in enumerate(numbered.group_by(key, maintain_order=True)):
        profile, rates, ranks, lengths = workload
        name = str(profile)
        if name not in describers:
            describers[name] = Describer(EngineConfig(profile=name))
        describer = describers[name]
        traffic = Traffic(tuple(rates), tuple(ranks), _law(lengths))
        settings = [Setting(*row) for row in rows.select(_settings_columns()).iter_rows()]
        index = rows["row"].to_numpy()
        x[index] = describer.features(traffic, settings, horizon)
        requested = describer.moments(traffic).requested
        offered[index] = [traffic.rate_rps(s.served_adapters) * requested for s in settings]
        groups[index] = number
    labels = {
        "throughput": frame["total_throughput"].cast(pl.Float64).to_numpy(),
        "slo_missed": (frame["adapters_in_groups_missing_slo"] > 0).cast(pl.Float64).to_numpy(),
        "tpot_ms": frame["mean_tpot_ms"].cast(pl.Float64).fill_null(np.nan).to_numpy(),
        "ttft_ms": frame["mean_ttft_ms"].cast(pl.Float64).fill_null(np.nan).to_numpy(),
    }
    labels["served_share"] = labels["throughput"] / offered
    labels["starved"] = (labels["served_share"] <= STARVED_BELOW).astype(float)
    return Dataset(Describer.names, x, labels, groups, frame)


def _settings_columns() -> list[str]:
    return ["served_adapters", "max_loras", "max_lora_rank"]


def _law(cell: Any) -> Any:
    """A length law as a sweep wrote it: its name, or name=value pairs."""
    text = str(cell)
    if "=" not in text:
        parts = text.split(",")
        value: Any = [int(part) for part in parts] if len(parts) == 2 else text
    else:
        pairs = dict(part.split("=", 1) for part in text.split(","))
        value = {name: item if name == "law" else float(item) for name, item in pairs.items()}
        if "max_total_tokens" in value:
            value["max_total_tokens"] = int(value["max_total_tokens"])
    return workload_from_values(served_adapters=1, rates_rps=1.0, lengths=value).lengths
