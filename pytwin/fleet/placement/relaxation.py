"""The relaxation behind the lower bound: replicas as fluids (docs/background/placement.md).

A verified replica with mean busy step s and F active adapters in the mean satisfies the rows below
for the cell (rank, interval of F, interval of s) that it is in. Adapters may be split.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytwin import _core
from pytwin.fleet.placement.active import covered, least_kept
from pytwin.fleet.placement.problem import Problem, least_lora_rank
from pytwin.fleet.placement.step_law import Mix, StepBound, step_law
from pytwin.fleet.placement.verify import IN_FLIGHT, unserved_share
from pytwin.fleet.placement.work import Work
from pytwin.simulation import Twin
from pytwin.workload import Workload

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

STEP_RATIO = 1.06
ADAPTER_RATIO = 1.1


@dataclass(frozen=True)
class Cell:
    """Replicas of one rank; numbers of the intervals of active adapters and of the mean step."""

    max_lora_rank: int
    adapters: int
    step: int


@dataclass(frozen=True)
class Rows:
    """What replicas of a cell hold: weights @ x <= 1 for shares x of items, 0 <= x <= 1.

    Attributes
    ----------
    items: numbers of the items whose rank fits.
    weights: shape (rows, items), none negative.
    possible: whether any replica can be in the cell.
    """

    items: NDArray[np.int64]
    weights: Floats
    possible: bool


class Grid:
    """The cells, and what they say of a server whatever its traffic.

    Parameters
    ----------
    work: of any seed; its mean request decides where the bounds of the step are tight.
    """

    def __init__(self, problem: Problem, work: Work) -> None:
        self.problem = problem
        whole = problem.settings(frozenset(range(problem.count)))[-1]
        engine = problem.configured(whole).resolved()
        decodes = max(float((work.output - work.requests).sum()), 1.0)
        # Rounded, so that fleets of like lengths share the bounds, which hold for any mix.
        mix = Mix(
            float(f"{work.prompt.sum() / decodes:.1g}"),
            float(f"{work.requests.sum() / decodes:.1g}"),
        )
        self.law = step_law(
            problem.server.loaded_profile,
            int(engine["max_num_seqs"]),
            int(engine["max_num_batched_tokens"]),
            mix,
        )
        self.steps = self._step_edges()
        self.adapters = self._adapter_edges()
        self.ranks = sorted({least_lora_rank(rank) for rank in problem.ranks})
        self._held: dict[tuple[int, int], float] = {}
        self._twin = Twin()

    def _step_edges(self) -> list[float]:
        """Edges of the intervals of the mean step, in seconds: from the shortest step on."""
        longest = self.problem.objective.tpot_ms / 1e3
        shortest = min(self.law.least_s, 0.999 * longest)
        count = math.ceil(math.log(longest / shortest) / math.log(STEP_RATIO))
        return [shortest * (longest / shortest) ** (k / count) for k in range(count + 1)]

    def _adapter_edges(self) -> list[float]:
        most = float(min(self.problem.count, max(self.problem.slots)))
        edges = [0.0]
        while edges[-1] < most:
            edges.append(min(most, max(edges[-1] + 1.0, edges[-1] * ADAPTER_RATIO)))
        return edges

    def cells(self) -> Iterator[Cell]:
        """Every cell whose server can start."""
        for rank in self.ranks:
            for adapters in range(len(self.adapters) - 1):
                if self.kv_tokens(rank, adapters) > 0.0:
                    for step in range(len(self.steps) - 1):
                        yield Cell(rank, adapters, step)

    def kv_tokens(self, rank: int, adapters: int) -> float:
        """KV capacity of the fewest slots of a cell; 0 where the server cannot start."""
        known = self._held.get((rank, adapters))
        if known is None:
            slots = max(1, math.ceil(self.adapters[adapters]))
            server = self.problem.server.model_copy(
                update={"max_loras": slots, "max_cpu_loras": slots, "max_lora_rank": rank}
            )
            spec = self._twin.spec_json(server, Workload.poisson(rate_rps=1.0, lengths=(1, 1)))
            answer: Mapping[str, Any] = _core.memory(self._twin.library, spec)
            known = 0.0 if answer["error"] is not None else float(answer["kv_tokens"])
            self._held[rank, adapters] = known
        return known

    def step_bounds(self, rank: int, adapters: int) -> list[StepBound]:
        """Linear bounds of the step time in a cell."""
        return self.law.bounds(rank, self.adapters[adapters], self.adapters[adapters + 1])


class Relaxation:
    """The rows of the cells, for the work of one seed."""

    def __init__(self, grid: Grid, work: Work) -> None:
        import numpy as np

        self.grid = grid
        self.work = work
        self.problem = grid.problem
        self.served = 1.0 - unserved_share(self.problem, work)
        self._ranks = np.array(self.problem.ranks)
        self._busy: dict[StepBound, Floats] = {}

    @cached_property
    def active(self) -> Floats:
        """Share of the time that an item is active, by edge of the step's length; (edges, items).

        Each request takes as many steps as it has tokens, from its arrival on. Waiting makes the
        requests of an adapter share steps; the objective on TTFT limits by how much.
        """
        import numpy as np

        horizon = self.problem.duration_s
        steps = np.array(self.grid.steps)[:, None]
        shares = np.zeros((len(steps), self.problem.count))
        for item, (starts, outputs) in enumerate(
            zip(self.work.arrivals, self.work.outputs, strict=True)
        ):
            if len(starts):
                shares[:, item] = covered(starts, outputs, steps, horizon)
        rate = np.broadcast_to(self.work.requests / horizon, shares.shape)
        load = self.work.output / horizon * steps
        wait_s = self.problem.objective.ttft_ms / 1e3
        return np.asarray(shares * self.served * least_kept(rate, load, wait_s))

    def items_of(self, rank: int) -> NDArray[np.int64]:
        """Items that fit into slots of a rank."""
        import numpy as np

        return np.flatnonzero(self._ranks <= rank)

    def busy(self, bound: StepBound) -> Floats:
        """Least seconds of busy time per second that the items bring."""
        known = self._busy.get(bound)
        if known is None:
            work = self.work
            seconds = (
                bound.decode * (work.output - work.requests)
                + bound.prompt * work.prompt
                + bound.request * work.requests
                + bound.context * work.context
            )
            known = self._busy[bound] = self.served * seconds / self.problem.duration_s
        return known

    def rows(self, cell: Cell) -> Rows:
        """The rows of a cell: time (two for each bound of the step), KV memory, slots.

        Within the cell every value is the one that restricts least.
        """
        import numpy as np

        grid = self.grid
        items = self.items_of(cell.max_lora_rank)
        short, long = grid.steps[cell.step], grid.steps[cell.step + 1]
        least, most = grid.adapters[cell.adapters], grid.adapters[cell.adapters + 1]
        weights, limits = [], []
        active = self.active[cell.step + 1][items] / long
        spare = IN_FLIGHT / max(float(self.work.requests.sum()), 1.0)
        for bound in grid.step_bounds(cell.max_lora_rank, cell.adapters):
            busy = self.busy(bound)
            allowed = 1.0 + spare * float(busy.sum())
            weights.append(busy[items])
            limits.append(allowed - bound.base / long)
            rest = bound.base - bound.adapter * least
            weights.append(busy[items] + bound.adapter * active)
            limits.append(allowed - rest / (long if rest > 0 else short))
        held = self.served * self.work.held / self.problem.duration_s * short
        weights += [held[items], self.active[cell.step][items]]
        limits += [
            grid.kv_tokens(cell.max_lora_rank, cell.adapters) + spare * float(held.sum()),
            most,
        ]
        capacity = np.array(limits)
        possible = bool((capacity > 0.0).all()) and len(items) > 0
        scaled = np.stack(weights) / np.maximum(capacity, 1e-12)[:, None]
        return Rows(items, scaled, possible)
