"""A workload: which requests arrive, when, for which adapter, how long."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import TYPE_CHECKING, Any

from pytwin.catalog import LengthTable, Profile
from pytwin.errors import WorkloadError
from pytwin.workload.adapter_set import NO_ADAPTERS, Adapters
from pytwin.workload.checks import non_negative, number, positive, ranks, whole
from pytwin.workload.lengths import LengthLaw, ShareGpt, as_length_law
from pytwin.workload.replay import Trace, read_trace

if TYPE_CHECKING:
    import polars as pl

Lengths = str | tuple[int, int] | LengthLaw

MAX_REQUESTS = 100_000_000
"""More requests than this in one simulation is a slip of the pen, not a workload."""


@dataclass(frozen=True)
class ResolvedWorkload:
    """A workload as the core reads it, with the tables and the trace that it needs.

    `document` is the "workload" of the core's JSON; `prompt_ranges` and `output_ranges` are the
    (least, greatest) tokens of each length law.
    """

    document: dict[str, Any]
    tables: tuple[LengthTable, ...] = ()
    trace: Trace | None = None
    prompt_ranges: tuple[tuple[float, float], ...] = ()
    output_ranges: tuple[tuple[float, float], ...] = ()


class Workload(ABC):
    """Traffic: made by one of the class methods below.

    At `duration_s` the client stops and cancels what is in flight; metrics cover the requests
    completed by then, over `duration_s`. `drain=True` waits for the rest instead.
    Each adapter and purpose draws from a random stream of its own, so that changing the server
    leaves the traffic unchanged.
    """

    duration_s: float

    @property
    @abstractmethod
    def adapter_ranks(self) -> list[int]:
        """Rank of each adapter, in order."""

    @property
    @abstractmethod
    def adapter_names(self) -> tuple[str, ...] | None:
        """Names of the adapters, where the source had them."""

    @abstractmethod
    def resolve(self, profile: Profile) -> ResolvedWorkload:
        """What the core reads, under this profile's tokenizer."""

    @staticmethod
    def poisson(
        *,
        adapters: Adapters | None = None,
        rate_rps: float | None = None,
        lengths: Lengths = "sharegpt",
        duration_s: float = 3600.0,
        total_requests: int | None = None,
        early_eos: float | None = None,
        drain: bool = False,
    ) -> GeneratedWorkload:
        """Independent Poisson arrivals per adapter.

        Parameters
        ----------
        adapters: with their rates and ranks (`pt.adapters`, `pt.adapters_from_csv`).
        rate_rps: requests per second for the base model, beside the adapters.
        lengths: "sharegpt", a (prompt_tokens, output_tokens) pair, or a law.
        duration_s: length of the run in seconds.
        total_requests: fixes the number of arrivals (Poisson conditioned on its count).
        early_eos: probability that a request stops before its output length, at a uniform
            position; the profile's measured law if left out.
        drain: wait at the end for the requests in flight.

        Raises
        ------
        WorkloadError: one line with the value, the rule and the way out.
        """
        law = {"law": "poisson"}
        return _generated(
            law, adapters, rate_rps, lengths, duration_s, total_requests, early_eos, drain
        )

    @staticmethod
    def gamma(
        *,
        burstiness: float,
        adapters: Adapters | None = None,
        rate_rps: float | None = None,
        lengths: Lengths = "sharegpt",
        duration_s: float = 3600.0,
        total_requests: int | None = None,
        early_eos: float | None = None,
        drain: bool = False,
    ) -> GeneratedWorkload:
        """Gamma inter-arrival times of shape `burstiness`, as `vllm bench serve --burstiness`.

        1 is Poisson, below 1 comes in bursts, above 1 is more even. Other parameters as
        `poisson`.
        """
        shape = positive("burstiness", burstiness)
        if not 0.01 <= shape <= 10_000:
            # Below, nearly all gaps underflow to nothing; above, arrivals are even: use constant.
            raise WorkloadError(f"burstiness ({burstiness}) must be from 0.01 to 10000")
        law = {"law": "gamma", "burstiness": shape}
        return _generated(
            law, adapters, rate_rps, lengths, duration_s, total_requests, early_eos, drain
        )

    @staticmethod
    def constant(
        *,
        adapters: Adapters | None = None,
        rate_rps: float | None = None,
        lengths: Lengths = "sharegpt",
        duration_s: float = 3600.0,
        total_requests: int | None = None,
        early_eos: float | None = None,
        drain: bool = False,
    ) -> GeneratedWorkload:
        """Evenly spaced arrivals per adapter; parameters as `poisson`."""
        law = {"law": "constant"}
        return _generated(
            law, adapters, rate_rps, lengths, duration_s, total_requests, early_eos, drain
        )

    @staticmethod
    def replay(
        source: str | PathLike[str] | pl.DataFrame,
        *,
        ranks: int | Iterable[int] | None = None,
        duration_s: float | None = None,
        drain: bool | None = None,
    ) -> ReplayWorkload:
        """Plays back a trace: arrival_s, adapter, prompt_tokens, output_tokens.

        Parameters
        ----------
        source: a CSV or Parquet file, or a Polars frame; adapter null or "" is the base model.
        ranks: cycled over the adapters in order of their first request; the trace's own column
            `rank` if left out, else 16.
        duration_s: when the client stops, in seconds. Left out: the last arrival, and the
            requests in flight are waited for.
        """
        trace = read_trace(source)
        given = _rank_list(ranks, trace)
        # Arrivals at duration_s itself come too late: a whole trace ends just after its last one.
        last = float(trace.arrival_s[-1]) + 1e-3
        until = last if duration_s is None else positive("duration_s", duration_s)
        waits = (duration_s is None) if drain is None else drain
        return ReplayWorkload(trace, tuple(given), until, waits)


