"""Learn how far the shipped profiles may be off: their section `uncertainty`.

    python -m calibration.uncertainty --traces DIR [--held-out DIR2] [--out pytwin/profiles]

DIR holds runs.parquet and adapters.parquet; only runs of the family ml_test are used. With
`--held-out`, a run is predicted by the profile that was fitted without its workload:
DIR2/PROFILE/WORKLOAD.json. Without, residuals are those of runs that the profile has seen, and are
enlarged by the ratio of held-out to fitted errors that the profile states.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration import replay
from calibration.models import MODELS
from calibration.spreads import factor_spreads, rest_spread
from pytwin import _core
from pytwin.catalog import Profile, load_profile
from pytwin.simulation import Twin
from pytwin.uncertainty import (
    FACTORS,
    INTERVAL_METRICS,
    REGIMES,
    Member,
    member_spec,
    perturbed,
    rows_of,
    usable_cores,
)
from pytwin.uncertainty.draws import scale_draws
from pytwin.uncertainty.factors import QUEUED_WAITING
from pytwin.validate import RunConfig, case_of

FloatArray = npt.NDArray[np.float64]

LEVEL = 0.9
_DRAWS = 16
_SEEDS = 8  # what the draws of a prediction are spread over
_BASE_SEEDS = 2
_RESPONSES = 2  # every second run tells how metrics respond to the factors
# By how much each factor is moved to see the response.
_NUDGES = {
    "step_time": 0.03, "batch": 0.05, "slots": 0.05, "adapters": 0.05, "load_time": 0.2,
    "frontend": 0.2, "polls": 0.2, "kv_memory": 0.03,
}  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """One run: its configuration, what was measured, and the profile that predicts it."""

    config: RunConfig
    real: Mapping[str, Any]
    profile: Profile

    @property
    def workload(self) -> str:
        return self.config.run_id.split("/")[-2]

    @property
    def queued(self) -> bool:
        return bool(self.real["ts_waiting_mean"] > QUEUED_WAITING)


def learn(
    traces: Path, profile: Profile, held_out: Path | None, queued_share: float
) -> dict[str, Any]:
    """The section `uncertainty` of a profile."""
    runs = [
        Seen(config, real, _unseen(profile, config, held_out))
        for config, real in replay.cases(traces, "ml_test", profile.model, queued_share)
        if config.excluded is None
    ]
    factors = _from_runs(runs[::_RESPONSES])
    drawn = _simulate(runs, lambda run: _draws(run.profile, factors))
    enlarged = _enlargement(profile) if held_out is None else {}
    rest = {
        metric: {
            regime: _rest(runs, drawn, metric, regime, enlarged.get((regime, metric), 1.0))
            for regime in REGIMES
        }
        for metric in INTERVAL_METRICS
    }
    return {
        "method": "spreads of scale factors by maximum likelihood on residuals of runs under "
        "traffic; what they leave, per metric and regime, so that 90 % intervals hold 90 % of the "
        "runs of workloads left out",
        "command": "python -m calibration.uncertainty --traces DIR"
        + (" --held-out DIR2" if held_out else ""),
        "date": dt.date.today().isoformat(),
        "fitted_on": ["ml_test"],
        "held_out": "profiles fitted without the run's workload"
        if held_out
        else "widths by workload; residuals enlarged by the held-out over the fitted step error",
        "factors": {name: float(f"{factors[name]:.3g}") for name in FACTORS},
        "residual": {
            metric: {regime: float(f"{found.spread:.3g}") for regime, found in of_metric.items()}
            for metric, of_metric in rest.items()
        },
        "coverage": {
            metric: {
                regime: {
                    "runs": found.runs,
                    "aimed_percent": round(100 * found.aimed, 1),
                    "left_out_workloads_percent": round(100 * found.covered, 1),
                }
                for regime, found in of_metric.items()
            }
            for metric, of_metric in rest.items()
        },
    }


def _unseen(profile: Profile, config: RunConfig, held_out: Path | None) -> Profile:
    if held_out is None:
        return profile
    return load_profile(str(held_out / profile.name / f"{config.run_id.split('/')[-2]}.json"))


def _from_runs(runs: Sequence[Seen]) -> dict[str, float]:
    """Spreads of the factors that runs under traffic respond to."""

    def team(run: Seen) -> list[Member]:
        found = [Member("seed", seed, run.profile) for seed in range(_BASE_SEEDS)]
        for name, nudge in _NUDGES.items():
            found.append(Member(name, 0, perturbed(run.profile, {name: math.exp(nudge)})))
        return found

    residuals, gains, spreads, queued = [], [], [], []
    for run, rows in zip(runs, _simulate(runs, team), strict=True):
        seeds = np.array([[row[name] for name in INTERVAL_METRICS] for row in rows[:_BASE_SEEDS]])
        moved = np.log([[row[name] for name in INTERVAL_METRICS] for row in rows[_BASE_SEEDS:]])
        measured = np.array([run.real[name] for name in INTERVAL_METRICS])
        residuals.append(np.log(measured / seeds.mean(axis=0)))
        spreads.append(np.log(seeds).std(axis=0, ddof=1))
        steps = np.array(list(_NUDGES.values()))
        gains.append(((moved - np.log(seeds[0])) / steps[:, None]).T)
        queued.append(int(run.queued))
    found = factor_spreads(
        np.array(residuals), np.array(gains), np.array(spreads), np.array(queued)
    )
    return dict(zip(_NUDGES, found.tolist(), strict=True))


def _draws(profile: Profile, factors: Mapping[str, float]) -> list[Member]:
    return [
        Member("draw", k % _SEEDS, perturbed(profile, scales))
        for k, scales in enumerate(scale_draws(factors, _DRAWS))
    ]


def _rest(
    runs: Sequence[Seen],
    drawn: Sequence[Sequence[Mapping[str, Any]]],
    metric: str,
    regime: str,
    enlarged: float,
) -> Any:
    values, real, workloads = [], [], []
    for run, rows in zip(runs, drawn, strict=True):
        if run.queued != (regime == "queued"):
            continue
        simulated = [float(row[metric]) for row in rows]
        centre = float(np.log(simulated).mean())
        values.append(simulated)
        real.append(math.exp(centre + enlarged * (math.log(run.real[metric]) - centre)))
        workloads.append(run.workload)
    return rest_spread(values, np.array(real), workloads, LEVEL)


def _enlargement(profile: Profile) -> dict[tuple[str, str], float]:
    """How much larger errors are on what a law was not fitted on, by regime and metric."""
    errors = profile.data["errors"]["step_time"]

    def ratio(source: str) -> float:
        found = errors.get(source, {})
        fitted, unseen = found.get("mape_percent"), found.get("held_out_mape_percent")
        return max(1.0, unseen / fitted) if fitted and unseen else 1.0

    calm, queued = ratio("traffic"), ratio("saturated")
    return {
        **{("calm", name): calm for name in ("mean_tpot_ms", "mean_itl_ms")},
        **{("queued", name): queued for name in INTERVAL_METRICS},
    }


def _simulate(runs: Sequence[Seen], team_of: Any) -> list[list[dict[str, Any]]]:
    """Metrics of each run's members; the traffic is given the arrival count where it is known."""
    twin = Twin()
    specs, sizes = [], []
    for run in runs:
        case = case_of(run.config, condition=True)
        base = twin.spec(case.server, case.traffic, ignore_memory=True)
        team = team_of(run)
        specs += [member_spec(twin, base, member) for member in team]
        sizes.append(len(team))
    rows = rows_of(_core.simulate_many(twin.library, specs, usable_cores(), None))
    ends = np.cumsum(sizes)
    return [rows[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Learn how far the shipped profiles may be off.")
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, help="profiles fitted without each workload")
    parser.add_argument("--out", type=Path, default=Path("pytwin/profiles"))
    parser.add_argument("--model", help="only this one, for example llama-3.1-8b-instruct")
    parser.add_argument("--queued-share", type=float, default=0.25, help="overloaded runs used")
    arguments = parser.parse_args()
    for model in MODELS:
        if arguments.model not in (None, model.name):
            continue
        profile = load_profile(model.profile)
        section = learn(arguments.traces, profile, arguments.held_out, arguments.queued_share)
        file = arguments.out / f"{model.profile}.json"
        document = json.loads(file.read_text(encoding="utf-8"))
        document["uncertainty"] = section
        file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        print(file)
        print(json.dumps(section, indent=1), flush=True)


if __name__ == "__main__":
    main()
