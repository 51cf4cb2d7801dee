"""Which adapters of a fleet fit on one server, and how to set it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pytwin.config import EngineConfig
from pytwin.errors import WorkloadError
from pytwin.learn.answer import Recommendation
from pytwin.learn.bundle import Bundle, load_bundle
from pytwin.learn.describe import Setting, Traffic
from pytwin.learn.question import Objective, Question, check_rates, grid
from pytwin.learn.recommend import recommend
from pytwin.workload import Adapters
from pytwin.workload.lengths import LengthLaw

_STEPS = 10


@dataclass(frozen=True)
class FleetAnswer:
    """The adapters that one server can hold.

    Attributes
    ----------
    answer: the recommendation for them.
    fitting, left_out: names, most requested first.
    """

    answer: Recommendation
    fitting: tuple[str, ...]
    left_out: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The recommendation, with the names."""
        return self.answer.to_dict() | {
            "adapters": list(self.fitting),
            "left_out": list(self.left_out),
        }


@dataclass(frozen=True)
class _Member:
    name: str
    rate_rps: float
    rank: int
    lengths: LengthLaw | None


def recommend_fleet(
    server: EngineConfig,
    adapters: Adapters,
    *,
    slots: tuple[int, ...],
    lengths: LengthLaw,
    objective: Objective | None = None,
    duration_s: float = 3600.0,
    models: str | Bundle | None = "best",
    verify: bool = True,
    workers: int | None = None,
    base_rate_rps: float = 0.0,
    max_lora_rank: int | None = None,
) -> FleetAnswer:
    """The adapters to serve together for the highest throughput that holds the objective.

    Everything is tried first. Else adapters are taken by falling rate: for one throughput that is
    the fewest adapters, and thus the cheapest steps. High ranks widen every slot, so that each
    limit of the rank is tried; adapters above it are left out. The number taken is found on a grid,
    then between its points; of numbers that tie the largest, so that no adapter is left out for
    being asked for rarely. `slots` above the number taken are cut to it.

    Raises
    ------
    PytwinError: no adapters, rates of zero, a rank above vLLM's largest; one line.
    """
    members = _members(adapters)
    check_rates([member.rate_rps for member in members])
    if max_lora_rank is not None:
        too_wide = [member for member in members if member.rank > max_lora_rank]
        if too_wide:
            raise WorkloadError(
                f"rank ({too_wide[0].rank}) of adapter {too_wide[0].name} must be <= "
                f"max_lora_rank ({max_lora_rank}): raise it"
            )
    bundle = load_bundle(models) if isinstance(models, str) else models
    best: tuple[Recommendation, list[_Member]] | None = None
    for limit in sorted({member.rank for member in members}, reverse=True):
        narrow = sorted(
            (member for member in members if member.rank <= limit),
            key=lambda member: (-member.rate_rps, member.name),
        )
        if best is not None and _serves_all(best[0], members):
            break
        traffic = Traffic(
            tuple(member.rate_rps for member in narrow),
            tuple(member.rank for member in narrow),
            lengths,
            base_rate_rps,
            own_lengths=tuple(member.lengths for member in narrow),
        )
        found = _largest(
            Question(
                server,
                traffic,
                _settings(traffic, [len(narrow)], slots, max_lora_rank),
                objective or Objective(),
                duration_s,
            ),
            bundle,
            verify=verify,
            workers=workers,
            max_lora_rank=max_lora_rank,
            slots=slots,
        )
        if best is None or _throughput(found) > _throughput(best[0]):
            best = found, narrow
    if best is None:
        raise WorkloadError("adapters ([]) must hold at least one adapter")
    answer, order = best
    count = 0 if answer.best is None else answer.best.setting.served_adapters
    fitting = {member.name for member in order[:count]}
    names = [member.name for member in sorted(members, key=lambda m: (-m.rate_rps, m.name))]
    return FleetAnswer(
        answer,
        tuple(name for name in names if name in fitting),
        tuple(name for name in names if name not in fitting),
    )


def _largest(
    question: Question,
    bundle: Bundle | None,
    *,
    verify: bool,
    workers: int | None,
    max_lora_rank: int | None,
    slots: tuple[int, ...],
) -> Recommendation:
    """All adapters of the question; else the best of a grid and of what lies between."""
    simulations = 0

    def asked(counts: list[int]) -> Recommendation:
        nonlocal simulations
        settings = _settings(question.traffic, counts, slots, max_lora_rank)
        found = recommend(
            replace(question, settings=settings), models=bundle, verify=verify, workers=workers
        )
        simulations += found.simulations
        return found

    everything = len(question.traffic.rates_rps)
    found = asked([everything])
    counts = [count for count in _counts(1, everything) if count < everything]
    if found.best is None and counts:
        found = asked(counts)
        if found.best is not None:
            served = found.best.setting.served_adapters
            beyond = min(count for count in (*counts, everything) if count > served)
            if beyond > served + 1:
                fine = asked(_counts(served + 1, beyond - 1))
                found = max(found, fine, key=_throughput)
            found = _most_served(found, asked)
    return replace(found, simulations=simulations)


def _most_served(
    found: Recommendation, asked: Callable[[list[int]], Recommendation]
) -> Recommendation:
    """Of settings that tie in throughput, the safe one with the most adapters."""
    served = 0 if found.best is None else found.best.setting.served_adapters
    larger = {item.setting.served_adapters for item in found.equivalent}
    for count in sorted((count for count in larger if count > served), reverse=True):
        again = asked([count])
        if again.best is not None:
            return again
    return found


def _serves_all(found: Recommendation, members: list[_Member]) -> bool:
    return found.best is not None and found.best.setting.served_adapters == len(members)


def _settings(
    traffic: Traffic, counts: list[int], slots: tuple[int, ...], max_lora_rank: int | None
) -> tuple[Setting, ...]:
    """Candidates with so many adapters, each with the slots that so many can use."""
    return tuple(
        setting
        for count in counts
        for setting in grid(traffic, [count], _widths(slots, count), max_lora_rank)
    )


def _counts(low: int, high: int) -> list[int]:
    """Up to ten whole numbers from low to high, high among them."""
    if high - low < _STEPS:
        return list(range(low, high + 1))
    return sorted({round(low + (high - low) * k / _STEPS) for k in range(1, _STEPS + 1)})


def _widths(slots: tuple[int, ...], served: int) -> list[int]:
    """Slots that so many adapters can use; one per adapter where all asked about are more."""
    return [width for width in slots if width <= served] or [min(served, *slots)]


def _throughput(found: Recommendation) -> float:
    return 0.0 if found.best is None else found.best.throughput


def _members(adapters: Adapters) -> list[_Member]:
    names = adapters.names or tuple(str(number) for number in range(1, adapters.count + 1))
    laws = [group.lengths for group in adapters.groups for _ in range(group.count)]
    return [
        _Member(*fields)
        for fields in zip(names, adapters.rates_rps, adapters.ranks, laws, strict=True)
    ]
