"""Answer a question: the models choose whom to look at, the twin decides."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pytwin.learn.answer import Recommendation
from pytwin.learn.binding import binding_constraint, one_more_adapter
from pytwin.learn.bundle import Bundle, load_bundle
from pytwin.learn.describe import Setting
from pytwin.learn.question import Question
from pytwin.learn.search import Candidate, Certainty, Searcher, ties

_SEEDS, _DRAWS = 6, 8
_LEVEL = 0.9
_ROUNDS = 12
# Of settings that tie, so many are checked: the cheapest ones, then the one with most headroom.
_CHECKED = 2


def recommend(
    question: Question,
    *,
    models: str | Bundle | None = "best",
    verify: bool = True,
    workers: int | None = None,
) -> Recommendation:
    """The setting of highest throughput among those that hold the objective.

    Parameters
    ----------
    question: adapters, server, candidate settings, objective.
    models: shipped models ("best", "readable"), the path of others, or None for the twin alone.
    verify: let the twin simulate the promising settings, and the recommended one under the
        profile's uncertainty (seconds); else the models' word is taken (under a millisecond).
        Settings that the models cannot be asked about are simulated all the same.
    workers: threads; does not change the answer.

    Raises
    ------
    PytwinError: bad input, one line.
    """
    bundle = load_bundle(models) if isinstance(models, str) else models
    searcher = Searcher(question, bundle, workers)
    candidates, stuck, why = searcher.estimate()
    if not question.objective.trained and bundle is not None:
        why.append("objectives other than those the models were trained on")
    base = _base(question, bundle, verify, why)
    if not candidates:
        reason = searcher.describer.infeasible(stuck[0]) or "no setting can start"
        return dataclasses.replace(base, reason=reason)
    if not verify and not why:
        return _unverified(base, candidates)
    return _verified(base, searcher, candidates, stuck)


def _base(
    question: Question, bundle: Bundle | None, verify: bool, why: Sequence[str]
) -> Recommendation:
    objective: dict[str, Any] = {"name": question.objective.name}
    if question.objective.name == "slo":
        objective |= {
            "ttft_slo_ms": question.objective.ttft_ms,
            "tpot_slo_ms": question.objective.tpot_ms,
        }
    return Recommendation(
        feasible=False,
        server=question.server,
        objective=objective,
        duration_s=question.duration_s,
        models=None if bundle is None else bundle.name,
        verified=verify or bool(why),
        fallback=tuple(why),
    )


def _unverified(base: Recommendation, candidates: Sequence[Candidate]) -> Recommendation:
    equal = ties(candidates)
    if not equal:
        return dataclasses.replace(base, reason=_why_none(candidates))
    return dataclasses.replace(
        base,
        feasible=True,
        best=equal[0],
        equivalent=tuple(equal),
        runner_up=_runner_up(candidates, equal),
        risk=equal[0].failing,
    )


def _verified(
    base: Recommendation,
    searcher: Searcher,
    candidates: Sequence[Candidate],
    stuck: Sequence[Setting],
) -> Recommendation:
    """Take the best group of ties of which one is safe enough; else the group below it."""
    known: dict[Setting, Candidate] = {}
    rejected: dict[Setting, Certainty] = {}
    for _ in range(_ROUNDS):
        left = [item for item in candidates if item.setting not in rejected]
        fresh = [item for item in left if item.setting not in known]
        held = [known[item.setting] for item in left if item.setting in known]
        for item in searcher.verify(fresh, held):
            known[item.setting] = item
        equal = ties(item for item in known.values() if item.setting not in rejected)
        if not equal:
            break
        chosen, certainty = _safe(searcher, equal, rejected)
        if chosen is not None and certainty is not None:
            return _accepted(base, searcher, chosen, certainty, equal, known, stuck)
        rejected |= {item.setting: certainty for item in equal if certainty is not None}
    reason = _why_none([*known.values()], rejected)
    return dataclasses.replace(base, reason=reason, simulations=searcher.simulations)


def _safe(
    searcher: Searcher, equal: Sequence[Candidate], rejected: dict[Setting, Certainty]
) -> tuple[Candidate | None, Certainty | None]:
    """The cheapest of the ties whose risk is small enough, and what is known of it."""
    roomiest = max(equal, key=lambda item: (item.served_share, -item.ttft_ms))
    order = [*equal[:_CHECKED]]
    if roomiest not in order:
        order.append(roomiest)
    certainty = None
    for item in order:
        certainty = searcher.certainty(item.setting, seeds=_SEEDS, draws=_DRAWS, level=_LEVEL)
        if certainty.risk <= searcher.question.objective.risk:
            return item, certainty
        rejected[item.setting] = certainty
    return None, certainty


def _accepted(
    base: Recommendation,
    searcher: Searcher,
    chosen: Candidate,
    certainty: Certainty,
    equal: Sequence[Candidate],
    known: dict[Setting, Candidate],
    stuck: Sequence[Setting],
) -> Recommendation:
    prediction = certainty.prediction
    metrics = prediction.metrics
    best = dataclasses.replace(
        chosen,
        throughput=metrics["total_throughput"],
        served_share=metrics["total_throughput"] / searcher.nominal(chosen.setting),
        failing=certainty.risk,
        tpot_ms=metrics["mean_tpot_ms"],
        ttft_ms=metrics["mean_ttft_ms"],
    )
    others = [item for item in known.values() if item not in equal]
    return dataclasses.replace(
        base,
        feasible=True,
        best=best,
        equivalent=tuple(equal),
        runner_up=_runner_up(others, ()),
        binding=binding_constraint(searcher, chosen, known, stuck),
        one_more_adapter=one_more_adapter(searcher, chosen),
        intervals=dict(prediction.intervals),
        level=prediction.level,
        risk=certainty.risk,
        near_critical=tuple(prediction.near_critical),
        extrapolated=tuple(prediction.extrapolated),
        simulations=searcher.simulations,
    )


def _runner_up(candidates: Sequence[Candidate], equal: Sequence[Candidate]) -> Candidate | None:
    others = [item for item in candidates if item.feasible and item not in equal]
    return max(others, key=lambda item: item.throughput, default=None)


def _why_none(
    candidates: Sequence[Candidate], rejected: dict[Setting, Certainty] | None = None
) -> str:
    """Why no setting holds the objective: the one that comes nearest."""
    if not candidates:
        return "every setting is far beyond what the server can serve: serve fewer adapters"
    nearest = max(candidates, key=lambda item: (item.served_share, -item.ttft_ms))
    setting = nearest.setting
    text = (
        f"even {setting.served_adapters} adapters in {setting.max_loras} slots serve "
        f"{100 * nearest.served_share:.1f} % of the load at a mean TTFT of "
        f"{nearest.ttft_ms / 1e3:.2f} s"
    )
    if rejected:
        risk = min(certainty.risk for certainty in rejected.values())
        text += f" (least risk {risk:.2f})"
    return text + ": serve fewer adapters, or use another GPU"
