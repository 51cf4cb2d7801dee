"""What the twin says of real runs, from their configuration and offered traffic alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytwin import _core
from pytwin.config import EngineConfig
from pytwin.errors import PytwinError
from pytwin.simulation import Twin, extrapolated
from pytwin.validate.read import RunConfig
from pytwin.workload import GeneratedWorkload, ShareGpt, Workload, adapters

MAX_CONNECTIONS = 25_000
"""Connections that the measured client and server could hold (20,000 to 27,700 were seen)."""

METRICS_POLL_S = 2.0
"""Pause between the measured client's polls of /metrics (ts_period in the traces' README)."""

Progress = Callable[[int, int], None]


@dataclass
class Prediction:
    """The twin's word on one real run.

    Attributes
    ----------
    status: "ok" or "infeasible" (the memory model), "failed" (see error), "skipped" (see error).
    metrics: means over the seeds, of those who have a value; empty if nothing was simulated.
    extrapolated: why it goes beyond what the profile was measured on.
    """

    status: str
    error: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    extrapolated: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Case:
    server: EngineConfig
    traffic: GeneratedWorkload


def predict(
    configs: Sequence[RunConfig],
    *,
    simulated: Sequence[bool],
    condition: bool,
    seeds: int = 8,
    max_connections: int | None = MAX_CONNECTIONS,
    workers: int = 1,
    progress: Progress | None = None,
) -> list[Prediction]:
    """Predict every run; one that the memory model calls infeasible is simulated all the same.

    Parameters
    ----------
    configs: the runs.
    simulated: which of them to simulate; of the others only the memory is judged.
    condition: scale the rates to the client's sent count and fix the total, where it is known.
    seeds: simulations per run, seeds 0 to seeds - 1, averaged.
    max_connections: requests that the front end holds; None for no limit.
    workers: threads.
    progress: called with (simulations done, simulations in all).
    """
    twin = Twin()
    predictions = []
    specs: list[str] = []
    owners: list[int] = []
    cases: list[_Case | None] = []
    for k, (config, wanted) in enumerate(zip(configs, simulated, strict=True)):
        case, prediction = _prepare(twin, config, condition, max_connections, wanted)
        predictions.append(prediction)
        cases.append(case)
        if case is None or not wanted:
            continue
        base = twin.spec(case.server, case.traffic, ignore_memory=True)
        for seed in range(seeds):
            specs.append(json.dumps(base | {"seed": seed}, allow_nan=False))
            owners.append(k)
    total = len(specs)
    report = None if progress is None else (lambda done: progress(done, total))
    columns = _core.simulate_many(twin.library, specs, workers, report)
    _fold(columns, owners, predictions)
    for case, prediction in zip(cases, predictions, strict=True):
        if case is not None:
            prediction.extrapolated = extrapolated(
                case.server, case.traffic, prediction.metrics or None
            )
    return predictions


def _prepare(
    twin: Twin, config: RunConfig, condition: bool, max_connections: int | None, wanted: bool
) -> tuple[_Case | None, Prediction]:
    if config.profile is None:
        reason = f"model ({config.model}) has no shipped profile"
        return None, Prediction("skipped", reason)
    try:
        case = _case(config, condition, max_connections, wanted)
        memory = _core.memory(twin.library, twin.spec_json(case.server, case.traffic))
    except PytwinError as error:
        return None, Prediction("failed", str(error))
    except ValueError as error:
        return None, Prediction("failed", " ".join(str(error).split()))
    return case, Prediction(memory["status"], memory["error"])


def _case(config: RunConfig, condition: bool, max_connections: int | None, wanted: bool) -> _Case:
    assert config.profile is not None  # noqa: S101 - told by the caller
    server = EngineConfig(
        profile=config.profile,
        max_connections=max_connections,
        metrics_poll_s=METRICS_POLL_S,
        **config.settings,
    )
    if not wanted:  # only its memory is asked for, which no traffic changes
        return _Case(server, Workload.poisson(rate_rps=1.0))
    if not config.rates_rps:
        raise PytwinError(f"run {config.run_idx} has no rates in adapters.parquet")
    if config.duration_s is None:
        raise PytwinError(f"run {config.run_idx} has no total_time_s")
    # The server shuffled its adapters: which rate met which rank is not known, so any pairing does.
    served = adapters(len(config.rates_rps), config.rates_rps, config.ranks or (16,))
    lengths = ShareGpt() if config.mean_lengths is None else ShareGpt(*config.mean_lengths)
    traffic = Workload.poisson(adapters=served, lengths=lengths, duration_s=config.duration_s)
    if condition and config.arrivals is not None:
        traffic = traffic.conditioned(config.arrivals)
    return _Case(server, traffic)


def _fold(
    columns: dict[str, list[Any]], owners: Sequence[int], predictions: Sequence[Prediction]
) -> None:
    """Mean over the seeds of each run, in place; one failed seed fails the run."""
    sums: dict[int, dict[str, list[float]]] = {}
    names = [name for name in columns if name not in ("status", "error")]
    for row, owner in enumerate(owners):
        if columns["status"][row] != "ok":
            predictions[owner].status = "failed"
            predictions[owner].error = columns["error"][row]
            continue
        values = sums.setdefault(owner, {name: [] for name in names})
        for name in names:
            value = columns[name][row]
            if value is not None and math.isfinite(value):
                values[name].append(float(value))
    for owner, values in sums.items():
        if predictions[owner].status == "failed":
            continue
        predictions[owner].metrics = {
            name: math.fsum(kept) / len(kept) for name, kept in values.items() if kept
        }
