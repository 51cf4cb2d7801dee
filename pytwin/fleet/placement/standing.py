"""Placement on servers that stand: one setting for all, judged by the estimate alone.

Millisecond answers for a loop over time, in which what happens is simulated afterwards anyway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from pytwin.errors import ConfigError
from pytwin.fleet.placement.baselines import Bins, Parts
from pytwin.fleet.placement.problem import Items, Problem
from pytwin.fleet.placement.rank_settings import SettingRanker
from pytwin.fleet.placement.search import Search, kept
from pytwin.fleet.placement.verify import Verdict
from pytwin.learn.describe import Setting

_NEAR = 1.03
"""Dealing by price comes within this of what moves and swaps then reach."""


@dataclass(frozen=True)
class StandingProblem(Problem):
    """A placement on servers whose slots and rank are those of `server`, whoever they serve.

    Attributes
    ----------
    owners: the adapter that each item is a piece of, from 0; empty: every item is one. Pieces of an
        adapter are on distinct replicas.
    """

    owners: tuple[int, ...] = ()

    def adapter_of(self, item: int) -> int:
        """The adapter that an item is a piece of."""
        return self.owners[item] if self.owners else item

    def settings(self, items: Items) -> tuple[Setting, ...]:
        """The one setting."""
        server = self.server
        return (Setting(max(len(items), 1), server.max_loras or 1, server.max_lora_rank or 8),)


class Estimate:
    """Judges replicas by the mean-field estimate: one holds if its strain is at most a target."""

    def __init__(self, problem: StandingProblem, target_strain: float) -> None:
        for name in ("max_loras", "max_lora_rank"):
            if getattr(problem.server, name) is None:
                raise ConfigError(f"{name} (None) must be set for servers that stand")
        self.problem: Problem = problem
        self.ranker = SettingRanker(problem)
        self.target_strain = target_strain

    def best(self, sets: Iterable[Items]) -> list[Verdict]:
        """The verdict of each set."""
        return [self._judged(items) for items in sets]

    def known(self, items: Items) -> Verdict | None:
        """As `best`: estimates cost nothing to ask."""
        return self._judged(items)

    def verified_sets(self) -> list[Items]:
        """None: nothing is kept."""
        return []

    def _judged(self, items: Items) -> Verdict:
        setting, strain = self.ranker.estimates(items)[0]
        most = self.problem.server.max_cpu_loras
        if most is not None and len(items) > most:
            return Verdict(setting, f"{len(items)} adapters exceed max_cpu_loras ({most})")
        over = f"strain {strain:.3f} exceeds {self.target_strain:g}"
        return Verdict(setting, None if strain <= self.target_strain else over)


def fewest(judge: Estimate, current: Parts = ()) -> Parts:
    """All items on the fewest replicas found; today's sets are kept where they hold.

    Never more replicas than items: what holds on none is on one of its own.
    """
    problem = judge.problem
    every = frozenset(range(problem.count))
    strain = judge.ranker.strain(every) / judge.target_strain
    total = sum(problem.loads)
    prices = [strain * load / total for load in problem.loads]
    search = Search(judge, prices, current, content=judge.target_strain)
    by_price = sorted(every, key=lambda k: (-prices[k], k))
    pieces = Counter(problem.adapter_of(item) for item in every)
    for replicas in range(max(pieces.values()), problem.count):
        dealt = search.dealt(by_price, replicas)
        worst = max(search.strain(part) for part in dealt)
        if worst > _NEAR * judge.target_strain and replicas != len(current):
            continue  # today's sets may hold where these do not
        found = search.found(every, replicas)
        if found is not None:
            return found
    return tuple(frozenset({item}) for item in sorted(every))


def first_fit(judge: Estimate) -> Parts:
    """By falling load to the first replica that holds with it; else to a new one."""

    def fits(items: Items) -> bool:
        holds = judge.ranker.strain(items) <= judge.target_strain
        return holds and not problem.clash(items)

    problem = judge.problem
    order = sorted(range(problem.count), key=lambda k: (-problem.loads[k], k))
    bins = Bins(problem, 0)
    for item in order:
        parts = enumerate(bins.parts())
        target = next((target for target, items in parts if fits(items | {item})), None)
        bins.put(item, bins.opened() if target is None else target)
    return kept(bins.parts())
