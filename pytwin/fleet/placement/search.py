"""A partition into N replicas that the twin verifies: built by prices, mended where it fails."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pytwin.fleet.placement.baselines import BASELINES, Bins, Parts, greedy
from pytwin.fleet.placement.problem import Items, Problem
from pytwin.fleet.placement.verify import Judge

if TYPE_CHECKING:
    from pytwin.fleet.placement.baselines import BaselineName

# A strain beyond this is not simulated: the estimate is a few percent off in an hour, more in a run
# that ends before its queues have grown.
_HOPELESS, _HOPELESS_S = 1.1, 40.0
_BALANCE = 60
_REPAIRS, _PATIENCE = 24, 5
_RELIEF = 0.01  # of a replica: what a failing one hands on at a time
_BUILT = 4


class Search:
    """Partitions of some items into a number of replicas.

    Parameters
    ----------
    prices: what each item takes of a replica, about; from the lower bound.
    current: sets that are served together today, or none.
    content: strain at which today's sets are changed no further.
    others: further prices that partitions are built by.
    """

    def __init__(
        self,
        verifier: Judge,
        prices: Sequence[float],
        current: Parts = (),
        *,
        content: float = 1.0,
        others: Sequence[Sequence[float]] = (),
    ) -> None:
        self.verifier = verifier
        self.problem: Problem = verifier.problem
        self.prices = prices
        self.current = current
        self.content = content
        self.others = others
        self._hopeless = _HOPELESS + _HOPELESS_S / self.problem.duration_s

    def verified(self, parts: Parts) -> bool:
        """Whether every replica holds; the most strained one is asked first."""
        held = [items for items in parts if items]
        if any(self.problem.clash(items) for items in held):
            return False
        held.sort(key=lambda items: (-self.strain(items), sorted(items)))
        if not held:
            return True
        if self.strain(held[0]) > self._hopeless:
            return False
        if not self.verifier.best(held[:1])[0].ok:
            return False
        return all(verdict.ok for verdict in self.verifier.best(held))

    def strain(self, items: Items) -> float:
        """The mean-field estimate of how near a set is to its limits; 0 of an empty one."""
        return self.verifier.ranker.strain(items) if items else 0.0

    def baseline(self, name: BaselineName, items: Iterable[int], replicas: int) -> Parts | None:
        """A baseline's partition, if the twin verifies it."""
        parts = BASELINES[name](self.problem, items, replicas)
        return kept(parts) if self.verified(parts) else None

    def found(self, items: Iterable[int], replicas: int) -> Parts | None:
        """A verified partition into that many replicas, or None after a bounded search."""
        listed = sorted(items)
        if self.current:
            parts = self._as_today(listed, replicas)
            if self.verified(parts):
                return kept(parts)
            mended = self.mended(self.balanced(parts, self.content))
            if mended is not None:
                return kept(mended)
        built = self._built(listed, replicas)
        built.sort(key=lambda parts: max(self.strain(items) for items in parts))
        for parts in built[:_BUILT]:
            mended = self.mended(self.balanced(parts))
            if mended is not None:
                return kept(mended)
        return None

    def _built(self, items: list[int], replicas: int) -> list[Parts]:
        """Partitions of equal prices, mixed and split by rank or by rate; and the greedy one."""
        found = [
            parts
            for prices in (self.prices, *self.others)
            for parts in self._built_by(prices, items, replicas)
        ]
        found.append(greedy(self.problem, items, replicas))
        unique = list(dict.fromkeys(found))
        return [parts for parts in unique if not any(self.problem.clash(part) for part in parts)]

    def _built_by(self, prices: Sequence[float], items: list[int], replicas: int) -> list[Parts]:
        ranks, rates = self.problem.ranks, self.problem.rates_rps
        by_price = sorted(items, key=lambda k: (-prices[k], k))
        by_rank = sorted(items, key=lambda k: (ranks[k], -prices[k], k))
        # Rank classes by falling and rising price in turn: like adapters meet at the seams.
        turns = {rank: (-1) ** turn for turn, rank in enumerate(sorted(set(ranks)))}
        zigzag = sorted(items, key=lambda k: (ranks[k], -turns[ranks[k]] * prices[k], k))
        by_rate = sorted(items, key=lambda k: (-rates[k], k))
        return [
            self.dealt(by_price, replicas, prices=prices),
            *(_cut(order, prices, replicas) for order in (by_rank, zigzag, by_rate)),
        ]

    def dealt(
        self,
        order: Sequence[int],
        replicas: int,
        start: Parts = (),
        *,
        prices: Sequence[float] | None = None,
    ) -> Parts:
        """Each to the replica of the least price so far (longest processing time first)."""
        worth = self.prices if prices is None else prices
        bins = Bins(self.problem, replicas)
        for target, items in enumerate(start):
            for item in sorted(items):
                bins.put(item, target, worth[item])
        for item in order:
            bins.put(item, bins.emptiest(item), worth[item])
        return bins.parts()

    def _as_today(self, items: list[int], replicas: int) -> Parts:
        """Today's sets; what is new goes where there is room.

        Where they are too many, those of the least price are given up and dealt to the others.
        """
        known = [part & frozenset(items) for part in self.current]
        known.sort(key=lambda part: (-sum(self.prices[k] for k in sorted(part)), sorted(part)))
        start = tuple(part for part in known[:replicas] if part)
        placed = frozenset().union(*start)
        rest = sorted((k for k in items if k not in placed), key=lambda k: (-self.prices[k], k))
        return self.dealt(rest, replicas, start)

    def balanced(self, parts: Parts, enough: float = 0.0) -> Parts:
        """Moves and swaps that lower the greatest strain, until it is at most `enough`."""
        state = list(parts)
        for _ in range(_BALANCE):
            strains = [self.strain(items) for items in state]
            worst = max(range(len(state)), key=lambda j: (strains[j], j))
            if strains[worst] <= enough or not self._eased(state, worst, strains):
                break
        return tuple(state)

    def _eased(self, state: list[Items], worst: int, strains: Sequence[float]) -> bool:
        """One move or swap with one of the three least strained replicas that helps."""
        others = sorted((j for j in range(len(state)) if j != worst), key=lambda j: (strains[j], j))
        limit = strains[worst] * (1.0 - 1e-3)
        for other in others[:3]:
            gap = sum(self.prices[k] for k in state[worst]) - sum(
                self.prices[k] for k in state[other]
            )
            for out, back in self._exchanges(state[worst], state[other], gap):
                left = (state[worst] - out) | back
                right = (state[other] - back) | out
                if self.problem.clash(left) or self.problem.clash(right):
                    continue
                if max(self.strain(left), self.strain(right)) < limit:
                    state[worst], state[other] = left, right
                    return True
        return False

    def _exchanges(self, full: Items, free: Items, gap: float) -> list[tuple[Items, Items]]:
        """A few moves, then swaps, that about halve the difference in price."""
        wanted = max(0.5 * gap, 1e-3)
        outs = sorted(full, key=lambda k: (abs(self.prices[k] - wanted), k))[:2]
        widest = max(self.problem.ranks[k] for k in full)
        outs += [k for k in sorted(full) if self.problem.ranks[k] == widest][:1]
        moves = [(frozenset({k}), frozenset[int]()) for k in dict.fromkeys(outs) if len(full) > 1]
        for k in sorted(full, key=lambda k: (-self.prices[k], k))[:3]:
            aim = self.prices[k] - wanted
            back = min(free, key=lambda b: (abs(self.prices[b] - aim), b), default=None)
            if back is not None:
                moves.append((frozenset({k}), frozenset({back})))
        return moves

    def mended(self, parts: Parts) -> Parts | None:
        """The partition, changed where the twin disagrees, until it agrees or gives up.

        A replica that fails hands an item of about a hundredth to the least strained one that
        holds; sets that failed are remembered and never tried again. It gives up where more than
        half fail at first, or where five rounds mended none.
        """
        state = [items for items in parts if items]
        if any(self.problem.clash(items) for items in state):
            return None
        if max(self.strain(items) for items in state) > self._hopeless:
            return None
        fewest, last = len(state) // 2 + 1, 0
        for turn in range(_REPAIRS):
            verdicts = self.verifier.best(state)
            failing = [j for j, verdict in enumerate(verdicts) if not verdict.ok]
            if not failing:
                return tuple(state)
            if len(failing) < fewest:
                fewest, last = len(failing), turn
            elif turn - last >= _PATIENCE or turn == 0:
                return None
            holding = [j for j in range(len(state)) if j not in failing]
            if not holding:
                return None
            for j in failing:
                self._relieved(state, j, holding)
        return None

    def _relieved(self, state: list[Items], worst: int, holding: Sequence[int]) -> None:
        for target in sorted(holding, key=lambda j: (self.strain(state[j]), j)):
            for item in sorted(state[worst], key=lambda k: (abs(self.prices[k] - _RELIEF), k)):
                left, right = state[worst] - {item}, state[target] | {item}
                known = self.verifier.known(right)
                if not left or self.problem.clash(right) or (known is not None and not known.ok):
                    continue
                state[worst], state[target] = left, right
                return


def _cut(order: Sequence[int], prices: Sequence[float], replicas: int) -> Parts:
    """In order, cut where the prices reach equal shares."""
    total = sum(prices[item] for item in order)
    parts: list[set[int]] = [set() for _ in range(replicas)]
    spent = 0.0
    for item in order:
        middle = spent + 0.5 * prices[item]
        target = min(replicas - 1, int(replicas * middle / total)) if total > 0 else 0
        parts[target].add(item)
        spent += prices[item]
    return tuple(frozenset(part) for part in parts)


def kept(parts: Parts) -> Parts:
    """Without empty sets, in order of their first items."""
    return tuple(sorted((items for items in parts if items), key=sorted))
