"""The loop: at the beginning of every bin forecast, plan, and change what runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytwin.config import EngineConfig
from pytwin.errors import ConfigError
from pytwin.fleet.forecast.bins import History
from pytwin.fleet.forecast.methods import Method
from pytwin.fleet.forecast.rates import forecast
from pytwin.fleet.loop.controller import Controller
from pytwin.fleet.loop.schedule import Names, Schedule
from pytwin.fleet.placement.baselines import Parts
from pytwin.fleet.placement.standing import Estimate, StandingProblem, fewest, first_fit
from pytwin.learn.question import Objective
from pytwin.workload import Adapters
from pytwin.workload.adapter_set import AdapterGroup
from pytwin.workload.lengths import LengthLaw, as_length_law

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LARGEST_PIECE = 0.5
_LEAST_RPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What is operated.

    Attributes
    ----------
    server: settings of every replica; max_loras, max_cpu_loras and max_lora_rank must be set.
    startup_s: seconds from a replica's start until requests may come.
    lengths: the law that plans reckon with: "sharegpt", (prompt, output) tokens, or a law.
    objective: TTFT and TPOT that plans and scores go by.
    """

    server: EngineConfig
    startup_s: float = 120.0
    lengths: str | tuple[int, int] | LengthLaw = "sharegpt"
    objective: Objective = field(default_factory=Objective)

    def __post_init__(self) -> None:
        for name in ("max_loras", "max_cpu_loras", "max_lora_rank"):
            if getattr(self.server, name) is None:
                raise ConfigError(f"{name} (None) must be set: all replicas of the loop share it")


def operate(
    operation: Operation,
    controller: Controller,
    history: History,
    first_bin: int,
    *,
    truth_rps: NDArray[np.float64] | None = None,
) -> Schedule:
    """Decide at the beginning of bins first_bin, first_bin + 1, ... of the history.

    At bin b only the counts before b are known. Times of the schedule count from the beginning of
    first_bin.

    Parameters
    ----------
    history: counts of all bins; ranks of all adapters, which are known from the start.
    truth_rps: for the forecast "oracle": the true rates, (adapters, bins).

    Raises
    ------
    ConfigError, DataError: one line; for example too short a history for the method.
    """
    if not 0 < first_bin < history.bins:
        raise ConfigError(
            f"first_bin ({first_bin}) must be from 1 to {history.bins - 1}: the bins before it are "
            "what the first decision knows"
        )
    missing = [name for name in history.adapters if name not in history.ranks]
    if missing:
        raise ConfigError(f"ranks of {len(missing)} adapters are missing, the first {missing[0]}")
    planner = _Planner(operation, controller, history)
    schedule = Schedule(operation.server, operation.startup_s)
    for now in range(first_bin, history.bins):
        rates = planner.rates(now, truth_rps, max(len(schedule.placement), 1))
        sets = planner.sets(rates, schedule.placement)
        schedule.place((now - first_bin) * history.bin_s, sets)
    return schedule


class _Planner:
    """Forecast and placement of one bin."""

    def __init__(self, operation: Operation, controller: Controller, history: History) -> None:
        self.operation = operation
        self.controller = controller
        self.history = history
        self.lengths = as_length_law(operation.lengths)
        self.ranks = [history.ranks[name] for name in history.adapters]
        most, server = max(self.ranks), operation.server
        if most > (server.max_lora_rank or 0):
            raise ConfigError(
                f"max_lora_rank ({server.max_lora_rank}) must be >= the adapters' highest ({most})"
            )
        idle = Estimate(self._problem([_LEAST_RPS]), controller.target_strain)
        if not math.isfinite(idle.ranker.strain(frozenset({0}))):
            raise ConfigError(
                f"max_loras ({server.max_loras}) of rank {server.max_lora_rank} leave no memory "
                "for a KV cache: lower them, or take a larger GPU"
            )

    def rates(
        self, now: int, truth_rps: NDArray[np.float64] | None, replicas: int
    ) -> NDArray[np.float64]:
        """Rates to plan for, (adapters,): those of the busiest bin ahead, in requests/s.

        `replicas`: how many the adapters are on, of which each has its part of the misses.
        """
        import numpy as np

        controller, history = self.controller, self.history
        ahead, truth = controller.ahead_bins, None
        if controller.forecast == Method.ORACLE and truth_rps is not None:
            truth = truth_rps[:, now : now + ahead]
            ahead = truth.shape[1]
        found = forecast(
            history.before(now), ahead, controller.forecast, controller.level, truth_rps=truth
        )
        busiest = int(found.mean.sum(axis=0).argmax())
        counts, upper = found.mean[:, busiest], found.band.upper[:, busiest]
        if controller.plan_on == "upper":
            counts = upper
        elif controller.plan_on == "pooled":
            # A replica of R has 1/R of the mean, and of independent misses 1/sqrt(R) of the spread.
            spread = float(np.sqrt((np.maximum(upper - counts, 0.0) ** 2).sum() * replicas))
            counts = counts * (1.0 + spread / max(float(counts.sum()), 1.0))
        return np.maximum(counts / history.bin_s, _LEAST_RPS)

    def sets(self, rates: NDArray[np.float64], today: tuple[Names, ...]) -> list[Names]:
        """Names per replica."""
        target = self.controller.target_strain
        alone = Estimate(self._problem(rates.tolist()), target)
        pieces = [
            max(self.controller.copies, math.ceil(self._share(alone, item) / _LARGEST_PIECE))
            for item in range(len(rates))
        ]
        owners = tuple(item for item, count in enumerate(pieces) for _ in range(count))
        judge = Estimate(
            self._problem([rates[item] / pieces[item] for item in owners], owners), target
        )
        if self.controller.placement == "first-fit":
            parts = first_fit(judge)
        else:
            parts = fewest(judge, self._as_pieces(today, owners))
        names = self.history.adapters
        return [frozenset(names[owners[piece]] for piece in part) for part in parts]

    def _share(self, judge: Estimate, item: int) -> float:
        """Part of a replica that an adapter takes alone."""
        return judge.ranker.strain(frozenset({item})) / self.controller.target_strain

    def _as_pieces(self, today: tuple[Names, ...], owners: tuple[int, ...]) -> Parts:
        """Today's sets; the pieces of an adapter go by the order of its replicas."""
        free: dict[str, list[int]] = {}
        for piece, item in enumerate(owners):
            free.setdefault(self.history.adapters[item], []).append(piece)
        return tuple(
            frozenset(free[name].pop(0) for name in sorted(held) if free[name]) for held in today
        )

    def _problem(self, rates: list[float], owners: tuple[int, ...] = ()) -> StandingProblem:
        """Items of these rates; they are the adapters themselves where none are owned."""
        of = owners or range(len(rates))
        groups = tuple(
            AdapterGroup(1, (float(rate),), (self.ranks[item],))
            for rate, item in zip(rates, of, strict=True)
        )
        return StandingProblem(
            server=self.operation.server,
            adapters=Adapters(groups),
            lengths=self.lengths,
            objective=self.operation.objective,
            duration_s=self.history.bin_s,
            owners=owners,
        )