@dataclass(frozen=True)
class GeneratedWorkload(Workload):
    """Random arrivals by law; see `Workload.poisson`."""

    arrivals: dict[str, Any]
    adapters: Adapters = NO_ADAPTERS
    base_rate_rps: float = 0.0
    lengths: LengthLaw = field(default_factory=ShareGpt)
    duration_s: float = 3600.0
    total_requests: int | None = None
    early_eos: float | None = None
    drain: bool = False

    @property
    def adapter_ranks(self) -> list[int]:
        return self.adapters.ranks

    @property
    def adapter_names(self) -> tuple[str, ...] | None:
        return self.adapters.names

    @property
    def total_rate_rps(self) -> float:
        """All arrivals, in requests per second."""
        return self.adapters.total_rate_rps + self.base_rate_rps

    def conditioned(self, count: int) -> GeneratedWorkload:
        """The same law given its number of arrivals: rates scaled, total fixed."""
        total = whole("count", count, least=1)
        factor = total / (self.total_rate_rps * self.duration_s)
        return replace(
            self,
            adapters=self.adapters.scaled(factor),
            base_rate_rps=self.base_rate_rps * factor,
            total_requests=total,
        )

    def resolve(self, profile: Profile) -> ResolvedWorkload:
        default = self.lengths.resolve(profile)
        used = [default]
        groups = []
        for group in self.adapters.groups:
            own = None if group.lengths is None else group.lengths.resolve(profile)
            if own is not None:
                used.append(own)
            groups.append(
                {
                    "count": group.count,
                    "rates_rps": list(group.rates_rps),
                    "ranks": list(group.ranks),
                    "lengths": None if own is None else own.document,
                    "streams": list(group.streams),
                }
            )
        early_eos = self.early_eos
        if early_eos is None:
            # A probability, or the law {"probability", "per_token"} that the core reads.
            early_eos = profile.data.get("early_eos", 0.0)
        document = {
            "kind": "generated",
            "duration_s": self.duration_s,
            "drain": self.drain,
            "adapters": groups,
            "base_rate_rps": self.base_rate_rps,
            "arrivals": self.arrivals,
            "lengths": default.document,
            "early_eos": early_eos,
            "total_requests": self.total_requests,
        }
        tables = tuple(law.table for law in used if law.table is not None)
        return ResolvedWorkload(
            document,
            tables,
            prompt_ranges=tuple(law.prompt_range for law in used),
            output_ranges=tuple(law.output_range for law in used),
        )


@dataclass(frozen=True, eq=False)
class ReplayWorkload(Workload):
    """A trace played back; see `Workload.replay`."""

    trace: Trace
    ranks: tuple[int, ...]
    duration_s: float
    drain: bool

    @property
    def adapter_ranks(self) -> list[int]:
        return list(self.ranks)

    @property
    def adapter_names(self) -> tuple[str, ...] | None:
        return self.trace.names

    def resolve(self, profile: Profile) -> ResolvedWorkload:
        document = {
            "kind": "replay",
            "trace": self.trace.name,
            "duration_s": self.duration_s,
            "drain": self.drain,
            "ranks": list(self.ranks),
        }
        prompt, output = (
            (float(tokens.min()), float(tokens.max()))
            for tokens in (self.trace.prompt_tokens, self.trace.output_tokens)
        )
        return ResolvedWorkload(
            document, trace=self.trace, prompt_ranges=(prompt,), output_ranges=(output,)
        )


def _generated(
    law: dict[str, Any],
    adapters: Adapters | None,
    rate_rps: float | None,
    lengths: Lengths,
    duration_s: float,
    total_requests: int | None,
    early_eos: float | None,
    drain: bool,
) -> GeneratedWorkload:
    given = NO_ADAPTERS if adapters is None else adapters
    if not isinstance(given, Adapters):
        raise WorkloadError(
            f"adapters ({given!r}) must come from pt.adapters(n, rates_rps, ranks) or "
            "pt.adapters_from_csv(path)"
        )
    base = 0.0 if rate_rps is None else non_negative("rate_rps", rate_rps)
    until = positive("duration_s", duration_s)
    if given.total_rate_rps + base <= 0:
        raise WorkloadError("total rate (0) must be > 0: give adapters with rates, or rate_rps")
    if total_requests is not None:
        total_requests = whole("total_requests", total_requests, least=1)
    expected = (given.total_rate_rps + base) * until if total_requests is None else total_requests
    if expected > MAX_REQUESTS:
        raise WorkloadError(
            f"duration_s ({until:g}) at {given.total_rate_rps + base:g} requests/s expects "
            f"{expected:.3g} requests, at most {MAX_REQUESTS:,}: shorten it or lower the rates"
        )
    if early_eos is not None and not 0 <= number("early_eos", early_eos) <= 1:
        raise WorkloadError(f"early_eos ({early_eos}) must be from 0 to 1: it is a probability")
    law_of_lengths = as_length_law(lengths)
    return GeneratedWorkload(
        law, given, base, law_of_lengths, until, total_requests, early_eos, drain
    )


def _rank_list(given: int | Iterable[int] | None, trace: Trace) -> list[int]:
    if given is None:
        return list(trace.ranks or [16] * len(trace.names))
    pattern = ranks("ranks", given)
    return [pattern[k % len(pattern)] for k in range(len(trace.names))]
