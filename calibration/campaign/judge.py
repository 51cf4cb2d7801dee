"""What came of a campaign: decisions replayed, a profile fitted, and what it is worth."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytwin.conformance.replay import recorded_run, replay
from pytwin.record.read import read_recording

from .measure import DONE, FAILED, Bench
from .plan import Run

Json = dict[str, Any]


def done(bench: Bench, plan: Sequence[Run], *, recorded: bool = True) -> list[Run]:
    """The runs that were carried out."""
    return [r for r in plan if r.recorded == recorded and (bench.folder(r) / DONE).is_file()]


def judge(bench: Bench, plan: Sequence[Run]) -> Json:
    """Replays, fits and checks; everything is written below the campaign's directory."""
    runs = done(bench, plan)
    profile = bench.out / "profile.json"
    checks = _fit_and_check(bench.out / "runs", runs, profile)
    # The same without the client's times: first and last tokens as the API server saw them.
    server_side = bench.out / "server-side"
    for run in runs:
        _link(bench.folder(run), server_side / run.name)
    server_checks = _fit_and_check(server_side, runs, bench.out / "profile-server-side.json")
    report = {
        "runs": [_run_row(bench, run) for run in plan],
        "replay": [replay(recorded_run(bench.folder(run))).row() for run in runs],
        "recorder": [row for run in runs if (row := _recorder_row(bench, run)) is not None],
        "on_off": _on_off(bench, plan),
        "profile": json.loads(profile.read_text()).get("errors"),
        "checks": checks,
        "server_checks": server_checks,
    }
    (bench.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def _fit_and_check(folder: Path, runs: Sequence[Run], profile: Path) -> dict[str, Json]:
    """Fits on what is not held out; the comparison with each run that is, by its name."""
    fitted = [str(folder / run.name) for run in runs if not run.held_out]
    _pytwin("calibrate", "fit", *fitted, "-o", str(profile))
    return {
        run.name: json.loads(
            _pytwin("calibrate", "check", str(profile), str(folder / run.name), "--format", "json")
        )
        for run in runs
        if run.held_out
    }


def _link(source: Path, target: Path) -> None:
    """A recording without its client.json."""
    target.mkdir(parents=True, exist_ok=True)
    for file in source.glob("*.jsonl"):
        link = target / file.name
        link.unlink(missing_ok=True)
        link.symlink_to(file)


def _pytwin(*words: str) -> str:
    command = [sys.executable, "-m", "pytwin", *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    print(ended.stderr, end="", file=sys.stderr)
    if ended.returncode:
        raise SystemExit(f"campaign: pytwin {words[0]} {words[1]} ended with {ended.returncode}")
    return ended.stdout


def _run_row(bench: Bench, run: Run) -> Json:
    folder = bench.folder(run)
    row: Json = {"run": run.name, "tells": run.tells}
    if (folder / DONE).is_file():
        told = json.loads((folder / DONE).read_text())
        return row | {name: told[name] for name in ("requests", "ok", "steps", "load_s")}
    why = "not run"
    if (folder / FAILED).is_file():
        why = (folder / FAILED).read_text().strip().splitlines()[-1]
    return row | {"failed": why}


def _recorder_row(bench: Bench, run: Run) -> Json | None:
    """The recorder's own time, by its own clock, against the time that steps took."""
    recording = read_recording(bench.folder(run))
    if recording.cost_s is None or not recording.closed:
        return None
    steps = recording.steps.drop_nulls("update_end_s")
    busy = float((steps["update_end_s"] - steps["schedule_start_s"]).sum())
    size = sum(path.stat().st_size for path in bench.folder(run).glob("*.jsonl"))
    return {
        "run": run.name,
        "us_per_step": 1e6 * recording.cost_s / steps.height,
        "percent_of_step_time": 100.0 * recording.cost_s / busy,
        "bytes_per_step": size / steps.height,
    }


def _on_off(bench: Bench, plan: Sequence[Run]) -> list[Json]:
    """Client-side figures of the same load with and without the recorder."""
    names = {run.name for run in done(bench, plan)}
    rows = []
    for off in done(bench, plan, recorded=False):
        if (on := off.name.removesuffix("-off")) in names:
            for recorder, name in (("on", on), ("off", off.name)):
                client = json.loads((bench.out / "runs" / name / "client.json").read_text())
                rows.append({"run": on, "recorder": recorder, **_client_figures(client)})
    return rows


def _client_figures(client: Json) -> Json:
    told = [request for request in client["requests"] if request["status"] == "ok"]
    gaps = [
        b - a for r in told for a, b in zip(r["token_times"], r["token_times"][1:], strict=False)
    ]
    tpots = [
        (r["token_times"][-1] - r["token_times"][0]) / (r["n_out"] - 1)
        for r in told
        if r["n_out"] > 1
    ]
    return {
        "requests": len(told),
        "tokens_per_s": sum(r["n_out"] for r in told) / client["duration_s"],
        "mean_ttft_ms": 1e3 * statistics.mean(r["token_times"][0] - r["sent"] for r in told),
        "mean_tpot_ms": 1e3 * statistics.mean(tpots),
        "median_itl_ms": 1e3 * statistics.median(gaps),
    }
