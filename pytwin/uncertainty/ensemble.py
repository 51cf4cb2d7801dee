"""The simulations behind one prediction, and the laws that they give."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytwin.catalog import Profile
from pytwin.simulation import Twin
from pytwin.uncertainty.critical import NUDGE, Sensitivity, sensitivity_of
from pytwin.uncertainty.draws import scale_draws
from pytwin.uncertainty.factors import QUEUED_WAITING, Uncertainty, perturbed, uncertainty_of
from pytwin.uncertainty.intervals import Law, law_of

STARVED_RATIO = 0.9


@dataclass(frozen=True)
class Plan:
    """How many simulations a prediction is made of.

    Attributes
    ----------
    seeds: of the profile as it is; their mean is the estimate.
    draws: of perturbed profiles, over the same seeds in turn. 0: seeds alone.
    nudges: seeds simulated with steps 3 % longer and shorter, to see what is near-critical.
    first_seed: the seeds are first_seed, first_seed + 1, ...
    """

    seeds: int = 8
    draws: int = 16
    nudges: int = 2
    first_seed: int = 0


@dataclass(frozen=True)
class Member:
    """One simulation: kind is seed, draw, longer or shorter."""

    kind: str
    seed: int
    profile: Profile


def members(profile: Profile, plan: Plan) -> list[Member]:
    """The simulations of a plan, in a fixed order."""
    seeds = [plan.first_seed + k for k in range(plan.seeds)]
    found = [Member("seed", seed, profile) for seed in seeds]
    scales = scale_draws(uncertainty_of(profile).factors, plan.draws)
    found += [
        Member("draw", seeds[k % len(seeds)], perturbed(profile, scale))
        for k, scale in enumerate(scales)
    ]
    for seed in seeds[: plan.nudges]:
        found.append(Member("longer", seed, perturbed(profile, {"step_time": 1 + NUDGE})))
        found.append(Member("shorter", seed, perturbed(profile, {"step_time": 1 / (1 + NUDGE)})))
    return found


def member_spec(twin: Twin, base: Mapping[str, Any], member: Member) -> str:
    """The core's document for a member, from that of the profile as it is."""
    twin.hold_profile(member.profile)
    return json.dumps({**base, "profile": member.profile.key, "seed": member.seed}, allow_nan=False)


@dataclass(frozen=True)
class Outlook:
    """What an ensemble says.

    Attributes
    ----------
    estimates: mean over the seeds of every metric, of those seeds that have a value.
    laws: predictive law of every positive metric.
    starved: probability that at most 0.9 of the offered tokens are served; None without traffic.
    sensitivity: what 3 % longer steps do, and why the configuration is near-critical if it is.
    """

    estimates: dict[str, float] = field(default_factory=dict)
    laws: dict[str, Law] = field(default_factory=dict)
    starved: float | None = None
    sensitivity: Sensitivity | None = None


def outlook(
    found: Sequence[Member], metrics: Sequence[Mapping[str, Any]], uncertainty: Uncertainty
) -> Outlook:
    """Estimates and laws from the members' metrics, one mapping per member."""
    of_kind = {
        kind: [row for member, row in zip(found, metrics, strict=True) if member.kind == kind]
        for kind in ("seed", "draw", "longer", "shorter")
    }
    rows = of_kind["seed"]
    sample = of_kind["draw"] or rows
    names = list(rows[0])
    queued = share_queued(sample)
    laws = {}
    for name in names:
        values = [_number(row[name]) for row in sample]
        law = law_of(values, unexplained(uncertainty, name, queued))
        if law is not None:
            laws[name] = law
    served = laws.get("served_ratio")
    shift = None
    if of_kind["longer"]:
        seeds = rows[: len(of_kind["longer"])]
        shift = sensitivity_of(seeds, of_kind["longer"], of_kind["shorter"], rows)
    return Outlook(
        estimates=means(rows),
        laws=laws,
        starved=None if served is None else served.below(STARVED_RATIO),
        sensitivity=shift,
    )


def means(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean of each metric over the rows that have a finite value."""
    found = {}
    for name in rows[0]:
        values = [value for row in rows if math.isfinite(value := _number(row[name]))]
        if values:
            found[name] = math.fsum(values) / len(values)
    return found


def share_queued(rows: Sequence[Mapping[str, Any]]) -> float:
    """Share of the simulations in which requests queue."""
    return sum(_number(row["mean_waiting"]) > QUEUED_WAITING for row in rows) / len(rows)


def unexplained(uncertainty: Uncertainty, metric: str, queued: float) -> float:
    """Unexplained log spread of a metric, between the regimes by the share of queued draws.

    Metrics other than the four that profiles state take the one of their kind: all throughputs
    that of total_throughput, medians and percentiles that of the mean.
    """
    kind = next((source for mark, source in _KINDS if mark in metric), None)
    if kind is None or metric.startswith("offered"):
        return 0.0
    calm = uncertainty.residual_of(kind, "calm")
    return math.sqrt((1 - queued) * calm**2 + queued * uncertainty.residual_of(kind, "queued") ** 2)


_KINDS = (
    ("throughput", "total_throughput"),
    ("served_ratio", "total_throughput"),
    ("completed", "total_throughput"),
    ("ttft", "mean_ttft_ms"),
    ("tpot", "mean_tpot_ms"),
    ("itl", "mean_itl_ms"),
    ("e2el", "mean_tpot_ms"),
)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
