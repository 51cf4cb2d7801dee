"""From a problem to a verified partition: bound, methods, and what is left out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from pytwin.errors import ConfigError
from pytwin.fleet.placement import exact
from pytwin.fleet.placement.baselines import BASELINES, Parts
from pytwin.fleet.placement.bound import Bound, lower_bound
from pytwin.fleet.placement.cover import covered_by_pool
from pytwin.fleet.placement.current import in_todays_order, moves_of
from pytwin.fleet.placement.partial import most_load
from pytwin.fleet.placement.problem import Items, Problem
from pytwin.fleet.placement.relaxation import Grid, Relaxation
from pytwin.fleet.placement.search import Search
from pytwin.fleet.placement.verify import Verdict, Verifier

Method = Literal[
    "auto", "random", "first-fit-decreasing", "greedy", "rendezvous", "local-search", "milp",
    "exact",
]  # fmt: skip
METHODS: tuple[Method, ...] = get_args(Method)
_SUSPECT = 0.5  # strain of an adapter alone from which the twin is asked


@dataclass(frozen=True)
class Outcome:
    """What a method found.

    Attributes
    ----------
    parts: sets of items, one per replica; empty where nothing was found.
    unplaced: items on no replica.
    misfits: items that hold on no replica even alone, with the verdict.
    enumerated: whether every partition that could be better was tried.
    """

    parts: Parts
    unplaced: Items
    misfits: dict[int, Verdict]
    enumerated: bool = False


class Solver:
    """Methods on one problem; simulations are shared between them."""

    def __init__(
        self,
        problem: Problem,
        *,
        current: Parts = (),
        max_moves: int | None = None,
        workers: int | None = None,
    ) -> None:
        self.problem = problem
        self.verifier = Verifier(problem, workers)
        self.current = current
        self.max_moves = max_moves

    @cached_property
    def grid(self) -> Grid:
        """The cells of the relaxation."""
        return Grid(self.problem, self.verifier.work[self.problem.seeds[0]])

    @cached_property
    def bounds(self) -> tuple[Bound, ...]:
        """The lower bound of each seed."""
        found: list[Bound] = []
        for seed in self.problem.seeds:
            relaxation = Relaxation(self.grid, self.verifier.work[seed])
            guess = max(found, key=lambda bound: bound.replicas, default=None)
            found.append(lower_bound(relaxation, seed, guess))
        return tuple(found)

    @property
    def bound(self) -> Bound:
        """The greatest of the seeds' lower bounds, the first of them."""
        return max(self.bounds, key=lambda bound: bound.replicas)

    @property
    def least(self) -> int:
        """No fewer replicas will do: the bound, and one for each copy."""
        return max(self.bound.whole, self.problem.copies)

    @cached_property
    def search(self) -> Search:
        """The local search, with the bound's prices; a little for what has none."""
        best = self.bound
        prices, *others = [
            [max(price, 1e-6 + 1e-3 * max(bound.prices)) for price in bound.prices]
            for bound in (best, *(bound for bound in self.bounds if bound is not best))
        ]
        return Search(self.verifier, prices, self.current, others=others)

    def solve(self, method: Method) -> Outcome:
        """The best plan of a method.

        Raises
        ------
        ConfigError: a method that does not exist, or `exact` on too many adapters.
        """
        if method not in METHODS:
            raise ConfigError(f"method ({method}) must be one of {', '.join(METHODS)}")
        if method == "exact":
            exact.check_few(self.problem.count)
        every = frozenset(range(self.problem.count))
        misfits = self.misfits(every)
        most = self.problem.max_replicas
        if misfits and most is None:
            return Outcome((), every, misfits)
        bad = {self.problem.adapter_of(item) for item in misfits}
        items = frozenset(item for item in every if self.problem.adapter_of(item) not in bad)
        small = method in ("auto", "exact") and len(every) <= exact.MOST_ITEMS
        parts = self.fewest(method, items, most) if items else ()
        if parts:
            enumerated = small and self.max_moves is None
            return Outcome(parts, every - items, misfits, enumerated=enumerated)
        if most is None or not items:
            return Outcome((), every, misfits, enumerated=small)
        if small:
            parts = exact.most_served(self.verifier, items, most)
        else:
            parts = most_load(self, method, items, most)
        return Outcome(parts, every - frozenset().union(*parts), misfits, enumerated=small)

    def misfits(self, items: Items) -> dict[int, Verdict]:
        """Items that no replica holds even alone; those that hardly strain one are not asked."""
        alone = [frozenset({item}) for item in sorted(items)]
        suspects = [part for part in alone if self.search.strain(part) > _SUSPECT]
        verdicts = self.verifier.best(suspects)
        return {
            min(part): verdict
            for part, verdict in zip(suspects, verdicts, strict=True)
            if not verdict.ok
        }

    def fewest(self, method: Method, items: Items, most: int | None) -> Parts:
        """The fewest replicas for all items; empty where none up to `most` was found."""
        limit = len(items) if most is None else min(most, len(items))
        if self.max_moves is not None:
            # A replica more takes a move at least, or an adapter that is new.
            new = len(items) - len(items & frozenset().union(*self.current))
            limit = min(limit, len(self.current) + self.max_moves + new)
            return self._near_today(method, items, limit)
        if method in ("auto", "exact") and self.problem.count <= exact.MOST_ITEMS:
            return self._small(items, limit)
        for replicas in range(min(self.least, limit + 1), limit + 1):
            parts = self.attempt(method, items, replicas)
            if parts is not None:
                return parts
        return ()

    def _near_today(self, method: Method, items: Items, limit: int) -> Parts:
        """The same within `max_moves` of today's placement; empty where none was found."""
        for replicas in range(min(self.least, limit + 1), limit + 1):
            parts = self.attempt(method, items, replicas)
            if parts is None:
                continue
            _, moved = in_todays_order(parts, self.current, self.problem)
            if moves_of(moved, self.current, self.problem) <= (self.max_moves or 0):
                return parts
        return ()

    def attempt(self, method: Method, items: Items, replicas: int) -> Parts | None:
        """A verified partition of some items into at most so many replicas; None if none found."""
        if method in BASELINES:
            return self.search.baseline(method, items, replicas)
        found = self.search.found(items, replicas)
        if found is not None or method == "local-search":
            return found
        if method == "auto":
            for name in BASELINES:
                found = self.search.baseline(name, items, replicas)
                if found is not None:
                    return found
        return covered_by_pool(self.search, items, replicas + 1)

    def _small(self, items: Items, limit: int) -> Parts:
        """Optimal: heuristics first, then every partition into fewer."""
        best: Parts | None = None
        for replicas in range(min(self.least, limit + 1), limit + 1):
            best = self.search.found(items, replicas)
            if best is not None:
                break
        if best is not None and len(best) <= self.least:
            return best
        better = exact.fewest(self.verifier, items, limit + 1 if best is None else len(best))
        return better or best or ()
