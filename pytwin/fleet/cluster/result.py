"""What a simulated fleet gives back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytwin.errors import PytwinError
from pytwin.fleet.cluster.nouns import Replica
from pytwin.results import Run
from pytwin.simulation import extrapolated
from pytwin.workload import Workload

if TYPE_CHECKING:
    import polars as pl


class FleetRun:
    """One simulation of a fleet.

    Attributes
    ----------
    status: "ok", or "infeasible" when a server could not start.
    error: the reason why not; None if ok.
    metrics: the names of `Run.metrics`, of all replicas together (`max_running`, `max_waiting` and
        `max_kv_usage` are the largest of any replica), and `unrouted` (requests that no replica
        took, counted as refused), `gpu_s` (seconds of all replicas from their start until they had
        ended) and `served_imbalance` (served tokens of the busiest replica over their mean).
    seed: the seed of the simulation.
    """

    def __init__(
        self,
        outcome: Mapping[str, Any],
        *,
        replicas: Sequence[Replica],
        traffic: Workload,
        seed: int,
    ) -> None:
        self.status: str = outcome["status"]
        self.error: str | None = outcome["error"]
        self.metrics: dict[str, Any] = dict(outcome.get("metrics") or {})
        self.seed = seed
        self._outcome = outcome
        self._replicas = tuple(replicas)
        self._traffic = traffic

    def __repr__(self) -> str:
        if self.status != "ok":
            return f"<FleetRun {self.status}: {self.error}>"
        shown = ("completed", "total_throughput", "mean_ttft_ms", "mean_tpot_ms", "unrouted")
        parts = [f"{name}={self.metrics[name]:.6g}" for name in shown]
        return f"<FleetRun {len(self._replicas)} replicas {' '.join(parts)}>"

    @cached_property
    def extrapolated(self) -> list[str]:
        """Why the result goes beyond what the profiles were measured on; empty if it does not."""
        reasons: dict[str, None] = {}
        for number, replica in enumerate(self._replicas):
            metrics = self._parts[number]["metrics"] if self.status == "ok" else None
            own = None if replica.adapters is None else len(replica.adapters)
            reasons |= dict.fromkeys(
                extrapolated(replica.server, self._traffic, metrics, served_adapters=own)
            )
        return list(reasons)

    @cached_property
    def replicas(self) -> pl.DataFrame:
        """One row per replica: replica, gpu_s, and the metrics of a single server."""
        import polars as pl

        rows = [
            {"replica": number, "gpu_s": part["gpu_s"], **part["metrics"]}
            for number, part in enumerate(self._parts)
        ]
        return pl.DataFrame(rows)

    @cached_property
    def adapters(self) -> pl.DataFrame:
        """One row per adapter over the whole fleet, columns as `Run.adapters`."""
        return self._run(self._outcome).adapters

    @cached_property
    def adapters_by_replica(self) -> pl.DataFrame:
        """One row per adapter and replica with requests for it: replica, then `Run.adapters`."""
        import polars as pl

        frames = [self._run(part).adapters.filter(pl.col("offered") > 0) for part in self._parts]
        return _stacked(frames)

    @cached_property
    def requests(self) -> pl.DataFrame:
        """One row per request in order of arrival: request_id, replica, then `Run.requests`.

        `replica` is null for requests that no replica took.
        """
        import polars as pl

        if self._outcome.get("requests") is None:
            raise PytwinError("requests (None) were not recorded: simulate_fleet(requests=True)")
        parts = [*enumerate(self._parts), (None, self._outcome)]
        frames = []
        for number, part in parts:
            frame = self._run(part).requests
            if frame.is_empty():
                continue
            frames.append(
                frame.with_columns(
                    request_id=pl.Series(part["serials"], dtype=pl.UInt32),
                    replica=pl.lit(number, dtype=pl.Int64),
                )
            )
        if not frames:
            return pl.DataFrame()
        joined = pl.concat(frames).sort("request_id")
        return joined.select("request_id", "replica", pl.exclude("request_id", "replica"))

    @cached_property
    def timeseries(self) -> pl.DataFrame:
        """One row per replica and period: replica, then `Run.timeseries`."""
        return _stacked([self._run(part).timeseries for part in self._parts])

    @cached_property
    def steps(self) -> pl.DataFrame:
        """One row per replica and engine step: replica, then `Run.steps`."""
        return _stacked([self._run(part).steps for part in self._parts])

    def to_dict(self) -> dict[str, Any]:
        """Metrics of the fleet and of each replica, JSON-ready; what does not exist is None."""
        rows = self.replicas.to_dicts() if self.status == "ok" else []
        return {
            "status": self.status,
            "error": self.error,
            "seed": self.seed,
            "extrapolated": self.extrapolated,
            **_finite(self.metrics),
            "replicas": [_finite(row) for row in rows],
        }

    def to_json(self, indent: int | None = 2) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    @property
    def _parts(self) -> list[dict[str, Any]]:
        return list(self._outcome.get("replicas") or ())

    def _run(self, part: Mapping[str, Any]) -> Run:
        """The frames of one replica are those of a single run."""
        outcome = {**part, "status": "ok", "error": None, "stopped_at_s": None, "stop_reason": None}
        return Run(
            outcome,
            server=self._replicas[0].server,
            traffic=self._traffic,
            seed=self.seed,
            extrapolated=[],
        )


def _stacked(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    import polars as pl

    numbered = [
        frame.select(pl.lit(number, dtype=pl.Int64).alias("replica"), pl.all())
        for number, frame in enumerate(frames)
        if not frame.is_empty()
    ]
    return pl.concat(numbered) if numbered else pl.DataFrame()


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }
