"""The lower bound on replicas: prices of adapters that no replica can beat (weak duality).

For any prices p >= 0 with p @ x <= 1 for every replica x of the relaxation, the sum of all prices
is at most the number of replicas. A linear program over some cells proposes prices; cells that
violate them are added; what is left is divided by the largest violation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytwin.fleet.placement.prices import Pricer, first_prices, proposed_prices
from pytwin.fleet.placement.relaxation import Cell, Relaxation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ROUNDS = 40
_ADDED = 4
_BUDGET = 200  # cells solved for one proposal: the first proposals are poor anyway
_ENOUGH = 5e-3
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Bound:
    """A lower bound on replicas, and what proves it.

    Attributes
    ----------
    replicas: the bound, not rounded.
    seed: whose work it is of.
    prices: per item; no replica of the relaxation holds items of more than 1 in all.
    tightest: the cell in which a replica comes nearest to that; None if there is none.
    """

    replicas: float
    seed: int
    prices: tuple[float, ...]
    tightest: Cell | None

    @property
    def whole(self) -> int:
        """The bound as a number of replicas."""
        return max(1, math.ceil(self.replicas - TOLERANCE))


def lower_bound(relaxation: Relaxation, seed: int, guess: Bound | None = None) -> Bound:
    """The bound for the work of one seed; `guess`, of another seed, gives prices to begin with."""
    import numpy as np

    count = relaxation.problem.count
    pricer = Pricer(relaxation)
    prices = first_prices(relaxation) if guess is None else np.array(guess.prices)
    best = Bound(0.0, seed, (0.0,) * count, None)
    cells: list[Cell] = []
    for _ in range(_ROUNDS):
        value, found = pricer.most(prices, _ADDED, _BUDGET)
        if value <= 0.0:
            break
        tightest = found[0][1]
        total = float(prices.sum()) / value
        if total > best.replicas:
            best = Bound(total, seed, _scaled(prices, value), tightest)
        if cells and value <= 1.0 + _ENOUGH:
            break
        anchor = pricer.roomiest()
        if anchor is not None and anchor not in cells:
            cells.append(anchor)  # without slots for the highest rank there is no solution
        cells += [cell for _, cell in found if cell not in cells][:_ADDED]
        proposed = proposed_prices(count, [relaxation.rows(cell) for cell in cells])
        if proposed is None:
            break
        prices, used = proposed
        # Few cells make a quick program; one that is needed again comes back.
        cells = [cell for cell, kept in zip(cells, used, strict=True) if kept]
    return best


def proven(relaxation: Relaxation, prices: NDArray[np.float64]) -> float:
    """What prices prove: their sum over the largest value of a replica, if that exceeds 1."""
    value, _ = Pricer(relaxation).most(prices)
    return float(prices.sum()) / max(value, 1.0)


def _scaled(prices: NDArray[np.float64], value: float) -> tuple[float, ...]:
    """Prices over the largest value, rounded down so that a file states them exactly."""
    import numpy as np

    return tuple((np.floor(prices / value * 1e9) / 1e9).tolist())
