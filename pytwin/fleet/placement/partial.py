"""Too few replicas for all: which adapters to leave out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytwin.fleet.placement.baselines import Parts
from pytwin.fleet.placement.problem import Items, Problem

if TYPE_CHECKING:
    from pytwin.fleet.placement.solve import Method, Solver

_ADDITIONS = 24


def most_load(solver: Solver, method: Method, items: Items, replicas: int) -> Parts:
    """Adapters of the most offered tokens per price that a method places on so many replicas.

    Adapters are taken in the order of load over price (the order that is best in the relaxation);
    the longest prefix is found by bisection, then those left out are tried one by one.
    """
    problem, prices = solver.problem, solver.search.prices
    groups: dict[int, list[int]] = {}
    for item in sorted(items):
        groups.setdefault(problem.adapter_of(item), []).append(item)
    order = sorted(groups, key=lambda a: (-problem.loads[groups[a][0]] / prices[groups[a][0]], a))
    best: Parts = ()
    low, high = 0, len(order)
    while low < high:
        middle = (low + high + 1) // 2
        chosen = frozenset(item for adapter in order[:middle] for item in groups[adapter])
        parts = solver.attempt(method, chosen, replicas)
        if parts is None:
            high = middle - 1
        else:
            low, best = middle, parts
    state = list(best) + [frozenset[int]()] * (replicas - len(best))
    if problem.copies == 1:
        for adapter in order[low : low + _ADDITIONS]:
            _added(solver, state, groups[adapter][0])
    return tuple(sorted((part for part in state if part), key=sorted))


def _added(solver: Solver, state: list[Items], item: int) -> None:
    """Put an item on the least strained replica if that holds it."""
    target = min(range(len(state)), key=lambda j: (solver.search.strain(state[j]), j))
    grown = state[target] | {item}
    if solver.search.verified((grown,)):
        state[target] = grown


def most_tokens(problem: Problem, prices: Sequence[float], replicas: int) -> float:
    """Offered tokens/s that so many replicas serve at most.

    Each holds items of a price of at most 1 in all, so that a knapsack of `replicas` bounds them.
    """
    room, served = float(replicas), 0.0
    order = sorted(range(problem.count), key=lambda k: -problem.loads[k] / max(prices[k], 1e-300))
    for item in order:
        price = prices[item]
        share = 1.0 if price <= room else room / price
        served += share * problem.loads[item]
        room -= share * price
        if room <= 0.0:
            break
    return served
