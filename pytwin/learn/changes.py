"""Changes of traffic that what-if questions ask about.

Each is a function of a workload: `pt.viral(1, 10)(traffic)` is the workload in which adapter 1 is
asked for ten times as often. Every adapter draws from random streams of its own, numbered as the
adapter, so that the requests of the adapters that a change does not name stay the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pytwin.errors import WorkloadError
from pytwin.workload import Adapters, GeneratedWorkload, Workload
from pytwin.workload.adapter_set import AdapterGroup
from pytwin.workload.checks import non_negative, positive, whole
from pytwin.workload.lengths import LengthLaw


@dataclass(frozen=True)
class MoreAdapters:
    """Adapters are added behind the others; see `more_adapters`."""

    count: int
    rate_rps: float
    rank: int
    lengths: LengthLaw | None = None

    def __call__(self, traffic: Workload) -> GeneratedWorkload:
        given = _generated(traffic)
        group = AdapterGroup(self.count, (self.rate_rps,), (self.rank,), self.lengths)
        names = given.adapters.names
        if names is not None:
            taken, number = set(names), given.adapters.count
            fresh: list[str] = []
            while len(fresh) < self.count:
                number += 1
                if f"new-{number}" not in taken:
                    fresh.append(f"new-{number}")
            names = (*names, *fresh)
        return replace(given, adapters=Adapters((*given.adapters.groups, group), names))

    def __str__(self) -> str:
        return f"{self.count} more of {self.rate_rps:g} requests/s and rank {self.rank}"


@dataclass(frozen=True)
class Viral:
    """One adapter's rate is multiplied; see `viral`."""

    adapter: int | str
    factor: float

    def __call__(self, traffic: Workload) -> GeneratedWorkload:
        given = _generated(traffic)
        index = _index(given.adapters, self.adapter)
        rates = given.adapters.rates_rps
        rates[index] *= self.factor
        return _checked(replace(given, adapters=_with(given.adapters, rates_rps=rates)))

    def __str__(self) -> str:
        return f"adapter {self.adapter} asked for {self.factor:g} times as often"


@dataclass(frozen=True)
class NewRank:
    """One adapter gets another rank; see `new_rank`."""

    adapter: int | str
    rank: int

    def __call__(self, traffic: Workload) -> GeneratedWorkload:
        given = _generated(traffic)
        index = _index(given.adapters, self.adapter)
        ranks = given.adapters.ranks
        ranks[index] = self.rank
        return replace(given, adapters=_with(given.adapters, ranks=ranks))

    def __str__(self) -> str:
        return f"adapter {self.adapter} of rank {self.rank}"


@dataclass(frozen=True)
class Busier:
    """Every rate is multiplied; see `busier`."""

    factor: float

    def __call__(self, traffic: Workload) -> GeneratedWorkload:
        given = _generated(traffic)
        scaled = given.adapters.scaled(self.factor)
        base = given.base_rate_rps * self.factor
        return _checked(replace(given, adapters=scaled, base_rate_rps=base))

    def __str__(self) -> str:
        return f"all traffic times {self.factor:g}"


def more_adapters(
    count: int = 1, *, rate_rps: float, rank: int = 16, lengths: LengthLaw | None = None
) -> MoreAdapters:
    """`count` more adapters, each of `rate_rps` requests/s; `lengths` None: the workload's."""
    return MoreAdapters(
        whole("count", count, least=1, most=1_000_000),
        non_negative("rate_rps", rate_rps),
        whole("rank", rank, least=1, most=512),
        lengths,
    )


def viral(adapter: int | str, factor: float) -> Viral:
    """One adapter (its number from 1, or its name) is asked for `factor` times as often."""
    return Viral(_adapter(adapter), non_negative("factor", factor))


def new_rank(adapter: int | str, rank: int) -> NewRank:
    """One adapter (its number from 1, or its name) gets another rank."""
    return NewRank(_adapter(adapter), whole("rank", rank, least=1, most=512))


def busier(factor: float) -> Busier:
    """All traffic, the base model's too, times `factor`."""
    return Busier(positive("factor", factor))


def _adapter(given: object) -> int | str:
    return given if isinstance(given, str) else whole("adapter", given, least=1)


def _generated(traffic: Workload) -> GeneratedWorkload:
    if not isinstance(traffic, GeneratedWorkload):
        raise WorkloadError(
            "a replayed trace (Workload.replay) cannot be changed: give the changed trace as "
            "change=pt.Workload.replay(...)"
        )
    if traffic.total_requests is not None:
        raise WorkloadError(
            f"total_requests ({traffic.total_requests}) must be None for a change of traffic: a "
            "fixed total takes from one adapter what another gets"
        )
    return traffic


def _checked(traffic: GeneratedWorkload) -> GeneratedWorkload:
    if traffic.total_rate_rps <= 0:
        raise WorkloadError("total rate (0) must be > 0 after the change: raise factor")
    return traffic


def _index(adapters: Adapters, adapter: int | str) -> int:
    """Position of an adapter given by its number or name."""
    if isinstance(adapter, int):
        if adapter > adapters.count:
            raise WorkloadError(
                f"adapter ({adapter}) must be from 1 to {adapters.count}, the adapters of the "
                "traffic"
            )
        return adapter - 1
    if adapters.names is None:
        raise WorkloadError(f"adapter ({adapter}) must be a number: the adapters have no names")
    if adapter not in adapters.names:
        known = ", ".join(adapters.names[:5])
        raise WorkloadError(f"adapter ({adapter}) must be one of the traffic's: {known}, ...")
    return adapters.names.index(adapter)


def _with(
    adapters: Adapters, *, rates_rps: list[float] | None = None, ranks: list[int] | None = None
) -> Adapters:
    """The same adapters with other rates or ranks, one per adapter."""
    rates = adapters.rates_rps if rates_rps is None else rates_rps
    widths = adapters.ranks if ranks is None else ranks
    groups, start = [], 0
    for group in adapters.groups:
        end = start + group.count
        groups.append(
            replace(group, rates_rps=tuple(rates[start:end]), ranks=tuple(widths[start:end]))
        )
        start = end
    return Adapters(tuple(groups), adapters.names)
