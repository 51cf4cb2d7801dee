"""The adapters of a server: how often each is asked for, and its rank."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

from pytwin.errors import DataError, WorkloadError
from pytwin.workload.checks import non_negative, positive, ranks, rates, whole
from pytwin.workload.lengths import ConstantLengths, LengthLaw

_MAX_ADAPTERS = 1_000_000


@dataclass(frozen=True)
class AdapterGroup:
    """`count` adapters over which rates and ranks are cycled; `lengths` None: the workload's.

    `streams` names the random stream that each adapter's requests are drawn from; empty: its
    number among all adapters.
    """

    count: int
    rates_rps: tuple[float, ...]
    ranks: tuple[int, ...]
    lengths: LengthLaw | None = None
    streams: tuple[int, ...] = ()


@dataclass(frozen=True)
class Adapters:
    """Adapters 1 .. count, in order of their groups; `+` joins two sets."""

    groups: tuple[AdapterGroup, ...] = ()
    names: tuple[str, ...] | None = None

    @property
    def count(self) -> int:
        """Number of adapters."""
        return sum(group.count for group in self.groups)

    @property
    def rates_rps(self) -> list[float]:
        """Rate of each adapter in requests per second."""
        return [rate for group in self.groups for rate in _cycled(group.rates_rps, group.count)]

    @property
    def ranks(self) -> list[int]:
        """Rank of each adapter."""
        return [rank for group in self.groups for rank in _cycled(group.ranks, group.count)]

    @property
    def total_rate_rps(self) -> float:
        """Sum of the rates, in requests per second."""
        return float(sum(self.rates_rps))

    def scaled(self, factor: float) -> Adapters:
        """The same adapters with every rate times `factor`."""
        by = non_negative("factor", factor)
        groups = tuple(
            replace(group, rates_rps=tuple(rate * by for rate in group.rates_rps))
            for group in self.groups
        )
        return replace(self, groups=groups)

    def subset(self, positions: Iterable[int]) -> Adapters:
        """Some of the adapters, by position from 0, with the requests that they have in the whole.

        An adapter of the subset draws from the random stream of its number here: under one seed
        its arrivals and lengths are those that it has when all are served together.

        Raises
        ------
        WorkloadError: a position outside the set.
        """
        members = [
            AdapterGroup(1, (rate,), (rank,), group.lengths, (stream,))
            for group, first in zip(self.groups, self._firsts(), strict=False)
            for rate, rank, stream in zip(
                _cycled(group.rates_rps, group.count),
                _cycled(group.ranks, group.count),
                group.streams or range(first, first + group.count),
                strict=True,
            )
        ]
        taken = [whole("position", position, least=0) for position in positions]
        for position in taken:
            if position >= len(members):
                raise WorkloadError(
                    f"position ({position}) must be < {len(members)}, the number of adapters"
                )
        names = self.names and tuple(self.names[position] for position in taken)
        return Adapters(tuple(_merged([members[position] for position in taken])), names)

    def _firsts(self) -> Iterable[int]:
        """Number of each group's first adapter."""
        return itertools.accumulate((group.count for group in self.groups), initial=1)

    def __len__(self) -> int:
        return self.count

    def __add__(self, other: Adapters) -> Adapters:
        names = None
        if self.names is not None and other.names is not None:
            names = self.names + other.names
        return Adapters(self.groups + other.groups, names)


NO_ADAPTERS = Adapters()


def adapters(
    n: int,
    rates_rps: float | Iterable[float],
    ranks: int | Iterable[int] = 16,
    *,
    lengths: LengthLaw | None = None,
) -> Adapters:
    """`n` adapters; rates (requests/s) and ranks are cycled over them.

    >>> adapters(4, rates_rps=[0.1, 0.05], ranks=[8, 16]).rates_rps
    [0.1, 0.05, 0.1, 0.05]
    """
    count = whole("adapters", n, least=0, most=_MAX_ADAPTERS)
    return _group(count, rates("rates_rps", rates_rps), ranks, lengths)


