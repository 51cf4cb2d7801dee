"""Whether a server holds some adapters: simulated, under every seed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from pytwin import _core
from pytwin.errors import PytwinError
from pytwin.fleet.placement.problem import Items, Problem
from pytwin.fleet.placement.rank_settings import SettingRanker
from pytwin.fleet.placement.work import Work, realised
from pytwin.learn.describe import Setting
from pytwin.simulation import Twin, extrapolated
from pytwin.uncertainty import usable_cores
from pytwin.workload import Workload

WAITING = 8
"""Requests that may wait at the end whatever the rate."""

IN_FLIGHT = 8
"""Mean requests that may be unserved at the end whatever the rate."""

STARVED_SHARE = 0.1
_TRY_ALL = 8  # adapters
_TRIES = 4

MEASURED = (
    "arrived", "completed", "unfinished_running", "unfinished_waiting", "total_input_tokens",
    "total_output_tokens", "total_throughput", "served_ratio", "starved",
    "worst_group_mean_ttft_ms", "worst_group_mean_tpot_ms", "adapters_in_groups_missing_slo",
    "refused", "steps", "busy_s", "mean_running", "max_running", "max_waiting",
    "mean_batch_adapters", "max_kv_usage",
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """A replica, simulated.

    Attributes
    ----------
    setting: slots and rank.
    reason: why it is not verified, one line; None if it is.
    measured: the figures of `MEASURED` per simulated seed; fewer seeds where one failed.
    """

    setting: Setting
    reason: str | None
    measured: tuple[dict[str, Any], ...] = ()

    @property
    def ok(self) -> bool:
        """Whether it holds under every seed."""
        return self.reason is None

    @property
    def served(self) -> float:
        """Least served share over the seeds."""
        return min((row["served_ratio"] for row in self.measured), default=0.0)


class Judge(Protocol):
    """Who says whether a replica holds: the twin (`Verifier`), or an estimate."""

    problem: Problem
    ranker: SettingRanker

    def best(self, sets: Iterable[Items]) -> list[Verdict]:
        """The verdict of each set under the best of its settings."""
        ...

    def known(self, items: Items) -> Verdict | None:
        """What was found of a set before; None if it was never judged."""
        ...

    def verified_sets(self) -> list[Items]:
        """Every set that was found to hold."""
        ...


class Verifier:
    """Simulations of replicas of one problem, each done once.

    Parameters
    ----------
    workers: threads; all cores if None. The verdicts do not depend on it.
    """

    def __init__(self, problem: Problem, workers: int | None = None) -> None:
        self.problem = problem
        self.workers = usable_cores() if workers is None else workers
        self.simulations = 0
        self.ranker = SettingRanker(problem)
        self._twin = Twin()
        self._known: dict[tuple[Items, Setting], Verdict] = {}
        self._best: dict[Items, Verdict] = {}

    @cached_property
    def work(self) -> dict[int, Work]:
        """The work of every item, by seed."""
        return {seed: realised(self.problem, seed) for seed in self.problem.seeds}

    @cached_property
    def mean_request(self) -> dict[int, float]:
        """Tokens of the fleet's mean request, by seed."""
        return {
            seed: float(work.tokens.sum() / max(work.requests.sum(), 1.0))
            for seed, work in self.work.items()
        }

    def best(self, sets: Iterable[Items]) -> list[Verdict]:
        """The verdict of each set: under the first of its settings that holds, else the nearest.

        Sets of up to 8 items are tried under every setting, larger ones under the 4 that the
        mean-field estimate finds most promising.
        """
        listed = list(sets)
        waiting = {
            items: self.tries(items) for items in dict.fromkeys(listed) if items not in self._best
        }
        seen: dict[Items, list[Verdict]] = {items: [] for items in waiting}
        turn = 0
        while waiting:
            pairs = [(items, tries[turn]) for items, tries in waiting.items()]
            for (items, _), verdict in zip(pairs, self.judge(pairs), strict=True):
                seen[items].append(verdict)
                if verdict.ok or turn + 1 == len(waiting[items]):
                    self._best[items] = verdict if verdict.ok else nearest(seen[items])
                    del waiting[items]
            turn += 1
        return [self._best[items] for items in listed]

    def tries(self, items: Items) -> list[Setting]:
        """The settings under which a set is simulated before it is given up."""
        ranked = self.ranker.ranked(items)
        return ranked if len(items) <= _TRY_ALL else ranked[:_TRIES]

    def known(self, items: Items) -> Verdict | None:
        """What was found of a set before; None if it was never simulated."""
        return self._best.get(items)

    def verified_sets(self) -> list[Items]:
        """Every set that was found to hold, in the order in which they were tried."""
        return [items for items, verdict in self._best.items() if verdict.ok]

    def judge(self, pairs: Sequence[tuple[Items, Setting]]) -> list[Verdict]:
        """Verdicts of sets under given settings, seed by seed until one fails."""
        left = list(dict.fromkeys(pair for pair in pairs if pair not in self._known))
        rows: dict[tuple[Items, Setting], list[dict[str, Any]]] = {pair: [] for pair in left}
        for seed in self.problem.seeds:
            for pair, row in zip(left, self._simulated(left, seed), strict=True):
                reason = self.reason(pair[0], seed, row)
                if row["status"] == "ok":
                    rows[pair].append({"seed": seed} | {name: row[name] for name in MEASURED})
                if reason is not None or seed == self.problem.seeds[-1]:
                    self._known[pair] = Verdict(pair[1], reason, tuple(rows[pair]))
            left = [pair for pair in left if pair not in self._known]
        return [self._known[pair] for pair in pairs]

    def traffic(self, items: Items) -> Workload:
        """What a set brings: the requests that its items have on any server."""
        problem = self.problem
        return Workload.poisson(
            adapters=problem.items.subset(sorted(items)),
            lengths=problem.lengths,
            duration_s=problem.duration_s,
        )

    def extrapolated(self, items: Items, verdict: Verdict) -> tuple[str, ...]:
        """Why a verdict goes beyond what its profile was measured on; empty if it does not."""
        server, traffic = self.problem.configured(verdict.setting), self.traffic(items)
        reasons = (extrapolated(server, traffic, row) for row in verdict.measured)
        return tuple(dict.fromkeys(itertools.chain.from_iterable(reasons)))

    def _simulated(self, pairs: Sequence[tuple[Items, Setting]], seed: int) -> list[dict[str, Any]]:
        if not pairs:
            return []
        problem, objective = self.problem, self.problem.objective
        specs = [
            self._twin.spec_json(
                problem.configured(setting),
                self.traffic(items),
                seed=seed,
                ttft_slo_ms=objective.ttft_ms,
                tpot_slo_ms=objective.tpot_ms,
                stop_starving=True,
            )
            for items, setting in pairs
        ]
        columns = _core.simulate_many(self._twin.library, specs, self.workers)
        self.simulations += len(specs)
        found = []
        for index in range(len(specs)):
            row = {name: values[index] for name, values in columns.items()}
            if row["status"] == "failed":
                raise PytwinError(str(row["error"]))
            found.append(row)
        return found

    def reason(self, items: Items, seed: int, row: dict[str, Any]) -> str | None:
        """Why a replica does not hold under a seed; None if it does. One line."""
        if row["status"] != "ok":
            return f"cannot start: {row['error']}"
        problem, objective = self.problem, self.problem.objective
        under = f"seed {seed}: "
        if row["stop_reason"] == "starving" or row["starved"] or row["refused"]:
            return (
                f"{under}starves, {100 * (row['served_ratio'] or 0.0):.1f} % of the tokens served"
            )
        if objective.name == "slo":
            missing = row["adapters_in_groups_missing_slo"]
            if missing:
                return (
                    f"{under}{missing} adapters miss the objectives, worst mean TTFT "
                    f"{_shown(row['worst_group_mean_ttft_ms'])} ms, TPOT "
                    f"{_shown(row['worst_group_mean_tpot_ms'])} ms"
                )
        allowed = max(WAITING, row["arrived"] / problem.duration_s * objective.ttft_ms / 1e3)
        if row["unfinished_waiting"] > allowed:
            return f"{under}{row['unfinished_waiting']} requests wait at the end, {allowed:.0f} may"
        offered = self.work[seed].tokens_of(items)
        unserved = offered - row["total_input_tokens"] - row["total_output_tokens"]
        spare = max(
            IN_FLIGHT * self.mean_request[seed], unserved_share(problem, self.work[seed]) * offered
        )
        if unserved > spare:
            return f"{under}{unserved:.0f} tokens are unserved at the end, {spare:.0f} may be"
        if row["steps"] and 1e3 * row["busy_s"] / row["steps"] > objective.tpot_ms:
            return f"{under}a step takes {1e3 * row['busy_s'] / row['steps']:.0f} ms in the mean"
        return None


def unserved_share(problem: Problem, work: Work) -> float:
    """Share of a replica's tokens that may be unserved at the end.

    What arrives within the time that a request may take under the objectives,
    TTFT + output x TPOT, is rightly in flight; a tenth of the tokens at most, as beyond that the
    replica starves.
    """
    objective = problem.objective
    output = float(work.output.sum() / max(work.requests.sum(), 1.0))
    stay_s = (objective.ttft_ms + output * objective.tpot_ms) / 1e3
    return min(STARVED_SHARE, stay_s / problem.duration_s)


def nearest(verdicts: Sequence[Verdict]) -> Verdict:
    """Of verdicts that fail, the one that served most, with the lowest TTFT."""
    return max(
        verdicts,
        key=lambda item: (
            len(item.measured),
            round(item.served, 3),
            -max((_number(row["worst_group_mean_ttft_ms"]) for row in item.measured), default=0.0),
        ),
    )


def _number(value: float | None) -> float:
    return math.inf if value is None or math.isnan(value) else float(value)


def _shown(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:,.0f}"
