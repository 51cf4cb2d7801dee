"""A plan, judged again: placement, simulations, lower bound, arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping
from os import PathLike
from typing import Any

from pytwin.config import EngineConfig
from pytwin.errors import ConfigError, DataError, PytwinError
from pytwin.fleet.placement import exact
from pytwin.fleet.placement.baselines import Parts
from pytwin.fleet.placement.bound import TOLERANCE, proven
from pytwin.fleet.placement.current import read_json
from pytwin.fleet.placement.mixed import Mixture
from pytwin.fleet.placement.offers import Offer, cheapest_sum, in_currency, worth
from pytwin.fleet.placement.partial import most_tokens
from pytwin.fleet.placement.problem import Items, Problem
from pytwin.fleet.placement.relaxation import Grid, Relaxation
from pytwin.fleet.placement.verify import Verifier
from pytwin.learn.describe import Setting
from pytwin.learn.question import Objective
from pytwin.workload import Adapters
from pytwin.workload.lengths import LengthLaw, as_length_law

_CLOSE = 1e-6


def check(
    plan: str | PathLike[str] | Mapping[str, Any],
    adapters: Adapters,
    *,
    lengths: str | tuple[int, int] | LengthLaw | None = None,
    workers: int | None = None,
) -> list[str]:
    """What is wrong with a plan: one line each; empty if nothing is.

    Every replica is simulated again and must measure what the plan states; the lower bound is
    derived again from the certificate's prices (weak duality: no program is solved for them), or
    by enumeration where the certificate says so.

    Parameters
    ----------
    plan: a document of `Plan.to_dict`, or its file.
    adapters: the fleet that was planned for.
    lengths: the law, where the plan could not state it (neither "sharegpt" nor constants).

    Raises
    ------
    DataError: no plan at all.
    """
    document = read_json(plan) if isinstance(plan, (str, PathLike)) else plan
    try:
        problem = _problem(document, adapters, lengths)
        if "offers" in document["question"]:
            return PricedChecker(document, problem, workers).complaints()
        return Checker(document, problem, workers).complaints()
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, PytwinError):
            raise
        raise DataError(f"plan is incomplete or malformed ({error!r}): make it anew") from None


def _problem(
    document: Any, adapters: Adapters, lengths: str | tuple[int, int] | LengthLaw | None
) -> Problem:
    if not isinstance(document, Mapping) or "question" not in document:
        raise DataError("plan holds no question: give the output of pytwin plan --format json")
    asked = document["question"]
    stated = asked["lengths"]
    if lengths is None:
        if isinstance(stated, str) and stated != "sharegpt":
            raise ConfigError(f"lengths ({stated}) cannot be read back: give lengths")
        lengths = stated if isinstance(stated, str) else (stated[0], stated[1])
    return Problem(
        server=EngineConfig(**asked["server"]),
        adapters=adapters,
        lengths=as_length_law(lengths),
        objective=Objective(asked["objective"], asked["ttft_slo_ms"], asked["tpot_slo_ms"]),
        copies=asked["copies"],
        seeds=tuple(asked["seeds"]),
        duration_s=asked["duration_s"],
        slots=tuple(asked["slots"]),
        max_replicas=asked["max_replicas"],
    )


class Checker:
    """One plan under scrutiny."""

    def __init__(self, document: Mapping[str, Any], problem: Problem, workers: int | None) -> None:
        self.document = document
        self.problem = problem
        self.verifier = Verifier(problem, workers)
        self.replicas: list[Mapping[str, Any]] = list(document["replicas"])
        self.certificate: Mapping[str, Any] = document["certificate"]

    def complaints(self) -> list[str]:
        """Everything that is wrong."""
        found = self._placement()
        if found:
            return found  # what is not placed rightly cannot be simulated
        parts = self._parts()
        return [*self._statement(), *self._simulations(parts), *self._bound(parts)]

    def _placement(self) -> list[str]:
        """Every adapter on `copies` distinct replicas, or unplaced; ranks and slots fit."""
        problem, found = self.problem, []
        number = {name: k for k, name in enumerate(problem.names)}
        unplaced = list(self.document["unplaced"])
        times = dict.fromkeys(problem.names, 0)
        for index, replica in enumerate(self.replicas):
            names = list(replica["adapters"])
            found += [
                f"replica {index} names adapter {name}, which is not in the fleet"
                for name in names
                if name not in number
            ]
            if len(set(names)) < len(names):
                found.append(f"replica {index} names an adapter twice")
            if not names:
                found.append(f"replica {index} holds no adapter")
            known = [name for name in names if name in number]
            for name in known:
                times[name] += 1
            setting = replica["settings"]
            widest = max((problem.adapters.ranks[number[name]] for name in known), default=0)
            if widest > setting["max_lora_rank"]:
                found.append(
                    f"replica {index}: rank {widest} exceeds max_lora_rank "
                    f"{setting['max_lora_rank']}"
                )
            if setting["max_cpu_loras"] < max(len(names), setting["max_loras"]):
                found.append(
                    f"replica {index}: max_cpu_loras ({setting['max_cpu_loras']}) is less than its "
                    f"{len(names)} adapters"
                )
        for name, count in times.items():
            wanted = 0 if name in unplaced else problem.copies
            if count != wanted:
                found.append(f"adapter {name} is on {count} replicas, must be on {wanted}")
        found += [f"unplaced {name} is not in the fleet" for name in unplaced if name not in number]
        most = problem.max_replicas
        if most is None and unplaced and self.replicas:
            found.append(f"{len(unplaced)} adapters are unplaced, though replicas are not limited")
        if most is not None and len(self.replicas) > most:
            found.append(f"{len(self.replicas)} replicas exceed max_replicas ({most})")
        return found

    def _statement(self) -> list[str]:
        """The certificate speaks of the question's seeds and horizon."""
        certificate, found = self.certificate, []
        if list(certificate["seeds"]) != list(self.problem.seeds):
            found.append(f"certificate is of seeds {certificate['seeds']}, the question of others")
        if certificate["duration_s"] != self.problem.duration_s:
            found.append(
                f"certificate is of {certificate['duration_s']} s, the question of another"
            )
        if self.document["replicas_used"] != len(self.replicas):
            found.append(
                f"replicas_used ({self.document['replicas_used']}) is not their number "
                f"({len(self.replicas)})"
            )
        return found

    def _parts(self) -> Parts:
        """The replicas' items: which copy is where follows from what was measured."""
        problem = self.problem
        number = {name: k for k, name in enumerate(problem.names)}
        seen: dict[str, int] = {}
        parts = []
        for index, replica in enumerate(self.replicas):
            stated = replica.get("copies_of", {})
            items = set()
            for name in replica["adapters"]:
                copy = stated.get(name, seen.get(name, 0)) if problem.copies > 1 else 0
                if not 0 <= copy < problem.copies:
                    raise DataError(f"replica {index} holds copy {copy} of adapter {name}")
                seen[name] = seen.get(name, 0) + 1
                items.add(copy * problem.adapters.count + number[name])
            parts.append(frozenset(items))
        if sum(map(len, parts)) != len(frozenset().union(*parts)):
            raise DataError("a copy of an adapter is on two replicas")
        return tuple(parts)

    def _simulations(self, parts: Parts) -> list[str]:
        """The twin's verdict on each replica, and its figures."""
        return self._judged(self.verifier, list(zip(parts, self.replicas, strict=True)))

    def _judged(
        self, verifier: Verifier, placed: list[tuple[Items, Mapping[str, Any]]]
    ) -> list[str]:
        """What the twin says of replicas that are all of the verifier's kind of server."""
        pairs = [
            (
                part,
                Setting(
                    replica["settings"]["max_cpu_loras"],
                    replica["settings"]["max_loras"],
                    replica["settings"]["max_lora_rank"],
                ),
            )
            for part, replica in placed
        ]
        found = []
        for (_, replica), verdict in zip(placed, verifier.judge(pairs), strict=True):
            index = self.replicas.index(replica)
            if not verdict.ok or replica["verified"] is not True:
                found.append(f"replica {index} is not verified: {verdict.reason or 'by its plan'}")
            elif not _same(list(verdict.measured), replica["measured"]):
                found.append(f"replica {index}: the twin measures other figures than stated")
        return found

    def _bound(self, parts: Parts) -> list[str]:
        """The lower bound from the prices, and the gap."""
        import numpy as np

        problem, certificate, document = self.problem, self.certificate, self.document
        stated = certificate["relaxation"]
        prices = np.array(stated["prices"], dtype=float)
        if stated["seed"] not in problem.seeds or len(prices) != problem.count:
            return ["the certificate's prices are of another seed or fleet"]
        if not np.isfinite(prices).all() or (prices < 0).any():
            return ["the certificate's prices must be numbers >= 0"]
        work = self.verifier.work[stated["seed"]]
        grid = Grid(problem, self.verifier.work[problem.seeds[0]])
        replicas = proven(Relaxation(grid, work), prices)
        found = []
        if stated["replicas"] > replicas + 1e-4:
            found.append(f"prices prove {replicas:.4f} replicas, not {stated['replicas']:.4f}")
        if document["unplaced"]:
            return found + self._load(parts, stated["prices"])
        least = max(1, math.ceil(min(replicas, stated["replicas"]) - TOLERANCE), problem.copies)
        lower = document["lower_bound"]
        if certificate["by"] == "enumeration" and lower > least:
            if problem.count > exact.MOST_ITEMS:
                found.append(f"enumeration of {problem.count} adapters is not credible")
            elif exact.fewest(self.verifier, frozenset(range(problem.count)), lower) is not None:
                found.append(f"lower_bound ({lower}) is wrong: fewer replicas hold")
        elif lower != least:
            found.append(f"lower_bound ({lower}) is not what the prices prove ({least})")
        gap = (len(parts) - lower) / len(parts) if parts else None
        found += self._gap(gap, "(replicas - bound) / replicas")
        if lower > len(parts) or (document["status"] == "optimal") != (lower == len(parts)):
            found.append(f"status ({document['status']}) does not follow from bound and replicas")
        return found

    def _gap(self, gap: float | None, rule: str) -> list[str]:
        """Whether the stated gap follows; NaN is near nothing."""
        stated = self.document["gap"]
        if gap is None or stated is None or not abs(gap - stated) <= _CLOSE:
            return [f"gap ({stated}) is not {rule} ({gap})"]
        return []

    def _load(self, parts: Parts, prices: list[float]) -> list[str]:
        """Served load and its bound, where some adapters are left out."""
        problem, certificate, document = self.problem, self.certificate, self.document
        if not parts:
            return [] if document["status"] == "infeasible" else ["no replica, yet not infeasible"]
        served = sum(problem.loads[item] for part in parts for item in sorted(part))
        found = []
        if not math.isclose(served, certificate["served_tokens_per_s"], rel_tol=_CLOSE):
            found.append(f"served_tokens_per_s is {served:.3f}")
        if certificate["by"] == "enumeration":
            best = exact.most_served(
                self.verifier, frozenset(range(problem.count)), problem.max_replicas or len(parts)
            )
            most = sum(problem.loads[item] for part in best for item in sorted(part))
        else:
            most = most_tokens(problem, prices, problem.max_replicas or len(parts))
        if not math.isclose(most, certificate["most_tokens_per_s"], rel_tol=_CLOSE):
            found.append(f"most_tokens_per_s is {most:.3f}")
        gap = max(0.0, 1.0 - served / most) if most > 0 else 0.0
        found += self._gap(gap, "1 - served / most")
        if document["status"] != "partial":
            found.append(f"status ({document['status']}) must be partial")
        return found


