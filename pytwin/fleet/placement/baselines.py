"""Known ways of dealing adapters to N replicas, none of which knows the server."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable
from typing import Literal

from pytwin.fleet.placement.problem import Items, Problem

BaselineName = Literal["random", "first-fit-decreasing", "greedy", "rendezvous"]
Parts = tuple[Items, ...]
"""Disjoint sets of items, one per replica."""

_SHUFFLE = 20_260_101


def first_fit_decreasing(problem: Problem, items: Iterable[int], replicas: int) -> Parts:
    """By falling load to the first replica with room under an even share; else the emptiest."""
    listed = sorted(items, key=lambda item: (-problem.loads[item], item))
    room = sum(problem.loads[item] for item in listed) / replicas
    bins = Bins(problem, replicas)
    for item in listed:
        load = problem.loads[item]
        fitting = (j for j in bins.open(item) if bins.loads[j] + load <= room * (1 + 1e-9))
        target = next(fitting, None)
        bins.put(item, bins.emptiest(item) if target is None else target)
    return bins.parts()


def greedy(problem: Problem, items: Iterable[int], replicas: int) -> Parts:
    """Rank by rank, by falling rate, dealt zig-zag over the replicas."""
    listed = sorted(items, key=lambda k: (-problem.ranks[k], -problem.rates_rps[k], k))
    bins = Bins(problem, replicas)
    for turn, item in enumerate(listed):
        lap, step = divmod(turn, replicas)
        target = replicas - 1 - step if lap % 2 else step
        open_to = bins.open(item)
        bins.put(item, target if target in open_to else bins.emptiest(item))
    return bins.parts()


def at_random(problem: Problem, items: Iterable[int], replicas: int) -> Parts:
    """Shuffled, each to a replica drawn evenly; always the same shuffle."""
    draw = random.Random(_SHUFFLE)  # noqa: S311 - nothing secret
    bins = Bins(problem, replicas)
    for item in sorted(items):
        bins.put(item, draw.choice(bins.open(item)))
    return bins.parts()


def rendezvous(problem: Problem, items: Iterable[int], replicas: int) -> Parts:
    """Each adapter to the replicas of its highest hashes (highest random weight)."""
    bins = Bins(problem, replicas)
    for item in sorted(items):
        name = problem.names[problem.adapter_of(item)]
        bins.put(item, max(bins.open(item), key=lambda j: _hash(f"{name}@{j}")))
    return bins.parts()


BASELINES: dict[BaselineName, Callable[[Problem, Iterable[int], int], Parts]] = {
    "random": at_random,
    "first-fit-decreasing": first_fit_decreasing,
    "greedy": greedy,
    "rendezvous": rendezvous,
}


class Bins:
    """Replicas being filled; copies of an adapter never meet."""

    def __init__(self, problem: Problem, replicas: int) -> None:
        self.problem = problem
        self.loads = [0.0] * replicas
        self._items: list[set[int]] = [set() for _ in range(replicas)]
        self._adapters: list[set[int]] = [set() for _ in range(replicas)]

    def open(self, item: int) -> list[int]:
        """Replicas without a copy of the item's adapter; all, were there none."""
        adapter = self.problem.adapter_of(item)
        free = [j for j, held in enumerate(self._adapters) if adapter not in held]
        return free or list(range(len(self.loads)))

    def emptiest(self, item: int) -> int:
        """The open replica of the least load."""
        return min(self.open(item), key=lambda j: (self.loads[j], j))

    def put(self, item: int, target: int, load: float | None = None) -> None:
        """Place an item; its load is the problem's unless another is given."""
        self._items[target].add(item)
        self._adapters[target].add(self.problem.adapter_of(item))
        self.loads[target] += self.problem.loads[item] if load is None else load

    def opened(self) -> int:
        """A new, empty replica."""
        self.loads.append(0.0)
        self._items.append(set())
        self._adapters.append(set())
        return len(self.loads) - 1

    def parts(self) -> Parts:
        """The sets, empty ones too."""
        return tuple(frozenset(items) for items in self._items)


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
