"""How long an adapter load takes: from disk to host memory, from host memory to a slot.

A disk load reads and converts the adapter's file: a fixed part and one per rank. A slot load zeroes
the slot and copies the weights; an adapter of lower rank than its slot takes a strided copy, which
costs a fixed amount more whatever the ranks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

_PADDED: dict[str, Any] = {"of": "rank_padding", "positive": True}


def fit(loads: pl.DataFrame, runs: pl.DataFrame) -> tuple[dict[str, Any], dict[str, Any]]:
    """The profile's `load_time` and its residual report, from `lora_loads` of one model's runs."""
    known = runs.filter(pl.col("max_lora_rank").is_not_null()).select(
        "run_idx",
        "max_loras",
        "max_lora_rank",
        pl.col("adapter_rank_pattern").list.first().alias("rank"),
        pl.col("adapter_rank_pattern").list.n_unique().alias("ranks"),
    )
    # The first loads of a process also pay for imports and allocation.
    table = loads.join(known, on="run_idx").filter(pl.col("ranks") == 1, pl.col("load_index") > 3)
    if table.is_empty():
        raise ValueError("lora_loads must hold loads of runs whose adapters have one rank")
    medians = table.group_by(
        "run_idx", pl.col("source").cast(pl.String), "rank", "max_lora_rank", "max_loras"
    ).agg(pl.col("load_time_ms").median(), pl.len())

    disk = medians.filter(pl.col("source") == "disk")
    per_rank = _least_squares(disk, ["rank"])
    memory = medians.filter(pl.col("source") == "memory").with_columns(
        padded=(pl.col("max_lora_rank") > pl.col("rank")).cast(pl.Float64)
    )
    slot = _least_squares(memory, ["padded"])
    document = {
        "unit": "us",
        "disk": [
            _term(per_rank[0], [], "open, parse and convert the adapter's file"),
            _term(per_rank[1], ["rank"], "bytes read and converted, per rank"),
        ],
        "memory": [
            _term(slot[0], [], "zero a slot and copy the adapter's weights into it"),
            _term(slot[1], [_PADDED], "strided copy into a slot wider than the adapter"),
        ],
    }
    report = {
        "disk_mape_percent": _mape(disk, per_rank, ["rank"]),
        "memory_mape_percent": _mape(memory, slot, ["padded"]),
        "rows": medians.height,
    }
    return document, report


def _design(table: pl.DataFrame, columns: list[str]) -> NDArray[np.float64]:
    ones = np.ones(table.height)
    return np.stack([ones, *(table[name].to_numpy().astype(float) for name in columns)], axis=1)


def _least_squares(table: pl.DataFrame, columns: list[str]) -> NDArray[np.float64]:
    target = table["load_time_ms"].to_numpy().astype(float)
    design = _design(table, columns) / target[:, None]
    solution = np.linalg.lstsq(design, np.ones(len(target)), rcond=None)[0]
    return np.asarray(solution, dtype=np.float64)


def _mape(table: pl.DataFrame, solution: NDArray[np.float64], columns: list[str]) -> float:
    target = table["load_time_ms"].to_numpy().astype(float)
    errors = np.abs(_design(table, columns) @ solution / target - 1)
    return round(100 * float(errors.mean()), 2)


def _term(milliseconds: float, factors: list[Any], why: str) -> dict[str, Any]:
    return {"coefficient": float(f"{milliseconds * 1000:.6g}"), "factors": factors, "why": why}
