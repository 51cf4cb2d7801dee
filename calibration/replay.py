"""Simulate the fitted runs with a profile under construction, and read its steps.

The batch of a real run is not logged. The twin's own steps stand in for it: they give every feature
of the law, averaged over the tokens that the run generated, queues and preemption included. A run
whose simulated number of running requests is off says nothing, since its batches were others: near
the critical load a few percent of step time double the batch. Such runs are left out of this round;
the next round's law brings most of them back.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from calibration.models import KNOWN_BAD
from pytwin import _core
from pytwin.calibrate.observations import LOADS
from pytwin.calibrate.solve import Problem
from pytwin.calibrate.terms import Component, design
from pytwin.config import EngineConfig
from pytwin.simulation import Twin
from pytwin.validate import RunConfig, read_runs
from pytwin.workload import ShareGpt, Workload, adapters

FloatArray = npt.NDArray[np.float64]

# Connections that client and server could hold: a constant of the benchmark, not of a run.
MAX_CONNECTIONS = 25_000
# Seconds between the benchmark's polls of /metrics.
METRICS_POLL_S = 2.0
# Steps that stand for a run: an even sample of them.
_STEPS_PER_RUN = 6000
# How far the twin's mean number of running requests may be off (relative).
_STATE_TOLERANCE = 0.08
_QUEUED = 5.0


@dataclass(frozen=True)
class Replayed:
    """One run: what the twin made of it, and what was measured.

    design: mean of each component over generated tokens. step_ms, load_ms: means over generated
    tokens of the twin's step time and of the loads in it (0 where the design holds the loads).
    """

    config: RunConfig
    real: dict[str, Any]
    metrics: dict[str, float]
    design: FloatArray
    step_ms: float
    load_ms: float


def cases(
    traces: Path, family: str, model: str, queued_share: float = 1.0
) -> list[tuple[RunConfig, dict[str, Any]]]:
    """Finished runs of a family and model, with their measured outcomes.

    Overloaded runs are many, alike and slow to simulate: `queued_share` of them is taken, evenly.
    """
    read = read_runs(traces, families=[family])
    means = {
        row["run_idx"]: row
        for row in pl.read_parquet(traces / "runs.parquet")
        .select("run_idx", "ts_running_mean", "ts_waiting_mean", "ts_waiting_max")
        .iter_rows(named=True)
    }
    finished = [
        (config, {**outcome, **means[config.run_idx]})
        for config, outcome in zip(read.configs, read.outcomes.iter_rows(named=True), strict=True)
        if outcome["status"] == "ok" and config.model == model and config.run_id not in KNOWN_BAD
    ]
    kept, queued = [], 0
    for config, real in finished:
        if real["ts_waiting_mean"] > _QUEUED:
            queued += 1
            if int(queued * queued_share) == int((queued - 1) * queued_share):
                continue
        kept.append((config, real))
    return kept


def server_and_traffic(config: RunConfig, profile: Path) -> tuple[EngineConfig, Any]:
    """The run's server on this profile, and its traffic given the arrival count."""
    server = EngineConfig(profile=str(profile), max_connections=MAX_CONNECTIONS, **config.settings)
    lengths = ShareGpt() if config.mean_lengths is None else ShareGpt(*config.mean_lengths)
    traffic = Workload.poisson(
        adapters=adapters(len(config.rates_rps), config.rates_rps, config.ranks),
        lengths=lengths,
        duration_s=config.duration_s or 3600.0,
    )
    return server, traffic if config.arrivals is None else traffic.conditioned(config.arrivals)


def replay(
    runs: Sequence[tuple[RunConfig, dict[str, Any]]],
    profile: Path,
    components: Sequence[Component],
    seed: int,
) -> list[Replayed]:
    """Simulate each run once and average the components' design over its generated tokens."""
    twin = Twin()
    factor = load_factor(json.loads(profile.read_text(encoding="utf-8")))
    loads_fitted = any(entry.name == LOADS for entry in components)
    replayed = []
    for config, real in runs:
        server, traffic = server_and_traffic(config, profile)
        spec = twin.spec(server, traffic, ignore_memory=True)
        spec = {
            **spec,
            "seed": seed,
            "engine": {**spec["engine"], "metrics_poll_s": METRICS_POLL_S},
            "collect": {"requests": False, "timeseries_s": None, "steps": True},
        }
        result = _core.simulate(twin.library, json.dumps(spec, allow_nan=False))
        steps = result["steps"]
        stride = max(1, len(steps["start_s"]) // _STEPS_PER_RUN)
        sample = {name: np.asarray(column)[::stride] for name, column in steps.items()}
        features = _features(sample, config)
        features[LOADS] = sample["load_ms"] / factor
        generated = features["decode_seqs"]
        weight = generated / generated.sum()
        replayed.append(
            Replayed(
                config,
                real,
                result["metrics"],
                weight @ design(components, features),
                float(weight @ sample["duration_ms"]),
                0.0 if loads_fitted else float(weight @ sample["load_ms"]),
            )
        )
    return replayed


def load_factor(document: dict[str, Any]) -> float:
    """How much longer than its logged host time a load takes under traffic, in this profile."""
    return float(document["load_time"].get("traffic_factor", 1.0))


def _features(steps: dict[str, npt.NDArray[Any]], config: RunConfig) -> dict[str, FloatArray]:
    features = {
        name: steps[name].astype(np.float64)
        for name in (
            "prefill_tokens",
            "decode_seqs",
            "context_tokens",
            "adapters",
            "running",
            "waiting",
        )
    }
    ones = np.ones(len(steps["start_s"]))
    features["seqs"] = features["running"]  # the budget never cuts a running request here
    features["lora_seqs"] = features["seqs"]
    features["prefill_seqs"] = np.maximum(features["seqs"] - features["decode_seqs"], 0.0)
    features["tokens"] = features["prefill_tokens"] + features["decode_seqs"]
    slots = float(config.settings["max_loras"])
    features["lora"] = ones * (slots > 0)
    features["max_loras"] = ones * slots
    features["max_lora_rank"] = ones * float(config.settings["max_lora_rank"])
    features["served_adapters"] = ones * len(config.rates_rps)
    features["max_cpu_loras"] = ones * float(config.settings.get("max_cpu_loras", slots))
    return features


def observations(replayed: Sequence[Replayed]) -> Problem:
    """The runs whose state the twin met, as observations of the step-time law (ms)."""
    kept = [run for run in replayed if _met(run)]
    target = [
        # The measured mean is per request, the design's mean per token: the twin knows both.
        run.real["mean_tpot_ms"] * run.step_ms / run.metrics["mean_tpot_ms"] - run.load_ms
        for run in kept
    ]
    family = np.array(
        ["saturated" if run.real["ts_waiting_mean"] > _QUEUED else "traffic" for run in kept]
    )
    return Problem(
        matrix=np.stack([run.design for run in kept]),
        target=np.array(target),
        weight=np.ones(len(kept)),
        group=np.array([workload(run.config) for run in kept]),
        family=family,
    )


def _met(run: Replayed) -> bool:
    real = run.real["ts_running_mean"]
    return bool(real) and abs(run.metrics["mean_running"] / real - 1) < _STATE_TOLERANCE


def workload(config: RunConfig) -> str:
    """Rates and ranks of a run: what is held out together."""
    return f"{config.family} {sorted(set(config.rates_rps))} {config.ranks}"
