"""What a simulation gives back: metrics and frames, under vLLM's names."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytwin.config import EngineConfig
from pytwin.errors import PytwinError
from pytwin.workload import Workload

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

REQUEST_STATUS = ("finished", "unfinished", "refused", "aborted")
"""Meaning of the core's status codes 0 to 3."""

_ADAPTER_NAMES = {"arrived": "offered", "finished": "served", "loads_memory": "loads"}
"""The core counts events; a reader of the frame asks what was offered and served."""


class Run:
    """One simulation.

    Attributes
    ----------
    status: "ok", or "infeasible" when the server could not start.
    error: the reason why not, in the server's own terms; None if ok.
    metrics: names as `vllm bench serve --save-result` writes them (times in ms, rates per
        second), plus starvation, queue, KV and adapter-load figures; empty if infeasible.
    extrapolated: why the result goes beyond what the profile was measured on; empty if it does
        not.
    seed: the seed of the simulation.
    stopped_at_s, stop_reason: when the run was ended before its time, and why ("starving",
        "stationary"); None if it was not.
    """

    def __init__(
        self,
        outcome: Mapping[str, Any],
        *,
        server: EngineConfig,
        traffic: Workload,
        seed: int,
        extrapolated: list[str],
    ) -> None:
        self.status: str = outcome["status"]
        self.error: str | None = outcome["error"]
        self.metrics: dict[str, Any] = dict(outcome["metrics"] or {})
        self.stopped_at_s: float | None = outcome["stopped_at_s"]
        self.stop_reason: str | None = outcome["stop_reason"]
        self.extrapolated = extrapolated
        self.seed = seed
        self._outcome = outcome
        self._server = server
        self._traffic = traffic

    def __repr__(self) -> str:
        if self.status != "ok":
            return f"<Run {self.status}: {self.error}>"
        shown = ("completed", "total_throughput", "mean_ttft_ms", "mean_tpot_ms", "starved")
        parts = [f"{name}={self.metrics[name]:.6g}" for name in shown if name in self.metrics]
        return f"<Run {' '.join(parts)}>"

    @cached_property
    def requests(self) -> pl.DataFrame:
        """One row per request, in order of arrival.

        request_id, adapter (0: base model), arrival_s, prompt_tokens, output_tokens (generated),
        ttft_ms, tpot_ms, e2el_ms (null when there is none), status (finished, unfinished,
        refused, aborted), preemptions.
        """
        import polars as pl

        frame = self._frame("requests", "requests=True")
        if frame.is_empty():
            return frame
        frame = frame.with_row_index("request_id")  # the core keeps the order of arrival
        times = pl.col("ttft_ms", "tpot_ms", "e2el_ms").fill_nan(None)
        status = pl.col("status").replace_strict(
            dict(enumerate(REQUEST_STATUS)), return_dtype=pl.Enum(REQUEST_STATUS)
        )
        return frame.with_columns(times, status)

    @cached_property
    def adapters(self) -> pl.DataFrame:
        """One row per adapter: rank, rate, requests, tokens, latencies, loads.

        adapter (its number; 0 is the base model, which has a row only if it got requests), rank,
        rate_rps, offered (requests sent), refused, served (finished in time), offered_tokens,
        input_tokens and output_tokens (of the served), mean, p50, p90 and p99 of ttft_ms,
        mean_tpot_ms, loads (copies into a GPU slot), loads_disk (of these, read from disk first).
        slo_miss is the share of the judged requests that missed an objective: refused, finished
        with too late a first token or too long a time per output token, or still without a first
        token after the time for it. What is in flight and not late yet is not judged.
        Named adapters carry a column `name`.
        """
        import polars as pl

        frame = self._frame("adapters", "adapters")
        if frame.is_empty():
            return frame
        frame = frame.rename(_ADAPTER_NAMES).filter(
            (pl.col("adapter") > 0) | (pl.col("offered") > 0)
        )
        floats = [name for name, dtype in frame.schema.items() if dtype.is_float()]
        frame = frame.with_columns(pl.col(floats).fill_nan(None))
        names = self._traffic.adapter_names
        if names is None:
            return frame
        labels = pl.Series("name", ["", *names], dtype=pl.String)
        return frame.with_columns(name=labels.gather(frame["adapter"]))

    @cached_property
    def timeseries(self) -> pl.DataFrame:
        """One row per period: running, waiting, kv_usage, ... like vLLM's /metrics.

        t_s (seconds), running, waiting, kv_usage (0 to 1), adapters_active, and cumulative
        preemptions, prompt_tokens, generation_tokens.
        """
        return self._frame("timeseries", "timeseries_s=2.0")

    @cached_property
    def steps(self) -> pl.DataFrame:
        """One row per engine step: start_s, duration_ms, what was scheduled, loads, KV blocks."""
        return self._frame("steps", "steps=True")

    def to_dict(self) -> dict[str, Any]:
        """The result in the form of `vllm bench serve --save-result`, plus pytwin's own keys."""
        profile = self._server.loaded_profile
        metrics = self.metrics
        head: dict[str, Any] = {
            "backend": "pytwin",
            "model_id": profile.model,
            "tokenizer_id": profile.model,
            "num_prompts": metrics.get("arrived"),
            "request_rate": getattr(self._traffic, "total_rate_rps", None),
            "burstiness": _burstiness(self._traffic),
            "max_concurrency": self._server.max_connections,
        }
        tail: dict[str, Any] = {
            "profile": profile.name,
            "engine": self._server.resolved(has_adapters=bool(self._traffic.adapter_ranks)),
            "seed": self.seed,
            "status": self.status,
            "error": self.error,
            "stopped_at_s": self.stopped_at_s,
            "stop_reason": self.stop_reason,
            "extrapolated": self.extrapolated,
        }
        return head | {name: _finite(value) for name, value in metrics.items()} | tail

    def to_json(self, indent: int | None = 2) -> str:
        """`to_dict` as JSON; figures that do not exist (no request finished) are null."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def _frame(self, part: str, option: str) -> pl.DataFrame:
        import polars as pl

        columns: Mapping[str, NDArray[np.generic]] | None = self._outcome[part]
        if columns is None:
            if self.status != "ok":
                return pl.DataFrame()
            raise PytwinError(f"{part} (None) were not recorded: simulate(..., {option})")
        return pl.DataFrame(dict(columns))


def _burstiness(traffic: Workload) -> float | None:
    """The shape of the inter-arrival law as `vllm bench serve` has it; None where it has none."""
    arrivals = getattr(traffic, "arrivals", {})
    if arrivals.get("law") == "poisson":
        return 1.0
    value = arrivals.get("burstiness")
    return None if value is None else float(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
