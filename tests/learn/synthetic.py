"""Made-up data sets, so that models can be trained in a moment."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from pytwin.learn.dataset import Dataset
from pytwin.learn.describe import Describer
from tests.conftest import TOY


def dataset(rows: int = 300, groups: int = 15, seed: int = 0) -> Dataset:
    """Random features; labels that depend on some of them, so that models find something."""
    rng = np.random.Generator(np.random.PCG64(seed))
    names = Describer.names
    x = rng.lognormal(0.0, 1.0, (rows, len(names)))
    column = {name: x[:, k] for k, name in enumerate(names)}
    column["utilisation"][:] = rng.uniform(0.0, 2.0, rows)
    column["served_share"][:] = np.minimum(1.0, 1.0 / column["utilisation"])
    column["max_loras"][:] = rng.integers(1, 50, rows)
    noise = rng.normal(0.0, 0.02, rows)
    share = np.minimum(1.0, column["served_share"] * np.exp(noise))
    labels = {
        "served_share": share,
        "throughput": share * column["offered_token_throughput"],
        "tpot_ms": column["step_ms"] * (1.0 + 0.3 * (column["gain"] > 1.0)) * np.exp(noise),
        "ttft_ms": column["first_token_ms"] * (1.0 + column["slot_wait_s"]) * np.exp(noise),
        "starved": (share <= 0.9).astype(float),
        "slo_missed": (column["utilisation"] + 0.1 * column["slot_wait_s"] > 1.0).astype(float),
    }
    frame = pl.DataFrame(
        {
            "profile": [TOY] * rows,
            "duration_s": [600.0] * rows,
            "mean_running": column["running"],
            "mean_batch_adapters": column["active_adapters"],
        }
    )
    return Dataset(names, x, labels, rng.integers(0, groups, rows), frame)


def at_the_edge(models: list[dict[str, Any]], rows: int = 400, seed: int = 1) -> np.ndarray:
    """Features, shape (rows, all), many on thresholds or beside them, in 32 and in 64 bits."""
    rng = np.random.Generator(np.random.PCG64(seed))
    x = rng.lognormal(0.0, 1.0, (rows, len(Describer.names)))
    for document in models:
        for tree in document["trees"]:
            for feature, threshold in zip(tree["feature"], tree["threshold"], strict=True):
                if feature < 0:
                    continue
                column = Describer.names.index(document["features"][feature])
                near = [
                    threshold,
                    np.nextafter(threshold, np.inf),
                    np.nextafter(threshold, -np.inf),
                    float(np.nextafter(np.float32(threshold), np.float32(np.inf))),
                    float(np.float32(threshold)),
                ]
                chosen = rng.integers(0, rows, len(near))
                x[chosen, column] = near
    return x
