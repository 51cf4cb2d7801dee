"""Prices of adapters: what a replica can hold of them at most, and prices that none can beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytwin.fleet.placement.relaxation import Cell, Relaxation, Rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


class Pricer:
    """The largest value of a replica under given prices, over all cells.

    Each cell keeps one combination of its rows that it was last judged by: a row v >= 0 and a
    constant c such that a replica's value is at most c + sum of max(0, prices - v). That bounds
    the value under other prices too, so that few cells have to be solved again.
    """

    def __init__(self, relaxation: Relaxation) -> None:
        import numpy as np

        self.relaxation = relaxation
        self._cells = list(relaxation.grid.cells())
        self._rows = np.zeros((len(self._cells), relaxation.problem.count))
        self._constants = np.zeros(len(self._cells))
        self._guesses = np.zeros(len(self._cells))
        self._begun = False

    def most(
        self, prices: Floats, count: int = 1, budget: int | None = None
    ) -> tuple[float, list[tuple[float, Cell]]]:
        """What no replica exceeds under the prices, and the cells of greatest value.

        Cells are solved in the order of their bounds until no other can exceed the best, which is
        then the exact maximum; or until `budget` were solved: the first value is an upper bound all
        the same.
        """
        import numpy as np

        if not self._begun:
            self._begin(prices)
        guesses = self._constants + np.maximum(prices - self._rows, 0.0).sum(axis=1)
        self._guesses = guesses
        solved: dict[int, float] = {}
        best = ceiling = 0.0
        for index in np.argsort(-guesses, kind="stable").tolist():
            if guesses[index] <= best and len(solved) >= count:
                break
            if budget is not None and len(solved) >= budget:
                ceiling = float(guesses[index])
                break
            value = solved[index] = self._solve(index, prices)
            best = max(best, value)
        order = sorted(solved, key=lambda index: (-solved[index], index))
        return max(best, ceiling), [(solved[index], self._cells[index]) for index in order]

    def roomiest(self) -> Cell | None:
        """A cell whose slots hold every rank, of the greatest value so far; None if none starts."""
        rank = self.relaxation.grid.ranks[-1]
        wide = [index for index, cell in enumerate(self._cells) if cell.max_lora_rank == rank]
        possible = [index for index in wide if self._constants[index] > 0.0]
        if not possible:
            return None
        return self._cells[max(possible, key=lambda index: (self._guesses[index], -index))]

    def _begin(self, prices: Floats) -> None:
        """Judge every cell by its single best row, or the mean of a time row and the slots'."""
        import numpy as np

        self._begun = True
        for index, cell in enumerate(self._cells):
            rows = self.relaxation.rows(cell)
            if not rows.possible:
                self._rows[index] = np.inf
                continue
            candidates = np.concatenate(
                [rows.weights[-4:], 0.5 * (rows.weights[:-2] + rows.weights[-1])[-3:]]
            )
            values, multipliers = knapsacks(prices[rows.items], candidates)
            kept = int(np.argmin(values))
            self._keep(index, rows, float(multipliers[kept]), candidates[kept])

    def _solve(self, index: int, prices: Floats) -> float:
        """A cell's value by linear programming; proven by its dual solution."""
        import numpy as np
        from scipy.optimize import linprog

        rows = self.relaxation.rows(self._cells[index])
        if not rows.possible:
            return 0.0
        values = prices[rows.items]
        solved = linprog(
            -values,
            A_ub=rows.weights,
            b_ub=np.ones(len(rows.weights)),
            bounds=(0.0, 1.0),
            method="highs",
        )
        if solved.x is not None:
            multipliers = np.maximum(-solved.ineqlin.marginals, 0.0)
            total = float(multipliers.sum())
            if total > 0.0:
                self._keep(index, rows, total, multipliers @ rows.weights / total)
        return float(self._constants[index] + np.maximum(prices - self._rows[index], 0.0).sum())

    def _keep(self, index: int, rows: Rows, multiplier: float, weights: Floats) -> None:
        import numpy as np

        self._constants[index] = multiplier
        self._rows[index] = np.inf  # items that do not fit have no value
        self._rows[index, rows.items] = multiplier * weights


def knapsacks(values: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """For each row of weights the fractional knapsack of capacity 1: its value and multiplier."""
    import numpy as np

    ratio = values / np.maximum(weights, 1e-300)
    order = np.argsort(-ratio, axis=1, kind="stable")
    taken = np.cumsum(np.take_along_axis(weights, order, axis=1), axis=1)
    last = np.minimum((taken < 1.0).sum(axis=1), weights.shape[1] - 1)
    rows = np.arange(len(weights))
    multipliers = np.where(taken[:, -1] < 1.0, 0.0, ratio[rows, order[rows, last]])
    reduced = np.maximum(values - multipliers[:, None] * weights, 0.0)
    return multipliers + reduced.sum(axis=1), multipliers


def first_prices(relaxation: Relaxation) -> Floats:
    """Prices to begin with: an item's share of a replica's time, at rather long steps."""
    import numpy as np

    grid = relaxation.grid
    bound = grid.step_bounds(grid.ranks[-1], (len(grid.adapters) - 1) // 2)[-1]
    edge = len(grid.steps) * 3 // 4
    active = bound.adapter * relaxation.active[edge] / grid.steps[edge]
    return np.asarray(relaxation.busy(bound) + active)


def proposed_prices(count: int, cells: Sequence[Rows]) -> tuple[Floats, NDArray[np.bool_]] | None:
    """Prices from the linear program over some cells: split all items over fewest replicas.

    Returns
    -------
    prices, and which cells hold replicas in the solution; None where the solver found none.
    """
    import numpy as np
    from scipy import sparse
    from scipy.optimize import linprog

    # Columns of a cell: its replicas, then the items' amounts.
    blocks = [np.hstack([-np.ones((len(rows.weights), 1)), rows.weights]) for rows in cells]
    limits: Any = sparse.block_diag(blocks, format="csr")
    item = np.concatenate([np.concatenate([[-1], rows.items]) for rows in cells])
    columns = np.flatnonzero(item >= 0)
    cover: Any = sparse.csr_matrix(
        (-np.ones(len(columns)), (item[columns], columns)), shape=(count, len(item))
    )
    rows: Any = sparse.vstack([cover, limits])  # the solver takes it, its stubs do not
    solved = linprog(
        (item < 0).astype(float),
        A_ub=rows,
        b_ub=np.concatenate([-np.ones(count), np.zeros(limits.shape[0])]),
        bounds=(0.0, None),
        method="highs",
    )
    if solved.x is None:
        return None
    prices = np.asarray(np.maximum(-solved.ineqlin.marginals[:count], 0.0))
    return prices, np.asarray(solved.x[item < 0] > 1e-9)
