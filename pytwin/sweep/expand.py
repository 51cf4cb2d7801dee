"""From a specification to rows, by row number: a million rows never exist at once."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pytwin.config import LORA_RANKS
from pytwin.errors import ConfigError
from pytwin.sweep.designs import draw
from pytwin.sweep.keys import KEYS, Key
from pytwin.sweep.spec import Random, SweepSpec, default_part_rows, seed_values
from pytwin.sweep.where import Where

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Row = dict[str, Any]

_MOST_ROWS = 1_000_000_000
# Rows under `where` are found once and kept as 8-byte numbers: 400 MB at this bound.
_MOST_FILTERED = 50_000_000
# Names of parts have six digits.
_MOST_PARTS = 1_000_000


class Axis(ABC):
    """One dimension of the product: `size` points, each giving values to some keys."""

    names: tuple[str, ...]
    size: int

    @abstractmethod
    def put(self, index: int, row: Row) -> None:
        """Write point `index` into `row`."""

    @abstractmethod
    def values_of(self, name: str) -> set[Any]:
        """Every value that a key of hashable values takes."""


class _Points(Axis):
    """Points written out in the spec."""

    def __init__(self, points: Sequence[Row]) -> None:
        self._points = points
        self.size = len(points)
        self.names = tuple(dict.fromkeys(name for point in points for name in point))

    def put(self, index: int, row: Row) -> None:
        row.update(self._points[index])

    def values_of(self, name: str) -> set[Any]:
        return {point[name] for point in self._points if point.get(name) is not None}


class _Values(Axis):
    """Values of one key; a range is not written out."""

    def __init__(self, name: str, values: Sequence[Any]) -> None:
        self._name = name
        self._values = values
        self.size = len(values)
        self.names = (name,)

    def put(self, index: int, row: Row) -> None:
        row[self._name] = self._values[index]

    def values_of(self, name: str) -> set[Any]:
        return {value for value in self._values if value is not None}


class _RandomPoints(Axis):
    """A random design, held as one array per key."""

    def __init__(self, random: Random) -> None:
        self.size = random.n
        self.names = tuple(random.ranges)
        self._columns = [
            (KEYS[name], law, draw(random, name)) for name, law in random.ranges.items()
        ]

    def put(self, index: int, row: Row) -> None:
        for key, law, drawn in self._columns:
            value = drawn[index].item()
            row[key.name] = law.values[value] if law.values else _as_kind(key, value)

    def values_of(self, name: str) -> set[Any]:
        drawn = next(column for column in self._columns if column[0].name == name)
        return set(drawn[1].values or drawn[2].tolist())


def _as_kind(key: Key, value: float) -> Any:
    if key.kind in ("int", "ints"):
        return [int(value)] if key.kind == "ints" else int(value)
    return [value] if key.kind == "floats" else value


def _range_point(key: Key, value: float) -> Any:
    if key.kind in ("int", "ints") and not value.is_integer():
        raise ConfigError(f"range: {key.name} ({value:g}) must be a whole number: choose the step")
    return _as_kind(key, value)


class Design:
    """The rows of a specification, in their order.

    The last axis turns fastest: list, random, range, grid, seeds. Every row has the same keys.

    Attributes
    ----------
    n_rows: rows kept.
    columns: the keys that rows hold, in the order of the result.
    part_rows: rows per part.

    Raises
    ------
    ConfigError: no row, too many rows, links in a circle, `where` over a key that no row has.
    """

    def __init__(self, spec: SweepSpec) -> None:
        self.spec = spec
        self._axes: list[Axis] = []
        if spec.list:
            self._axes.append(_Points(spec.list))
        if spec.random is not None:
            self._axes.append(_RandomPoints(spec.random))
        for name, values in spec.range.items():
            key = KEYS[name]
            points = [_range_point(key, value) for value in values.values()]
            self._axes.append(_Values(name, points))
        self._axes.extend(_Values(name, listed) for name, listed in spec.grid.items())
        self._axes.append(_Values("seed", seed_values(spec)))
        self._links = _in_order(spec.link)
        varied = {name for axis in self._axes for name in axis.names}
        held = varied | set(spec.base) | set(spec.link) | {"max_lora_rank"}
        if "max_loras" in held:
            held.add("max_cpu_loras")
        self.columns = [KEYS[name] for name in KEYS if name in held]
        for target, origin in self._links:
            if origin not in held:
                raise ConfigError(f"link: {target} takes {origin}, which nothing sets: set it")
        self._size = math.prod(axis.size for axis in self._axes)
        if self._size > _MOST_ROWS:
            raise ConfigError(
                f"the sweep has {self._size:,} rows, at most {_MOST_ROWS:,}: split it"
            )
        self._kept = None if spec.where is None else self._filter(Where(spec.where), held)
        self.n_rows = self._size if self._kept is None else len(self._kept)
        if self.n_rows == 0:
            raise ConfigError(f"where ({spec.where}) keeps none of {self._size:,} rows: relax it")
        durations = [row.get("duration_s") for row in self.rows(0, 1)]
        fewest = -(-self.n_rows // _MOST_PARTS)
        self.part_rows = spec.part_rows or max(fewest, default_part_rows(durations[0] or 3600.0))
        if self.part_rows < fewest:
            raise ConfigError(
                f"part_rows ({self.part_rows}) must be >= {fewest} for {self.n_rows:,} rows: "
                f"at most {_MOST_PARTS:,} parts"
            )

    @property
    def n_parts(self) -> int:
        """How many parts the rows make."""
        return -(-self.n_rows // self.part_rows)

    def part_range(self, part: int) -> tuple[int, int]:
        """First row of a part, and the row after its last."""
        start = part * self.part_rows
        return start, min(start + self.part_rows, self.n_rows)

    def rows(self, start: int, stop: int) -> Iterator[Row]:
        """Rows start to stop - 1; keys left out are None, or worked out."""
        for position in range(start, stop):
            index = position if self._kept is None else int(self._kept[position])
            yield self._row(index)

    def values_of(self, name: str) -> set[Any]:
        """Every value that a key of hashable values takes in some row, `where` aside."""
        name = dict(self._links).get(name, name)
        values = {self.spec.base[name]} if self.spec.base.get(name) is not None else set()
        return values.union(*(axis.values_of(name) for axis in self._axes if name in axis.names))

    def _row(self, index: int) -> Row:
        row: Row = {key.name: None for key in self.columns}
        row.update(self.spec.base)
        for axis in reversed(self._axes):
            index, point = divmod(index, axis.size)
            axis.put(point, row)
        for target, origin in self._links:
            row[target] = KEYS[target].coerce(row[origin], "link")
        if row["max_lora_rank"] is None:
            row["max_lora_rank"] = _least_rank(row.get("ranks"))
        if row.get("max_cpu_loras") is None and "max_loras" in row:
            row["max_cpu_loras"] = row["max_loras"]
        return row

    def _filter(self, where: Where, held: set[str]) -> NDArray[np.int64]:
        """Numbers of the rows that `where` keeps: evaluated once per combination it can see."""
        import numpy as np

        for name in where.names:
            if name not in held:
                raise ConfigError(f"where reads {name}, which nothing sets: set it in base")
        if self._size > _MOST_FILTERED:
            raise ConfigError(
                f"where would go through {self._size:,} rows, at most {_MOST_FILTERED:,}: "
                "split the sweep"
            )
        seen = _sources(where.names, self._links)
        sizes = [axis.size for axis in self._axes]
        relevant = [bool(seen.intersection(axis.names)) for axis in self._axes]
        shape = [size if used else 1 for size, used in zip(sizes, relevant, strict=True)]
        strides = [math.prod(sizes[place + 1 :]) for place in range(len(sizes))]
        mask = np.empty(math.prod(shape), dtype=bool)
        for flat in range(mask.size):
            index, rest = 0, flat
            for place in reversed(range(len(shape))):
                rest, point = divmod(rest, shape[place])
                index += point * strides[place]
            mask[flat] = where(self._row(index))
        everywhere = np.broadcast_to(mask.reshape(shape), sizes)
        kept: NDArray[np.int64] = np.flatnonzero(everywhere)
        return kept


def _sources(names: set[str], links: list[tuple[str, str]]) -> set[str]:
    """The keys that decide the value of these keys."""
    seen = set(names)
    # Left out, these two are worked out from others.
    if "max_lora_rank" in seen:
        seen.add("ranks")
    if "max_cpu_loras" in seen:
        seen.add("max_loras")
    for target, origin in reversed(links):
        if target in seen:
            seen.add(origin)
    return seen


def _in_order(link: dict[str, str]) -> list[tuple[str, str]]:
    """Links such that each origin is ready before it is read."""
    ordered: list[tuple[str, str]] = []
    waiting = dict(link)
    while waiting:
        ready = [target for target, origin in waiting.items() if origin not in waiting]
        if not ready:
            raise ConfigError(f"link: {', '.join(waiting)} take their values from each other")
        ordered.extend((target, waiting.pop(target)) for target in ready)
    return ordered


def _least_rank(ranks: Any) -> int:
    """The smallest max_lora_rank that vLLM accepts for these ranks; 16 without adapters."""
    highest = max(ranks, default=16) if ranks else 16
    return next((rank for rank in LORA_RANKS if rank >= highest), LORA_RANKS[-1])
