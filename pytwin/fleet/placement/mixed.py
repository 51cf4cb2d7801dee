"""Placement on several kinds of server: the cheapest plan found, of at most two of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from pytwin.fleet.placement import exact
from pytwin.fleet.placement.offers import CostBound, Offer, cost_bound
from pytwin.fleet.placement.problem import Items, Problem
from pytwin.fleet.placement.solve import Method, Solver
from pytwin.fleet.placement.verify import Verdict

_FILLED = (1.0, 0.95, 0.9)  # of a replica's price that a split reckons with
_ATTEMPTS = 24
_ROOMIER, _MOST_EXTRA = 6, 4
_FEW = 6
"""Adapters whose partitions are all tried without being asked to."""
_TINY = 1e-9

Placed = tuple[tuple[int, Items], ...]
"""(number of the offer, items), one per replica."""

Split = tuple[tuple[int, Items, int], ...]
"""(number of the offer, items, replicas) of each kind that shares the adapters."""


@dataclass(frozen=True)
class MixedOutcome:
    """What was found.

    Attributes
    ----------
    placed: kinds and items of the replicas; empty where nothing was found.
    misfits: items that hold on no kind of server even alone, with the last one's verdict.
    enumerated: whether every partition was tried.
    """

    placed: Placed
    misfits: dict[int, Verdict]
    enumerated: bool = False


class Mixture:
    """Methods on one fleet over several offers; simulations are shared between them.

    Attributes
    ----------
    unit: the price of the cheapest offer.
    prices: of each, in that unit, so that tolerances do not depend on the currency.
    """

    def __init__(
        self, problem: Problem, offers: Sequence[Offer], workers: int | None = None
    ) -> None:
        self.offers = tuple(offers)
        self.unit = min(offer.price for offer in offers)
        self.prices = tuple(offer.price / self.unit for offer in offers)
        self.solvers = tuple(
            Solver(replace(problem, server=offer.server), workers=workers) for offer in offers
        )

    @cached_property
    def bound(self) -> CostBound:
        """The lower bound on cost."""
        return cost_bound(self.solvers, self.prices)

    @property
    def simulations(self) -> int:
        """How many were made."""
        return sum(solver.verifier.simulations for solver in self.solvers)

    def cost(self, placed: Placed) -> float:
        """Sum of the replicas' prices, in units of the cheapest."""
        return sum(self.prices[kind] for kind, _ in placed)

    def solve(self, method: Method) -> MixedOutcome:
        """The cheapest plan of a method: one kind of server, or two that share the adapters."""
        count = self.solvers[0].problem.count
        every = frozenset(range(count))
        if method == "exact":
            exact.check_few(count)
        misfits = [solver.misfits(every) for solver in self.solvers]
        nowhere = set(misfits[0]).intersection(*misfits[1:])
        if nowhere:
            return MixedOutcome((), {item: misfits[-1][item] for item in sorted(nowhere)})
        if method == "exact" or (method == "auto" and count <= _FEW):
            return MixedOutcome(self._cheapest_partition(every), {}, enumerated=True)
        best: Placed = ()
        for kind, solver in enumerate(self.solvers):
            if not misfits[kind]:
                parts = solver.fewest(method, every, self._most(kind, best))
                best = self._cheaper(best, tuple((kind, part) for part in parts))
        splits = self._splits(every, misfits)
        for split in splits:
            cost = sum(self.prices[kind] * replicas for kind, _, replicas in split)
            if best and cost >= self.cost(best) - _TINY:
                break
            found = self._attempted(method, split)
            if found:
                best = self._cheaper(best, found)
                break
        return MixedOutcome(best or self._roomier(method, splits), {})

    def _roomier(self, method: Method, splits: Sequence[Split]) -> Placed:
        """Where nothing was found: the cheapest splits with more replicas of both kinds."""
        for extra in range(1, _MOST_EXTRA + 1):
            for split in splits[:_ROOMIER]:
                found = self._attempted(
                    method, tuple((kind, items, count + extra) for kind, items, count in split)
                )
                if found:
                    return self._cheaper((), found)
        return ()

    def _most(self, kind: int, best: Placed) -> int | None:
        """Replicas of a kind that still cost less than the best plan; None without one."""
        return int((self.cost(best) - _TINY) / self.prices[kind]) if best else None

    def _cheaper(self, best: Placed, found: Placed) -> Placed:
        """The cheaper of two plans, every replica of the second on the cheapest kind that holds."""
        if not found:
            return best
        improved = tuple((self._cheapest_kind(items, kind), items) for kind, items in found)
        return improved if not best or self.cost(improved) < self.cost(best) - _TINY else best

    def _cheapest_kind(self, items: Items, known: int) -> int:
        order = sorted(range(len(self.offers)), key=lambda kind: (self.prices[kind], kind))
        for kind in order:
            if kind == known or self.prices[kind] >= self.prices[known]:
                return known
            if self.solvers[kind].search.verified((items,)):
                return kind
        return known

    def _splits(self, every: Items, misfits: Sequence[dict[int, Verdict]]) -> list[Split]:
        """Ways to share the adapters between two kinds, (kind, items, replicas), cheapest first."""
        found = {
            split
            for pair in itertools.combinations(range(len(self.offers)), 2)
            for split in self._pair(pair, every, misfits)
        }
        order = sorted(
            found,
            key=lambda split: (
                sum(self.prices[kind] * replicas for kind, _, replicas in split),
                [(kind, replicas, sorted(items)) for kind, items, replicas in split],
            ),
        )
        return order[:_ATTEMPTS]

    def _pair(
        self, pair: tuple[int, int], every: Items, misfits: Sequence[dict[int, Verdict]]
    ) -> Iterator[Split]:
        """Whole replicas of the first kind for whom it serves at the least cost, the second's rest.

        Who that is follows from the items' prices in both bounds.
        """
        first, second = pair
        shares = [self.solvers[kind].search.prices for kind in pair]
        order = sorted(
            every,
            key=lambda k: (
                k not in misfits[second],
                k in misfits[first],
                self.prices[first] * shares[0][k] / (self.prices[second] * shares[1][k]),
                k,
            ),
        )
        forced = sum(k in misfits[second] for k in every)
        allowed = len(every) - sum(k in misfits[first] for k in every)
        for filled in _FILLED:
            replicas, spent = 1, 0.0
            for size, item in enumerate(order[:allowed], start=1):
                spent += shares[0][item]
                last = size == allowed
                more = size < len(order) and spent + shares[0][order[size]] > replicas * filled
                if (more or last) and size >= forced and size < len(order):
                    rest = frozenset(order[size:])
                    needed = sum(shares[1][k] for k in sorted(rest)) / filled
                    count = max(1, int(needed + 1.0 - 1e-6))
                    yield (
                        (first, frozenset(order[:size]), replicas),
                        (second, rest, count),
                    )
                if more:
                    replicas += 1

    def _attempted(self, method: Method, split: Split) -> Placed:
        placed: list[tuple[int, Items]] = []
        for kind, items, replicas in split:
            parts = self.solvers[kind].attempt(method, items, replicas)
            if not parts:
                return ()
            placed += [(kind, part) for part in parts]
        return tuple(placed)

    def _cheapest_partition(self, every: Items) -> Placed:
        """Over all partitions; every set on the cheapest kind that holds it."""
        kinds = sorted(range(len(self.offers)), key=lambda kind: (self.prices[kind], kind))
        problem = self.solvers[0].problem
        home: dict[Items, int] = {}
        for items in exact.subsets(sorted(every)):
            if problem.clash(items):
                continue
            for kind in kinds:
                if self.solvers[kind].verifier.best([items])[0].ok:
                    home[items] = kind
                    break
        best: dict[Items, Placed] = {frozenset(): ()}
        for items in exact.subsets(sorted(every)):
            options = [
                ((home[part], part), *best[items - part])
                for part in home
                if min(items) in part and part <= items and items - part in best
            ]
            if options:
                best[items] = min(options, key=lambda placed: (self.cost(placed), len(placed)))
        return best.get(every, ())