class PricedChecker(Checker):
    """A plan of servers that have prices."""

    def __init__(self, document: Mapping[str, Any], problem: Problem, workers: int | None) -> None:
        super().__init__(document, problem, workers)
        offers = [
            Offer(EngineConfig(**offer["server"]), offer["price"])
            for offer in document["question"]["offers"]
        ]
        self.mixture = Mixture(problem, offers, workers)
        keys = [offer.server.loaded_profile.key for offer in offers]
        self.kinds = [
            keys.index(replica["profile"]) if replica["profile"] in keys else -1
            for replica in self.replicas
        ]

    def _simulations(self, parts: Parts) -> list[str]:
        found = []
        for index, kind in enumerate(self.kinds):
            if kind < 0:
                found.append(f"replica {index} is of a profile that is not on offer")
            elif self.replicas[index]["price"] != self.mixture.offers[kind].price:
                found.append(f"replica {index} costs {self.mixture.offers[kind].price:g}")
        placed = list(zip(self.kinds, parts, self.replicas, strict=True))
        for kind, solver in enumerate(self.mixture.solvers):
            own = [(part, replica) for its, part, replica in placed if its == kind]
            found += self._judged(solver.verifier, own)
        return found

    def _bound(self, parts: Parts) -> list[str]:
        import numpy as np

        document, mixture = self.document, self.mixture
        if not parts:
            return [] if document["status"] == "infeasible" else ["no replica, yet not infeasible"]
        if -1 in self.kinds:
            return []
        cost = sum(mixture.prices[kind] for kind in self.kinds)
        lower, found = document["lower_bound"] / mixture.unit, []
        if not math.isclose(cost * mixture.unit, document["cost"], rel_tol=_CLOSE):
            found.append(f"cost ({document['cost']}) is not the sum of the prices")
        if self.certificate["by"] == "enumeration":
            if self.problem.count > exact.MOST_ITEMS:
                return [*found, f"enumeration of {self.problem.count} adapters is not credible"]
            best = mixture.solve("exact").placed
            least = mixture.cost(best) if best else cost
        else:
            stated = self.certificate["relaxation"]
            values = np.array(stated["prices"], dtype=float)
            if (
                not np.isfinite(values).all()
                or (values < 0).any()
                or len(values) != (self.problem.count)
            ):
                return [*found, "the certificate's prices must be numbers >= 0, one per item"]
            relaxations = [
                Relaxation(solver.grid, solver.verifier.work[stated["seed"]])
                for solver in mixture.solvers
            ]
            scale = max(worth(relaxations, mixture.prices, values), 1.0)
            proven = min(float(values.sum()) / scale, stated["cost"])
            if stated["cost"] > float(values.sum()) / scale + 1e-4:
                found.append(f"prices prove a cost of {proven:.4f}, not {stated['cost']:.4f}")
            least = cheapest_sum(proven, mixture.prices, self.problem.copies)
        if not math.isclose(lower, least, rel_tol=_CLOSE):
            found.append(
                f"lower_bound ({document['lower_bound']}) is not what is proven "
                f"({in_currency(least, mixture.unit):g})"
            )
        gap = max(0.0, (cost - lower) / cost)
        found += self._gap(gap, "(cost - bound) / cost")
        if lower > cost + _CLOSE or (document["status"] == "optimal") != (cost <= lower + 1e-9):
            found.append(f"status ({document['status']}) does not follow from bound and cost")
        return found


def _same(left: Any, right: Any) -> bool:
    """Equal documents, numbers to nine digits."""
    if isinstance(left, Mapping):
        return (
            isinstance(right, Mapping)
            and left.keys() == right.keys()
            and all(_same(left[key], right[key]) for key in left)
        )
    if isinstance(left, (list, tuple)):
        return (
            isinstance(right, (list, tuple))
            and len(left) == len(right)
            and all(map(_same, left, right))
        )
    if isinstance(left, float) and isinstance(right, (int, float)):
        return math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-9) or (
            math.isnan(left) and math.isnan(right)
        )
    return bool(left == right)
