"""Which settings of a replica to simulate first, by the mean-field estimate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytwin.fleet.placement.problem import Items, Problem
from pytwin.learn.describe import Describer, Setting, Traffic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NAMES = ("utilisation", "slot_wait_s", "step_ms", "first_token_ms", "kv_pressure", "served_share")


class SettingRanker:
    """Estimates of replicas, 0.1 ms per setting (docs/background/surrogate.md)."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._describer = Describer(problem.server)
        self._columns = [self._describer.names.index(name) for name in _NAMES]
        self._estimates: dict[Items, tuple[tuple[Setting, float], ...]] = {}

    def ranked(self, items: Items) -> list[Setting]:
        """Settings, the most promising first; those that cannot start come last."""
        return [setting for setting, _ in self.estimates(items)]

    def strain(self, items: Items) -> float:
        """How near its limits the best setting is: below 1 it should hold. inf: cannot start."""
        return self.estimates(items)[0][1] if items else 0.0

    def estimates(self, items: Items) -> tuple[tuple[Setting, float], ...]:
        """Settings with their strain, least first."""
        known = self._estimates.get(items)
        if known is None:
            known = self._estimates[items] = self._estimated(items)
        return known

    def _estimated(self, items: Items) -> tuple[tuple[Setting, float], ...]:
        import numpy as np

        problem = self.problem
        settings = problem.settings(items)
        members = sorted(items)
        traffic = Traffic(
            tuple(problem.rates_rps[item] for item in members),
            tuple(problem.ranks[item] for item in members),
            problem.lengths,
            own_lengths=tuple(problem.laws[item] for item in members),
        )
        if not any(traffic.rates_rps):
            return tuple((setting, 0.0) for setting in settings)
        rows = self._describer.features(traffic, settings, problem.duration_s)[:, self._columns]
        strains = np.where(np.isnan(rows).any(axis=1), np.inf, self._strain(rows))
        order = sorted(range(len(settings)), key=lambda k: (float(strains[k]), k))
        return tuple((settings[k], float(strains[k])) for k in order)

    def _strain(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """The tightest of load over capacity, TTFT and TPOT over their objectives."""
        import numpy as np

        utilisation, slot_wait_s, step_ms, first_ms, kv, _ = rows.T
        parts = [utilisation, kv]
        objective = self.problem.objective
        if objective.name == "slo":
            parts += [
                step_ms / objective.tpot_ms,
                (1e3 * slot_wait_s + first_ms) / objective.ttft_ms,
            ]
        return np.asarray(np.max(parts, axis=0))
