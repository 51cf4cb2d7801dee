"""The mixed-integer program: choose among sets that hold, cover every item, use fewest replicas."""

from __future__ import annotations

from collections.abc import Sequence

from pytwin.fleet.placement.baselines import Parts
from pytwin.fleet.placement.problem import Items
from pytwin.fleet.placement.search import Search, kept

_NODES = 2_000
_ROUNDS = 6


def covered_by_pool(search: Search, items: Items, below: int) -> Parts | None:
    """A verified partition into fewer than `below` replicas, from sets that were verified before.

    HiGHS covers the items with sets of the pool (at most 2,000 nodes: bounded without a clock). An
    item in several chosen sets stays in the least strained; the smaller sets are simulated, and a
    choice that fails is forbidden (a no-good cut).
    """
    import numpy as np
    from scipy import sparse
    from scipy.optimize import Bounds, LinearConstraint, milp

    pool = [part for part in search.verifier.verified_sets() if part <= items]
    if not pool or not items <= frozenset().union(*pool):
        return None
    numbers = {item: row for row, item in enumerate(sorted(items))}
    entries = [(numbers[item], column) for column, part in enumerate(pool) for item in part]
    rows, columns = np.array(entries).T
    cover = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), (len(items), len(pool)))
    constraints = [
        LinearConstraint(cover, 1, np.inf),
        LinearConstraint(np.ones((1, len(pool))), 0, below - 1),
    ]
    for _ in range(_ROUNDS):
        solved = milp(
            np.ones(len(pool)),
            integrality=np.ones(len(pool), dtype=np.int64),
            bounds=Bounds(0, 1),
            constraints=constraints,
            options={"node_limit": _NODES, "presolve": True},
        )
        if solved.x is None:
            return None
        chosen = [column for column in range(len(pool)) if solved.x[column] > 0.5]
        parts = _disjoint(search, [pool[column] for column in chosen])
        if search.verified(parts):
            return kept(parts)
        cut = np.zeros((1, len(pool)))
        cut[0, chosen] = 1.0
        constraints.append(LinearConstraint(cut, 0, len(chosen) - 1))
    return None


def _disjoint(search: Search, chosen: Sequence[Items]) -> Parts:
    """Every item in one set only: of those that hold it, the one of least price so far."""
    parts: list[set[int]] = [set() for _ in chosen]
    prices = [0.0] * len(chosen)
    every = sorted(frozenset().union(*chosen))
    every.sort(key=lambda item: (sum(item in part for part in chosen), item))
    for item in every:
        target = min(
            (j for j, part in enumerate(chosen) if item in part), key=lambda j: (prices[j], j)
        )
        parts[target].add(item)
        prices[target] += search.prices[item]
    return tuple(frozenset(part) for part in parts)
