"""The whole comparison as one JSON document, and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytwin.calibrate.check.arrivals import Comparison, compare
from pytwin.calibrate.check.bench import read_bench
from pytwin.calibrate.check.recorded import measured_of, server_of
from pytwin.calibrate.check.steps import load_errors, step_errors
from pytwin.calibrate.recordings.columns import RecordedRun
from pytwin.calibrate.recordings.fit import read_runs
from pytwin.calibrate.recordings.kinds import device_name
from pytwin.catalog import load_profile
from pytwin.config import EngineConfig
from pytwin.errors import ConfigError, DataError
from pytwin.record.read import Torn


def check(
    profile: str,
    target: str | Path,
    *,
    server: Mapping[str, Any] | None = None,
    adapters: int = 0,
    ranks: Sequence[int] = (),
    torn: Torn = "error",
) -> dict[str, Any]:
    """Compare a profile with a recording's directory, or with a bench result's JSON.

    Parameters
    ----------
    profile: a shipped name or the path of a profile JSON.
    target: a directory with one recording, or the JSON of `vllm bench serve --save-result`
        (or --save-detailed).
    server: settings of the server, under EngineConfig's names. Of a bench result everything that
        differs from the profile's own; of a recording what is to be other than recorded.
    adapters, ranks: for a bench result, how many adapters were served and their ranks (cycled).

    Returns
    -------
    dict: profile, target, kind, steps and loads (recordings), end_to_end (rows of metric,
        measured, simulated, error_percent), requests (paired errors), kv_tokens, extrapolated
        (reasons), remarks.

    Raises
    ------
    PytwinError: an unreadable target or profile, or a server that the profile says cannot start.
    """
    load_profile(profile)
    if adapters < 0:
        raise ConfigError(f"adapters ({adapters}) must be >= 0")
    path = Path(target)
    if path.is_dir():
        if adapters or ranks:
            raise ConfigError(
                f"adapters ({adapters}) and ranks belong to a bench result: a recording has its own"
            )
        return _recorded(profile, path, dict(server or {}), torn)
    if not path.exists():
        raise DataError(f"{path} does not exist: give a recording's directory or a bench JSON")
    return _benched(profile, path, dict(server or {}), adapters, ranks)


def _recorded(profile: str, path: Path, changed: dict[str, Any], torn: Torn) -> dict[str, Any]:
    runs = read_runs([path], torn=torn)
    if len(runs) > 1:
        names = ", ".join(run.name for run in runs)
        raise DataError(f"{path} holds {len(runs)} recordings ({names}): check one at a time")
    run = runs[0]
    data = load_profile(profile).data
    server = server_of(run, profile)
    if changed:
        server = server.replace(**changed)
    found = compare(server, measured_of(run), own_kv=True)
    found = replace(found, remarks=(*_another_server(data, run), *found.remarks))
    return {
        "profile": load_profile(profile).name,
        "target": str(path),
        "kind": "recording",
        "fitted_on": _fitted_on(data, run),
        "steps": step_errors(data, run),
        "loads": load_errors(data, run),
        **_end_to_end(found),
    }


def _benched(
    profile: str, path: Path, settings: dict[str, Any], adapters: int, ranks: Sequence[int]
) -> dict[str, Any]:
    bench = read_bench(path, adapters, ranks)
    if adapters and not settings.get("max_loras"):
        raise ConfigError(
            f"max_loras is missing for {adapters} adapters: say how many slots the server had"
        )
    server = EngineConfig(profile=profile, **settings)
    found = compare(server, bench.measured, traces=bench.traces, stated=bench.figures)
    return {
        "profile": load_profile(profile).name,
        "target": str(path),
        "kind": "bench",
        **_end_to_end(found),
    }


def _end_to_end(found: Comparison) -> dict[str, Any]:
    return {
        "end_to_end": found.rows,
        "requests": found.requests,
        "extrapolated": found.extrapolated,
        "remarks": list(found.remarks),
    }


def _another_server(data: Mapping[str, Any], run: RecordedRun) -> list[str]:
    """Where the recording names another model or device than the profile."""
    model = str(run.recording.header.model.get("name") or "").rsplit("/", 1)[-1]
    device = device_name(run)
    remarks = []
    if model and model != data["model"]:
        remarks.append(f"the recording is of model {model}, the profile of {data['model']}")
    if device and device != data.get("gpu"):
        remarks.append(f"the recording is of {device}, the profile of {data.get('gpu')}")
    return remarks


def _fitted_on(data: Mapping[str, Any], run: RecordedRun) -> str:
    """Whether the profile has seen this run, by its name."""
    provenance = data.get("provenance", {})
    whole, part = f"{run.name} (whole", f"{run.name}:"
    held = any(str(line).startswith(whole) for line in provenance.get("held_out", []))
    seen = any(str(line).startswith(part) for line in provenance.get("fitted_on", []))
    return "held out whole" if held else "fitted on (but for its held-out part)" if seen else "no"


def lines_of(report: Mapping[str, Any]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """The report as titled tables."""
    tables: list[tuple[str, list[Mapping[str, Any]]]] = []
    rows: list[Mapping[str, Any]]
    head = f"{report['profile']} against {report['target']}"
    if report.get("fitted_on"):
        head += f" (fitted on it: {report['fitted_on']})"
    tables.append((head, list(report["end_to_end"])))
    if report["requests"]:
        rows = [{"per request": name, **row} for name, row in report["requests"].items()]
        tables.append(("Request by request", rows))
    if report.get("steps"):
        tables.append(("Step time (without adapter loads)", list(report["steps"])))
    if report.get("loads"):
        tables.append(("Adapter loads", list(report["loads"])))
    return tables
