"""What the twin says of real runs, from their configuration and offered traffic alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytwin import _core
from pytwin.config import EngineConfig
from pytwin.errors import PytwinError
from pytwin.simulation import Twin, extrapolated
from pytwin.uncertainty import (
    INTERVAL_METRICS,
    Member,
    Plan,
    member_spec,
    members,
    outlook,
    uncertainty_of,
)
from pytwin.validate.read import RunConfig
from pytwin.workload import GeneratedWorkload, ShareGpt, Workload, adapters

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Measurement:
    """The measuring side of the real benchmark, as far as it changes what is measured.

    Attributes
    ----------
    max_connections: requests that the measured client and server could hold (20,000 to 27,700
        were seen); further ones are refused. None for no limit.
    metrics_poll_s: pause in seconds between the client's polls of /metrics; None for no polls.
    early_eos: probability that a request ends before its requested length; None for the profile's.
    pool_lengths: reweight the length law to the mean lengths of the run's pool.
    """

    max_connections: int | None = 25_000
    metrics_poll_s: float | None = 2.0
    early_eos: float | None = None
    pool_lengths: bool = True


BENCHMARK = Measurement()
"""The benchmark behind the published runs."""


@dataclass
class RunPrediction:
    """The twin's word on one real run.

    Attributes
    ----------
    status: "ok" or "infeasible" (the memory model), "failed" (see error), "skipped" (see error).
    metrics: means over the seeds, of those who have a value; empty if nothing was simulated.
    intervals: metric -> (low, high), where intervals were asked for.
    floor: metric -> percent by which the mean of the other seeds misses a seed, on average: what
        any prediction of one run must err. Empty with one seed.
    starved: probability of starvation, where intervals were asked for.
    near_critical: why it is near-critical; None where that was not looked at.
    extrapolated: why it goes beyond what the profile was measured on.
    """

    status: str
    error: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    floor: dict[str, float] = field(default_factory=dict)
    starved: float | None = None
    near_critical: list[str] | None = None
    extrapolated: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Case:
    """A real run as the twin simulates it."""

    server: EngineConfig
    traffic: GeneratedWorkload


def predict(
    configs: Sequence[RunConfig],
    *,
    simulated: Sequence[bool],
    condition: bool,
    seeds: int = 8,
    draws: int = 0,
    level: float | None = None,
    measurement: Measurement = BENCHMARK,
    workers: int = 1,
    progress: Progress | None = None,
) -> list[RunPrediction]:
    """Predict every run; one that the memory model calls infeasible is simulated all the same.

    Parameters
    ----------
    configs: the runs.
    simulated: which of them to simulate; of the others only the memory is judged.
    condition: scale the rates to the client's sent count and fix the total, where it is known.
    seeds: simulations per run, seeds 0 to seeds - 1, averaged.
    draws: simulations per run with the profile's uncertain factors moved, for the intervals.
    level: share of real runs that an interval is to hold; None for no intervals.
    measurement: the measuring side.
    workers: threads.
    progress: called with (simulations done, simulations in all).
    """
    plan = Plan(seeds=seeds, draws=0, nudges=0)
    if level is not None:
        plan = Plan(seeds=seeds, draws=draws, nudges=min(seeds, Plan.nudges))
    twin = Twin()
    predictions: list[RunPrediction] = []
    specs: list[str] = []
    teams: list[tuple[int, Case, list[Member]]] = []
    for k, (config, wanted) in enumerate(zip(configs, simulated, strict=True)):
        case, prediction = _prepare(twin, config, condition, measurement, wanted)
        predictions.append(prediction)
        if case is None:
            continue
        prediction.extrapolated = extrapolated(case.server, case.traffic)
        if not wanted:
            continue
        base = twin.spec(case.server, case.traffic, ignore_memory=True)
        team = members(case.server.loaded_profile, plan)
        specs += [member_spec(twin, base, member) for member in team]
        teams.append((k, case, team))
    total = len(specs)
    report = None if progress is None else (lambda done: progress(done, total))
    columns = _core.simulate_many(twin.library, specs, workers, report)
    first = 0
    for k, case, team in teams:
        _fold(predictions[k], case, team, columns, first, level)
        first += len(team)
    return predictions


def _prepare(
    twin: Twin, config: RunConfig, condition: bool, measurement: Measurement, wanted: bool
) -> tuple[Case | None, RunPrediction]:
    if config.profile is None:
        reason = f"model ({config.model}) has no shipped profile"
        return None, RunPrediction("skipped", reason)
    try:
        case = case_of(config, condition, measurement, wanted=wanted)
        memory = _core.memory(twin.library, twin.spec_json(case.server, case.traffic))
    except PytwinError as error:
        return None, RunPrediction("failed", str(error))
    except ValueError as error:
        return None, RunPrediction("failed", " ".join(str(error).split()))
    return case, RunPrediction(memory["status"], memory["error"])


def case_of(
    config: RunConfig,
    condition: bool,
    measurement: Measurement = BENCHMARK,
    *,
    wanted: bool = True,
    profile: str | None = None,
) -> Case:
    """The server and the traffic of a real run; on another profile if one is given.

    Raises
    ------
    PytwinError: the run has no rates or no duration, or its settings are not valid.
    """
    assert config.profile is not None  # noqa: S101 - told by the caller
    server = EngineConfig(
        profile=profile or config.profile,
        max_connections=measurement.max_connections,
        metrics_poll_s=measurement.metrics_poll_s,
        **config.settings,
    )
    if not wanted:  # only its memory is asked for, which no traffic changes
        return Case(server, Workload.poisson(rate_rps=1.0))
    if not config.rates_rps:
        raise PytwinError(f"run {config.run_idx} has no rates in adapters.parquet")
    if config.duration_s is None:
        raise PytwinError(f"run {config.run_idx} has no total_time_s")
    # The server shuffled its adapters: which rate met which rank is not known, so any pairing does.
    served = adapters(len(config.rates_rps), config.rates_rps, config.ranks or (16,))
    known = measurement.pool_lengths and config.mean_lengths is not None
    lengths = ShareGpt(*config.mean_lengths) if known and config.mean_lengths else ShareGpt()
    traffic = Workload.poisson(
        adapters=served,
        lengths=lengths,
        duration_s=config.duration_s,
        early_eos=measurement.early_eos,
    )
    if condition and config.arrivals is not None:
        traffic = traffic.conditioned(config.arrivals)
    return Case(server, traffic)


def _fold(
    prediction: RunPrediction,
    case: Case,
    team: Sequence[Member],
    columns: Mapping[str, list[Any]],
    first: int,
    level: float | None,
) -> None:
    """Write what a run's simulations say into its prediction; one failed member fails the run."""
    window = slice(first, first + len(team))
    for status, error in zip(columns["status"][window], columns["error"][window], strict=True):
        if status != "ok":
            prediction.status, prediction.error = "failed", error
            return
    names = [name for name, _ in _core.metric_columns()]
    rows = [{name: columns[name][row] for name in names} for row in range(first, first + len(team))]
    found = outlook(team, rows, uncertainty_of(case.server.loaded_profile))
    prediction.metrics = found.estimates
    seeds = [row for member, row in zip(team, rows, strict=True) if member.kind == "seed"]
    prediction.floor = {name: floor for name in names if (floor := _floor(seeds, name)) is not None}
    if level is not None:
        prediction.intervals = {
            name: found.laws[name].interval(level)
            for name in INTERVAL_METRICS
            if name in found.laws
        }
        prediction.starved = found.starved
        prediction.near_critical = list(found.sensitivity.reasons) if found.sensitivity else []
    prediction.extrapolated = extrapolated(case.server, case.traffic, prediction.metrics)


def _floor(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Mean of |mean of the other seeds - seed| / seed, in percent.

    Scaled from the mean of n - 1 seeds to that of n, which predictions are: both miss a fresh seed
    by their own noise and by the seed's.
    """
    values = [float(row[name]) for row in rows if row[name] is not None]
    kept = [value for value in values if math.isfinite(value) and value > 0]
    if len(kept) < 2:
        return None
    count = len(kept)
    total, others = math.fsum(kept), count - 1
    missed = statistics.fmean(abs((total - value) / others - value) / value for value in kept)
    return 100 * missed * math.sqrt((1 + 1 / count) / (1 + 1 / others))
