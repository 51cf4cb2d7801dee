"""Find the best setting: models first, then the twin, then what the profile may have wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytwin import _core
from pytwin.errors import PytwinError
from pytwin.learn.bundle import Bundle
from pytwin.learn.describe import Describer, Setting
from pytwin.learn.question import Question
from pytwin.simulation import Twin
from pytwin.uncertainty import Prediction, predict, usable_cores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TIE = 0.01
"""Throughputs within this share of the best count as equal."""

_BATCH = 8
_MOST_SIMULATED = 64
# Beyond this the models' word is taken that a setting breaks the rule: they are wrong by a few
# percent near the edge, not by half of the load.
_HOPELESS = 0.97
# Where no model may be asked, the estimate decides who is far beyond the edge.
_ESTIMATE_HOPELESS = 1.4  # utilisation
_ESTIMATE_SHARE = 0.6  # of the load served, slots included


@dataclass(frozen=True)
class Candidate:
    """A setting and what is believed or known of it.

    Attributes
    ----------
    throughput: input + output tokens/s.
    served_share: throughput over nominal rate x mean lengths.
    failing: probability that the objective's rule is broken; after a simulation 0 or 1.
    source: "models", "mean field" (outside the models' range) or "twin".
    metrics: of the simulation, where there was one.
    """

    setting: Setting
    throughput: float
    served_share: float
    failing: float
    source: str
    tpot_ms: float
    ttft_ms: float
    metrics: dict[str, Any] | None = None

    @property
    def feasible(self) -> bool:
        """Holds the rule, as far as known."""
        return self.failing <= 0.5

    @property
    def memory(self) -> tuple[int, int]:
        """Sorts settings by the GPU memory of their slots, then by adapters in host memory."""
        slots = self.setting.max_loras * self.setting.max_lora_rank
        return slots, self.setting.served_adapters


class Searcher:
    """Candidates of one question, and simulations of them."""

    def __init__(
        self, question: Question, bundle: Bundle | None, workers: int | None = None
    ) -> None:
        self.question = question
        self.bundle = bundle
        self.twin = Twin()
        self.describer = Describer(question.server, self.twin)
        self.workers = workers or usable_cores()
        self.simulations = 0
        self._requested = self.describer.moments(question.traffic).requested

    def nominal(self, setting: Setting) -> float:
        """Tokens per second that the served adapters ask for: rate x mean lengths."""
        return self.question.traffic.rate_rps(setting.served_adapters) * self._requested

    def estimate(self) -> tuple[list[Candidate], list[Setting], list[str]]:
        """Every setting as the models see it.

        Returns
        -------
        candidates that can start, those that cannot, and why the models could not be asked about
        some of the candidates (they carry the mean-field estimate instead).
        """
        question = self.question
        x = self.describer.features(question.traffic, question.settings, question.duration_s)
        starts = ~_missing(x)
        answers = self._models(x)
        candidates: list[Candidate] = []
        reasons: dict[str, str] = {}
        for index, setting in enumerate(question.settings):
            if not starts[index]:
                continue
            why = self._why_not(x[index])
            if why:
                guess = self._mean_field(setting, x[index])
                candidates.append(guess)
                if guess.failing < 1.0:  # far beyond the edge nobody need be asked
                    for reason in why:
                        reasons.setdefault(reason.split()[0], reason)
            else:
                candidates.append(self._from_models(setting, answers, index))
        stuck = [s for s, ok in zip(question.settings, starts, strict=True) if not ok]
        return candidates, stuck, list(reasons.values())

    def verify(
        self, candidates: Sequence[Candidate], held: Sequence[Candidate] = ()
    ) -> list[Candidate]:
        """Simulate the promising ones, best first, until no other can beat what was found.

        `held` are simulated already.

        Throughput never exceeds the offered load, so that a setting whose load is below the best
        verified throughput (less a tie) needs no simulation.
        """
        waiting = sorted(
            (item for item in candidates if item.failing < _HOPELESS),
            key=lambda item: (-item.throughput, item.memory),
        )
        done: list[Candidate] = []
        best = max((item.throughput for item in held if item.feasible), default=0.0)
        while waiting and len(done) < _MOST_SIMULATED:
            waiting = [
                item for item in waiting if self.nominal(item.setting) >= (1.0 - 2 * TIE) * best
            ]
            batch, waiting = waiting[:_BATCH], waiting[_BATCH:]
            done += self.simulate(item.setting for item in batch)
            best = max([best, *(item.throughput for item in done if item.feasible)])
        return done

    def simulate(self, settings: Iterable[Setting], seed: int = 0) -> list[Candidate]:
        """The twin's own candidates, in order; settings that cannot start are left out."""
        question, objective = self.question, self.question.objective
        listed = list(settings)
        specs = [
            self.twin.spec_json(
                self.describer.configured(setting),
                question.traffic.workload(setting.served_adapters, question.duration_s),
                seed=seed,
                ttft_slo_ms=objective.ttft_ms,
                tpot_slo_ms=objective.tpot_ms,
            )
            for setting in listed
        ]
        columns = _core.simulate_many(self.twin.library, specs, self.workers)
        self.simulations += len(listed)
        names = [name for name in columns if name not in ("status", "error")]
        found = []
        for index, setting in enumerate(listed):
            metrics = {name: columns[name][index] for name in names}
            if columns["status"][index] == "failed":
                raise PytwinError(str(columns["error"][index]))
            if columns["status"][index] == "ok":
                found.append(self._simulated(setting, metrics))
        return found

    def certainty(self, setting: Setting, *, seeds: int, draws: int, level: float) -> Certainty:
        """What a real server would do, under the profile's uncertainty."""
        question, objective = self.question, self.question.objective
        prediction = predict(
            self.describer.configured(setting),
            question.traffic.workload(setting.served_adapters, question.duration_s),
            seeds=seeds,
            draws=draws,
            level=level,
            workers=self.workers,
            ttft_slo_ms=objective.ttft_ms,
            tpot_slo_ms=objective.tpot_ms,
        )
        self.simulations += seeds + draws
        line = question.starved_below * self.nominal(setting)
        risk = 1.0 - prediction.probability_above("total_throughput", line)
        if objective.name == "slo":
            late = prediction.probability_above("worst_group_mean_ttft_ms", objective.ttft_ms)
            slow = prediction.probability_above("worst_group_mean_tpot_ms", objective.tpot_ms)
            risk = max(risk, late, slow)
        return Certainty(prediction, risk)

    def _models(self, x: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        return {} if self.bundle is None else self.bundle.predict(x)

    def _why_not(self, row: NDArray[np.float64]) -> list[str]:
        """Why the models cannot answer for a row of features; empty if they can."""
        name = self.describer.profile.name
        if self.bundle is None:
            return ["no models are at hand"]
        if name not in self.bundle.document["profiles"]:
            return [f"profile {name} is none that the models were trained on"]
        trained = self.bundle.document["duration_s"]
        if self.question.duration_s != trained:
            return [f"horizon {self.question.duration_s:g} s, trained on {trained:g} s"]
        return self.bundle.outside(row)

    def _from_models(
        self, setting: Setting, answers: dict[str, NDArray[np.float64]], index: int
    ) -> Candidate:
        failing = float(answers["starved"][index])
        if self.question.objective.name == "slo":
            failing = max(failing, float(answers["slo_missed"][index]))
        share = float(answers["served_share"][index])
        return Candidate(
            setting,
            # Of the nominal load, as the label is; what is offered is less by early ends.
            throughput=share * self.nominal(setting),
            served_share=share,
            failing=failing,
            source="models",
            tpot_ms=float(answers["tpot_ms"][index]),
            ttft_ms=float(answers["ttft_ms"][index]),
        )

    def _mean_field(self, setting: Setting, row: NDArray[np.float64]) -> Candidate:
        """The estimate alone, believed only where it is far from the edge."""
        value = dict(zip(self.describer.names, row.tolist(), strict=True))
        share = value["served_share"]
        hopeless = value["utilisation"] > _ESTIMATE_HOPELESS or share < _ESTIMATE_SHARE
        return Candidate(
            setting,
            throughput=share * self.nominal(setting),
            served_share=share,
            failing=1.0 if hopeless else 0.5,
            source="mean field",
            tpot_ms=value["step_ms"],
            ttft_ms=value["first_token_ms"],
        )

    def _simulated(self, setting: Setting, metrics: dict[str, Any]) -> Candidate:
        question = self.question
        share = metrics["total_throughput"] / self.nominal(setting)
        failing = share <= question.starved_below
        if question.objective.name == "slo":
            failing = failing or metrics["adapters_in_groups_missing_slo"] > 0
        return Candidate(
            setting,
            throughput=metrics["total_throughput"],
            served_share=share,
            failing=float(failing),
            source="twin",
            tpot_ms=_number(metrics["mean_tpot_ms"]),
            ttft_ms=_number(metrics["mean_ttft_ms"]),
            metrics=metrics,
        )


@dataclass(frozen=True)
class Certainty:
    """A prediction with the probability that the objective's rule is broken."""

    prediction: Prediction
    risk: float


def ties(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Feasible settings within 1 % of the best throughput, cheapest in GPU memory first."""
    feasible = [item for item in candidates if item.feasible]
    best = max((item.throughput for item in feasible), default=0.0)
    equal = [item for item in feasible if item.throughput >= (1.0 - TIE) * best]
    return sorted(equal, key=lambda item: (item.memory, -item.throughput))


def _missing(x: NDArray[np.float64]) -> NDArray[np.bool_]:
    import numpy as np

    return np.asarray(np.isnan(x).any(axis=1))


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