def adapters_zipf(
    n: int,
    *,
    total_rate_rps: float,
    exponent: float = 1.0,
    ranks: int | Iterable[int] = 16,
    lengths: LengthLaw | None = None,
) -> Adapters:
    """`n` adapters whose rates fall as 1/k**exponent and sum to `total_rate_rps` requests/s."""
    count = whole("adapters", n, least=1, most=_MAX_ADAPTERS)
    power = non_negative("exponent", exponent)
    popularity = [k**-power for k in range(1, count + 1)]
    return adapters_by_popularity(
        popularity, total_rate_rps=total_rate_rps, ranks=ranks, lengths=lengths
    )


def adapters_by_popularity(
    popularity: Sequence[float],
    *,
    total_rate_rps: float,
    ranks: int | Iterable[int] = 16,
    lengths: LengthLaw | None = None,
) -> Adapters:
    """One adapter per share in `popularity`; the rates sum to `total_rate_rps` requests/s."""
    shares = [non_negative("popularity", share) for share in popularity]
    whole_rate = positive("total_rate_rps", total_rate_rps)
    total = sum(shares)
    if not total > 0:
        raise WorkloadError("popularity must hold a positive share")
    return _group(
        len(shares), tuple(whole_rate * share / total for share in shares), ranks, lengths
    )


def adapters_from_csv(path: str | PathLike[str]) -> Adapters:
    """Adapters from a CSV file: adapter, rate_rps, rank, optional prompt_tokens, output_tokens.

    One line per adapter; names must differ; the two optional columns give an adapter constant
    lengths of its own (both, or neither).

    Raises
    ------
    DataError: an unreadable file or a missing column.
    WorkloadError: a value out of its range, with its line.
    """
    rows = _read_csv(path)
    groups: list[AdapterGroup] = []
    names: list[str] = []
    seen: set[str] = set()
    for line, row in enumerate(rows, start=2):
        name = (row.get("adapter") or "").strip()
        if not name or name in seen:
            rule = "must differ from those before it" if name else "must not be empty"
            raise WorkloadError(f"{path}, line {line}: adapter ({name!r}) {rule}")
        seen.add(name)
        names.append(name)
        try:
            rate = non_negative("rate_rps", _number(row.get("rate_rps")))
            rank = whole("rank", _number(row.get("rank")), least=1, most=512)
            groups.append(AdapterGroup(1, (rate,), (rank,), _row_lengths(row)))
        except WorkloadError as error:
            raise WorkloadError(f"{path}, line {line}: {error}") from None
    if not names:
        raise DataError(f"{path} holds no adapter: one line each below adapter,rate_rps,rank")
    return Adapters(tuple(_merged(groups)), tuple(names))


def _group(
    count: int,
    rates_rps: tuple[float, ...],
    given_ranks: int | Iterable[int],
    lengths: LengthLaw | None,
) -> Adapters:
    group = AdapterGroup(count, rates_rps, ranks("ranks", given_ranks), lengths)
    return Adapters((group,) if count else ())


def _cycled(values: Sequence[Any], count: int) -> Iterable[Any]:
    return itertools.islice(itertools.cycle(values), count)


def _read_csv(path: str | PathLike[str]) -> list[dict[str, str]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = [name.strip() for name in reader.fieldnames or []]
            missing = [name for name in ("adapter", "rate_rps", "rank") if name not in header]
            if missing:
                raise DataError(
                    f"{path} lacks column {missing[0]}: expected adapter, rate_rps, rank and "
                    "optionally prompt_tokens, output_tokens"
                )
            reader.fieldnames = header
            return list(reader)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file: {error}") from None


def _number(text: str | None) -> object:
    try:
        return float(text or "")
    except ValueError:
        return (text or "").strip()


def _row_lengths(row: dict[str, str]) -> LengthLaw | None:
    prompt, output = (row.get("prompt_tokens") or ""), (row.get("output_tokens") or "")
    if not prompt.strip() and not output.strip():
        return None
    return ConstantLengths(
        whole("prompt_tokens", _number(prompt), least=1),
        whole("output_tokens", _number(output), least=1),
    )


def _merged(groups: list[AdapterGroup]) -> Iterable[AdapterGroup]:
    """Neighbours of equal lengths as one group: fewer, longer groups for the core."""
    for lengths, run in itertools.groupby(groups, key=lambda group: group.lengths):
        members = list(run)
        yield AdapterGroup(
            len(members),
            tuple(member.rates_rps[0] for member in members),
            tuple(member.ranks[0] for member in members),
            lengths,
            tuple(stream for member in members for stream in member.streams),
        )
