"""`pt.plan`: adapters to replicas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pytwin.config import EngineConfig
from pytwin.errors import ConfigError
from pytwin.fleet.placement.answer import Plan, Replica, Status
from pytwin.fleet.placement.baselines import Parts
from pytwin.fleet.placement.current import (
    Current,
    as_parts,
    in_todays_order,
    moves_of,
    read_current,
)
from pytwin.fleet.placement.mixed import MixedOutcome, Mixture
from pytwin.fleet.placement.offers import Offer, in_currency, read_offers
from pytwin.fleet.placement.partial import most_tokens
from pytwin.fleet.placement.problem import DEFAULT_SEEDS, SLOTS, Items, Problem
from pytwin.fleet.placement.solve import METHODS, Method, Outcome, Solver
from pytwin.fleet.placement.verify import IN_FLIGHT, WAITING, Verdict
from pytwin.learn.question import Objective
from pytwin.workload import Adapters
from pytwin.workload.checks import whole
from pytwin.workload.lengths import ConstantLengths, LengthLaw, ShareGpt, as_length_law

RULE = (
    "under every seed: starts; throughput above 0.9 of the realised tokens; no group of equal "
    f"adapters misses the objectives; at the end at most max({WAITING}, arrivals/s x TTFT) "
    f"requests wait, and max({IN_FLIGHT} mean requests, what arrives in TTFT + output x TPOT "
    "seconds) of the tokens are unserved; the mean step is at most TPOT"
)


Offers = Mapping[str, float] | Sequence[Offer]
_NOTHING = "no placement was found that the twin verifies: relax the objectives"


def plan(
    server: EngineConfig | str | Offers,
    adapters: Adapters,
    *,
    max_replicas: int | None = None,
    method: Method = "auto",
    copies: int = 1,
    current: Current | None = None,
    max_moves: int | None = None,
    lengths: str | tuple[int, int] | LengthLaw = "sharegpt",
    objective: Objective | None = None,
    seeds: int | Iterable[int] = DEFAULT_SEEDS,
    duration_s: float = 3600.0,
    slots: Iterable[int] = SLOTS,
    workers: int | None = None,
) -> Plan:
    """Adapters on the fewest replicas on which, in the twin, none starves.

    Parameters
    ----------
    server: profile (name or path), or an `EngineConfig` whose max_loras, max_cpu_loras and
        max_lora_rank are replaced replica by replica. With several kinds, {profile: price} or
        a list of `Offer`: then the cost is least, not the number of replicas.
    adapters: rates (requests/s), ranks, perhaps lengths of their own.
    max_replicas: as many at most; if too few, the most load is served and the rest `unplaced`.
    method: "auto" (all of them), a baseline ("random", "first-fit-decreasing", "greedy",
        "rendezvous"), "local-search", "milp", "exact" (up to 8 adapters).
    copies: replicas that each adapter is on, its rate split evenly.
    current: today's plan (document, file, or lists of names): kept where that costs no replica.
    max_moves: as many adapters may change their replica against it; more replicas then, if need be.
    lengths: of adapters without their own: "sharegpt", (prompt, output) tokens, or a law.
    objective: mean TTFT and TPOT that every group of equal adapters must meet.
    seeds: so many from 0, or their list; each replica holds under every one.
    duration_s: simulated seconds.
    slots: values of max_loras to try, beside the number of adapters on a replica.
    workers: threads; does not change the plan.

    Raises
    ------
    PytwinError: bad input, one line.
    """
    offers: tuple[Offer, ...] = ()
    if isinstance(server, str):
        server = EngineConfig(profile=server)
    elif not isinstance(server, EngineConfig):
        offers = read_offers(server)
        server = offers[0].server
    problem = Problem(
        server=server,
        adapters=adapters,
        lengths=as_length_law(lengths),
        objective=objective or Objective(),
        copies=copies,
        seeds=seed_list(seeds),
        duration_s=duration_s,
        slots=tuple(slots),
        max_replicas=max_replicas,
    )
    if method not in METHODS:
        raise ConfigError(f"method ({method}) must be one of {', '.join(METHODS)}")
    if workers is not None:
        whole("workers", workers, least=1)
    if offers:
        if max_replicas is not None or current is not None:
            given = "current" if max_replicas is None else f"max_replicas ({max_replicas})"
            raise ConfigError(f"{given} goes with one profile, not with prices: leave one out")
        mixture = Mixture(problem, offers, workers)
        return _priced(mixture, mixture.solve(method), method)
    today: Parts = () if current is None else as_parts(problem, read_current(current))
    if max_moves is not None:
        whole("max_moves", max_moves, least=0)
        if not today or max_replicas is not None:
            raise ConfigError(
                f"max_moves ({max_moves}) goes with current, and without max_replicas: moves are "
                "from today's plan to one of all adapters"
            )
    solver = Solver(problem, current=today, max_moves=max_moves, workers=workers)
    return _answer(solver, solver.solve(method), method)


def seed_list(seeds: int | Iterable[int]) -> tuple[int, ...]:
    """Seeds 0, 1, ... of a number, or the given ones."""
    if isinstance(seeds, int):
        return tuple(range(whole("seeds", seeds, least=1, most=1000)))
    return tuple(whole("seed", seed, least=0) for seed in seeds)


def _answer(solver: Solver, outcome: Outcome, method: Method) -> Plan:
    problem = solver.problem
    parts, moved, moves = outcome.parts, None, None
    if solver.current and parts:
        parts, moved = in_todays_order(parts, solver.current, problem)
        moves = moves_of(moved, solver.current, problem)
    replicas = _replicas(solver, parts, moved)
    unplaced = tuple(
        name
        for adapter, name in enumerate(problem.names)
        if not any(problem.adapter_of(k) == adapter for part in parts for k in part)
    )
    certificate, lower, gap = _certificate(solver, outcome, parts, unplaced)
    status: Status = "infeasible"
    if parts and unplaced:
        status = "partial"
    elif parts:
        status = "optimal" if lower is not None and len(parts) <= lower else "verified"
    return Plan(
        status=status,
        method=method,
        reason=_reason(solver, outcome, parts, unplaced),
        replicas=replicas,
        lower_bound=lower,
        gap=gap,
        unplaced=unplaced,
        moves=moves,
        certificate=certificate,
        question=question(problem)
        | ({} if solver.max_moves is None else {"max_moves": solver.max_moves}),
        simulations=solver.verifier.simulations,
    )


def _replicas(
    solver: Solver, parts: Parts, moved: list[Items] | None = None, price: float | None = None
) -> tuple[Replica, ...]:
    problem = solver.problem

    def names(items: Items) -> tuple[str, ...]:
        return tuple(problem.names[k] for k in sorted(problem.adapter_of(item) for item in items))

    def copies_of(items: Items) -> dict[str, int] | None:
        if problem.copies == 1:
            return None
        count = problem.adapters.count
        return {problem.names[k % count]: k // count for k in sorted(items)}

    return tuple(
        Replica(
            server=problem.server,
            setting=verdict.setting,
            adapters=names(part),
            verified=verdict.ok,
            measured=verdict.measured,
            rate_rps=sum(problem.rates_rps[item] for item in sorted(part)),
            moved=None if moved is None else names(moved[number]),
            copies_of=copies_of(part),
            price=price,
            extrapolated=solver.verifier.extrapolated(part, verdict),
        )
        for number, (part, verdict) in enumerate(
            zip(parts, solver.verifier.best(parts), strict=True)
        )
    )


def _priced(mixture: Mixture, outcome: MixedOutcome, method: Method) -> Plan:
    """The answer where servers have prices."""
    problem, placed = mixture.solvers[0].problem, outcome.placed
    replicas = tuple(
        replica
        for kind, (solver, offer) in enumerate(zip(mixture.solvers, mixture.offers, strict=True))
        for replica in _replicas(
            solver, tuple(part for its, part in placed if its == kind), price=offer.price
        )
    )
    asked = question(problem) | {
        "offers": [
            {"server": _settings_of(offer.server), "price": offer.price} for offer in mixture.offers
        ]
    }
    if not placed:
        return Plan(
            status="infeasible",
            method=method,
            reason=_misfits(problem, outcome.misfits) or _NOTHING,
            unplaced=problem.names,
            certificate=_stated(problem),
            question=asked,
            simulations=mixture.simulations,
        )
    bound, cost = mixture.bound, mixture.cost(placed)
    by, lower = ("enumeration", cost) if outcome.enumerated else ("relaxation", bound.least)
    relaxed = {
        "cost": bound.cost,
        "seed": bound.seed,
        "prices": list(bound.prices),
        "unit": mixture.unit,
    }
    return Plan(
        status="optimal" if cost <= lower + 1e-9 else "verified",
        method=method,
        replicas=replicas,
        cost=in_currency(cost, mixture.unit),
        lower_bound=in_currency(lower, mixture.unit),
        gap=max(0.0, (cost - lower) / cost),
        certificate=_stated(problem) | {"relaxation": relaxed, "by": by},
        question=asked,
        simulations=mixture.simulations,
    )


def _stated(problem: Problem) -> dict[str, Any]:
    """What every certificate says of the verification."""
    return {"rule": RULE, "seeds": list(problem.seeds), "duration_s": problem.duration_s}


def _certificate(
    solver: Solver, outcome: Outcome, parts: Parts, unplaced: tuple[str, ...]
) -> tuple[dict[str, Any], int | None, float | None]:
    """The certificate, the lower bound on replicas, and the gap."""
    problem, bound = solver.problem, solver.bound
    certificate = _stated(problem) | {
        "relaxation": {
            "replicas": bound.replicas,
            "seed": bound.seed,
            "prices": list(bound.prices),
            "copies": problem.copies,
        },
    }
    if unplaced:
        if not parts:
            return certificate | {"by": None}, None, None
        served = sum(problem.loads[item] for part in parts for item in sorted(part))
        most = most_tokens(problem, bound.prices, problem.max_replicas or len(parts))
        if outcome.enumerated:
            most = served
        gap = max(0.0, 1.0 - served / most) if most > 0 else 0.0
        certificate |= {
            "by": "enumeration" if outcome.enumerated else "relaxation",
            "served_tokens_per_s": served,
            "most_tokens_per_s": most,
        }
        return certificate, None, gap
    lower, by = solver.least, "relaxation"
    if outcome.enumerated and len(parts) > lower:
        lower, by = len(parts), "enumeration"
    return certificate | {"by": by}, lower, (len(parts) - lower) / len(parts)


def _reason(
    solver: Solver, outcome: Outcome, parts: Parts, unplaced: tuple[str, ...]
) -> str | None:
    problem = solver.problem
    if outcome.misfits:
        return _misfits(problem, outcome.misfits)
    if not parts and solver.max_moves is not None:
        return f"none was found with at most {solver.max_moves} moves: raise max_moves"
    if not parts:
        return _NOTHING
    if unplaced:
        return (
            f"max_replicas ({problem.max_replicas}) holds {problem.adapters.count - len(unplaced)} "
            f"of {problem.adapters.count} adapters: raise it to place the rest"
        )
    return None


def _misfits(problem: Problem, misfits: dict[int, Verdict]) -> str | None:
    """Who fits nowhere; None if everybody fits somewhere."""
    if not misfits:
        return None
    item = min(misfits)
    more = len({problem.adapter_of(k) for k in misfits}) - 1
    others = f" (and {more} more)" if more else ""
    return (
        f"adapter {problem.names[problem.adapter_of(item)]}{others} fits on no replica, even "
        f"alone with {problem.rates_rps[item]:g} requests/s: {misfits[item].reason}"
    )


def _settings_of(server: EngineConfig) -> dict[str, Any]:
    """A server's settings as JSON takes them: those that were given."""
    return server.model_dump(exclude_unset=True, exclude_none=True)


def question(problem: Problem) -> dict[str, Any]:
    """What was asked, as JSON takes it: enough to ask again."""
    law = problem.lengths
    lengths: Any = repr(law)
    if law == ShareGpt():
        lengths = "sharegpt"
    elif isinstance(law, ConstantLengths):
        lengths = [law.prompt_tokens, law.output_tokens]
    return {
        "server": _settings_of(problem.server),
        "lengths": lengths,
        "objective": problem.objective.name,
        "ttft_slo_ms": problem.objective.ttft_ms,
        "tpot_slo_ms": problem.objective.tpot_ms,
        "copies": problem.copies,
        "max_replicas": problem.max_replicas,
        "seeds": list(problem.seeds),
        "duration_s": problem.duration_s,
        "slots": list(problem.slots),
    }
