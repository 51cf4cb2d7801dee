"""Recordings of one kind of server -> a profile, with its error on what it has not seen."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pytwin.calibrate.recordings import frontend, law, library, loads, memory
from pytwin.calibrate.recordings.columns import RecordedRun, read_run
from pytwin.calibrate.recordings.judge import judge, predicted_ms, spread, stretches
from pytwin.calibrate.recordings.kinds import check_one_kind, common_settings, device_name
from pytwin.calibrate.recordings.split import Split, split
from pytwin.calibrate.terms import Component
from pytwin.config import engine_defaults
from pytwin.errors import DataError
from pytwin.record.events import Gpu
from pytwin.record.read import Torn, read_recording, recordings

FloatArray = npt.NDArray[np.float64]

# Fewer steps than this to fit on, and a law of several terms is a guess.
MIN_FITTED_STEPS = 200
_GPU_NAMES = re.compile(r"nvidia|tesla|instinct|radeon|gaudi|xpu|tpu", re.IGNORECASE)
_LOAD_TERMS = {"load disk": "disk", "load memory": "memory"}


@dataclass(frozen=True)
class FitResult:
    """A profile and what is to be said about it.

    document: the profile's JSON. remarks: warnings, one line each. left_out: term -> why the
    recordings cannot tell it, or that it did not lower the held-out error.
    """

    document: dict[str, Any]
    remarks: tuple[str, ...]
    left_out: dict[str, str]


def directories(folder: str | Path) -> list[Path]:
    """The recordings in a directory: itself, or those below it; DataError where there is none."""
    if (Path(folder) / "runs.parquet").is_file():
        raise DataError(
            f"{folder} holds measured tables (runs.parquet), no recording: refit the shipped "
            "profiles from such tables with python -m calibration.refit --traces DIR"
        )
    return recordings(folder)


def read_runs(paths: Sequence[str | Path], *, torn: Torn = "error") -> list[RecordedRun]:
    """Every recording in these directories (each one recording, or a folder of them).

    Raises
    ------
    DataError: a recording that is missing, broken, torn, empty or of an engine version that
        pytwin does not model; or a directory of measured tables.
    """
    found = [path for folder in paths for path in directories(folder)]
    return [read_run(read_recording(path, torn=torn)) for path in found]


def fit(
    runs: Sequence[RecordedRun],
    *,
    model: str | None = None,
    gpu: str | None = None,
    dtype: str | None = None,
    name: str | None = None,
    hold_out: Sequence[str] = (),
    command: str = "pytwin.calibrate.recordings.fit",
) -> FitResult:
    """A profile from recordings of one kind of server.

    Parameters
    ----------
    runs: from `read_runs`.
    model, gpu, dtype: as the profile is to state them, where the recordings do not.
    hold_out: names of runs to hold out whole; else two tenths of every run are held out.

    Raises
    ------
    DataError: recordings of several kinds, too few steps, or nothing left to fit on.
    """
    if not runs:
        raise DataError("recordings (none) must be at least one: name a directory")
    check_one_kind(runs)
    _check_hold_out(runs, hold_out)
    parts = split(runs, hold_out)
    features = _together(runs)
    timed = ~np.isnan(features["duration_ms"])
    _check_size(runs, features, timed & parts.fitted)
    first = runs[0]
    whole = _law(runs, features, parts)
    terms, extra, left_out, tail = whole.terms, whole.extra, whole.left_out, whole.tail
    settings, differ = common_settings(runs)
    usual = engine_defaults(first.engine_version, 0.0)["gpu_memory_utilization"]
    # Stated in the profile in any case: the memory section holds for this share.
    settings.setdefault("gpu_memory_utilization", usual)
    kept = memory.fit(runs, float(settings["gpu_memory_utilization"]))
    load = loads.fit(runs, parts, extra)
    front = frontend.fit(runs, parts, features)
    header = first.recording.header
    remarks = [line for run in runs for line in run.warnings]
    if differ:
        remarks.append(f"settings that differ between runs have no default: {', '.join(differ)}")
    remarks += [*kept.remarks, *load.remarks, *front.remarks]
    ranges, constants = _ranges(runs, features)
    judged = judge(terms, extra, features, parts)
    model = model or str(header.model.get("name") or "unknown-model").rsplit("/", 1)[-1]
    gpu = gpu or device_name(first) or "unknown-device"
    document = {
        "schema": 1,
        "name": name or f"{model}@{gpu}",
        "model": model,
        "gpu": gpu,
        "dtype": dtype or str(header.model.get("dtype") or "unknown").removeprefix("torch."),
        "engine_version": first.engine_version,
        "provenance": {
            "source": f"recordings of vLLM {first.vllm} by pytwin.record: "
            + ", ".join(run.name for run in runs),
            "date": datetime.now(UTC).date().isoformat(),
            "command": command,
            "fitted_on": [
                f"{run.name}: {int((timed & parts.fitted & (parts.run == i)).sum())} steps"
                for i, run in enumerate(runs)
                if run.name not in hold_out
            ],
            "held_out": list(parts.names),
            "constants": constants,
            "not_identified": left_out,
            "remarks": remarks,
        },
        "server": settings,
        "lengths": {},
        "early_eos": 0.0,
        "step_time": {"unit": "us", "terms": terms},
        "load_time": load.document,
        "frontend": front.document,
        "host": {
            "unit": "us",
            "async_schedule": whole.host,
        },
        "memory": kept.document,
        "ranges": ranges,
        "errors": {
            "step_time": judged,
            "load_time": load.errors,
            "frontend": front.errors,
            "tail_factor": round(tail.factor, 4),
            "accident_share_percent": round(100 * tail.accident_share, 2),
        },
        "residual_spread": spread(terms, extra, features, parts),
        "uncertainty": _uncertainty(runs, features, parts, terms, extra),
    }
    return FitResult(document, tuple(remarks), left_out)


def _check_hold_out(runs: Sequence[RecordedRun], hold_out: Sequence[str]) -> None:
    names = [run.name for run in runs]
    for name in hold_out:
        if name not in names:
            raise DataError(f"hold_out ({name}) must be one of the recordings: {', '.join(names)}")
    if set(names) <= set(hold_out):
        raise DataError(f"hold_out ({', '.join(hold_out)}) leaves nothing to fit on: hold out less")


def _together(runs: Sequence[RecordedRun]) -> dict[str, FloatArray]:
    each = [run.features for run in runs]
    shared = set.intersection(*(set(columns) for columns in each))
    return {name: np.concatenate([columns[name] for columns in each]) for name in sorted(shared)}


def _check_size(
    runs: Sequence[RecordedRun], features: dict[str, FloatArray], rows: npt.NDArray[np.bool_]
) -> None:
    where = ", ".join(run.name for run in runs)
    count = int(rows.sum())
    if count < MIN_FITTED_STEPS:
        raise DataError(
            f"{where}: {count} timed steps to fit on, at least {MIN_FITTED_STEPS} are needed "
            "beside what is held out: record longer"
        )
    for what, column in (("decode", "decode_seqs"), ("prefill", "prefill_seqs")):
        seen = int((features[column][rows] > 0).sum())
        if seen < library.MIN_STEPS:
            raise DataError(
                f"{where}: {seen} steps with {what}, {library.MIN_STEPS} are needed: its cost "
                "cannot be told; record traffic of many requests"
            )


@dataclass(frozen=True)
class _Law:
    """A step's cost: terms of a profile, what loads add (ms, by source), what was left out.

    host: terms of an iteration's host time under asynchronous scheduling.
    """

    terms: list[dict[str, Any]]
    extra: dict[str, float]
    host: list[dict[str, Any]]
    left_out: dict[str, str]
    tail: law.Tail


def _law(runs: Sequence[RecordedRun], features: dict[str, FloatArray], parts: Split) -> _Law:
    """The law of the rows that are not held out, its mean that of recurring disturbances."""
    step, host, left_out = _step_law(runs, features, parts)
    asynchronous = runs[0].asynchronous
    extra = {
        _LOAD_TERMS[entry.name]: float(value)
        for entry, value in zip(step.components, step.coefficients, strict=True)
        if entry.name in _LOAD_TERMS
    }
    terms = _merged(step, None if asynchronous else host)
    measured = features["duration_ms"]
    rows = parts.fitted & ~np.isnan(measured) & (measured > 0)
    predicted = predicted_ms(terms, extra, features)
    tail = law.tail(predicted[rows], measured[rows], parts.block[rows] + 100 * parts.run[rows])
    for term in terms:
        term["coefficient"] = float(f"{term['coefficient'] * tail.factor:.6g}")
    ahead = host.terms() if host is not None and asynchronous else []
    return _Law(terms, extra, ahead, left_out, tail)


def _step_law(
    runs: Sequence[RecordedRun], features: dict[str, FloatArray], parts: Split
) -> tuple[law.Fitted, law.Fitted | None, dict[str, str]]:
    """The execution's law and the host's (of an iteration ahead, under async scheduling)."""
    asynchronous = runs[0].asynchronous
    target = features["duration_ms"] if asynchronous else features["execute_ms"]
    wanted = library.step_candidates(_graph_tokens(runs[0]))
    if _on_gpu(runs[0]):
        wanted += library.extra_load_candidates()
    step, left_out = _one_law(wanted, features, target, parts)
    if asynchronous:
        host_target, host_wanted = features["host_ms"], library.async_candidates()
    else:
        # Sync: what a step lasts beyond its execution.
        host_target = features["duration_ms"] - features["execute_ms"]
        host_wanted = library.host_candidates()
    if int((~np.isnan(host_target) & parts.fitted).sum()) < library.MIN_STEPS:
        left_out["host"] = "the host was never waited for: its time cannot be told"
        return step, None, left_out
    host, host_left = _one_law(host_wanted, features, host_target, parts)
    return step, host, left_out | host_left


def _one_law(
    wanted: list[Component],
    features: dict[str, FloatArray],
    target: FloatArray,
    parts: Split,
) -> tuple[law.Fitted, dict[str, str]]:
    rows = parts.fitted & ~np.isnan(target) & (target > 0)
    candidates, left_out = library.identified(wanted, features, rows)
    part = {name: values[rows] for name, values in features.items()}
    fitted = law.fit(law.data_of(candidates, part, target[rows], parts.block[rows]))
    for name in fitted.dropped:
        left_out.setdefault(name, "does not lower the error on held-out steps")
    return fitted, left_out


def _graph_tokens(run: RecordedRun) -> int | None:
    """The largest CUDA graph; None where none is used."""
    server, model = run.recording.header.server, run.recording.header.model
    if model.get("enforce_eager") or str(server.get("cudagraph_mode")) == "NONE":
        return None
    if not _on_gpu(run):
        return None
    return int(server.get("max_cudagraph_capture_size") or library.GRAPH_TOKENS)


def _on_gpu(run: RecordedRun) -> bool:
    """Whether steps ran on a device of its own, where copies go on after the call ends."""
    worker = run.recording.worker
    return bool(run.recording.of(Gpu)) or (
        worker is not None and _GPU_NAMES.search(worker.device) is not None
    )


def _merged(step: law.Fitted, host: law.Fitted | None) -> list[dict[str, Any]]:
    """Terms of a step without adapter loads; equal products of both laws as one."""
    parts: list[dict[str, object]] = []
    for fitted in (step, host):
        if fitted is None:
            continue
        keep = [i for i, entry in enumerate(fitted.components) if entry.name not in _LOAD_TERMS]
        chosen = law.Fitted(
            tuple(fitted.components[i] for i in keep), fitted.coefficients[keep], ()
        )
        parts += chosen.terms()
    merged: dict[str, dict[str, Any]] = {}
    for term in parts:
        known = merged.setdefault(
            repr(term["factors"]), {"coefficient": 0.0, "factors": term["factors"], "why": ""}
        )
        total = known["coefficient"] + float(str(term["coefficient"]))
        known["coefficient"] = float(f"{total:.6g}")
        known["why"] = "; ".join(filter(None, (known["why"], str(term["why"]))))
    return list(merged.values())


def _ranges(
    runs: Sequence[RecordedRun], features: dict[str, FloatArray]
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """What the recordings cover, and the settings that they hold at one value."""
    lora = any(run.config.get("max_loras") for run in runs)
    spans = {
        name: [float(features[name].min()), float(features[name].max())]
        for name in ("seqs", "waiting", "adapters", "served_adapters")
    }
    # Asynchronous: a request whose last token is on its way still runs, but is in no batch.
    spans["seqs"] = [1.0, max(spans["seqs"][1], float(features["running"].max()))]
    spans["waiting"][0] = spans["adapters"][0] = 0.0
    if lora:
        for name in ("max_loras", "max_lora_rank", "max_cpu_loras"):
            on = features[name][features["lora"] > 0]
            spans[name] = [float(on.min()), float(on.max())]
        ranks = [rank for run in runs for rank in run.ranks.values()]
        if ranks:
            spans["rank"] = [float(min(ranks)), float(max(ranks))]
    prompts = [request.prompt_tokens for run in runs for request in run.requests]
    spans["prompt_tokens"] = [float(min(prompts)), float(max(prompts))]
    for name in ("max_num_batched_tokens", "block_size"):
        values = [float(run.config[name]) for run in runs if run.config.get(name)]
        if values:
            spans[name] = [min(values), max(values)]
    settings = ("max_loras", "max_lora_rank", "max_cpu_loras", "max_num_batched_tokens",
                "block_size")  # fmt: skip
    fixed = {n: spans[n][0] for n in settings if n in spans and spans[n][0] == spans[n][1]}
    return spans, fixed


def _uncertainty(
    runs: Sequence[RecordedRun],
    features: dict[str, FloatArray],
    parts: Split,
    terms: list[dict[str, Any]],
    extra: dict[str, float],
) -> dict[str, Any]:
    """How far the law may be off in a run of its own: from run to run, or stretch to stretch."""
    everything = np.ones(len(parts.run), dtype=bool)
    if len(runs) > 1:
        ratios = []
        for i in range(len(runs)):
            others = parts.run != i
            if int((others & ~np.isnan(features["duration_ms"])).sum()) < MIN_FITTED_STEPS:
                continue
            split_i = Split(parts.run, parts.block, ~others, ())
            other = _law(runs, features, split_i)
            ratios.append(stretches(other.terms, other.extra, features, parts.run, ~others)[0])
        method = f"total step time of each of {len(runs)} runs by a law of the others"
        sd = float(np.sqrt(np.mean(np.square(ratios)))) if ratios else 0.0
    else:
        rows = parts.held_out if parts.held_out.any() else everything
        ratios = list(stretches(terms, extra, features, parts.block, rows))
        method = "total step time of held-out stretches of one run: other runs may differ more"
        sd = float(np.sqrt(np.mean(np.square(ratios))))
    return {
        # A run that is slower in its steps is slower in all that it does.
        "factors": {name: round(sd, 4) for name in ("step_time", "load_time", "frontend")},
        "method": method,
        "log_ratios": [round(float(ratio), 4) for ratio in ratios],
    }
