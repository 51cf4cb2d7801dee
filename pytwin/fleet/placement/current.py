"""Today's placement: read, compared, and kept where it can be."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from pytwin.errors import DataError
from pytwin.fleet.placement.baselines import Parts
from pytwin.fleet.placement.problem import Items, Problem

Current = str | PathLike[str] | Mapping[str, Any] | Sequence[Sequence[str]]
_FORM = '{"replicas": [{"adapters": ["name", ...]}, ...]}'


def read_current(current: Current) -> list[list[str]]:
    """Names per replica, of a plan (file or document) or of lists of names.

    Raises
    ------
    DataError: unreadable, malformed or empty; one line.
    """
    where = "current"
    document: Any = current
    if isinstance(current, (str, PathLike)):
        where = str(current)
        document = read_json(current)
    if isinstance(document, Mapping):
        replicas = document.get("replicas")
        if not isinstance(replicas, list):
            raise DataError(f"{where} is no plan: expected {_FORM}")
        document = [r.get("adapters") if isinstance(r, Mapping) else None for r in replicas]
    if not isinstance(document, Sequence) or isinstance(document, str):
        raise DataError(f"{where} is no plan: expected {_FORM}")
    for names in document:
        if (
            not isinstance(names, Sequence)
            or isinstance(names, str)
            or not all(isinstance(name, str) for name in names)
        ):
            raise DataError(f"{where} is no plan: expected {_FORM}")
    if not any(document):
        raise DataError(f"{where} places no adapter: leave out current for a first plan")
    return [list(names) for names in document]


def read_json(path: str | PathLike[str]) -> Any:
    """A JSON file.

    Raises
    ------
    DataError: one line.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is not JSON: {error}") from None


def as_parts(problem: Problem, names: Sequence[Sequence[str]]) -> Parts:
    """Today's sets of items; copies are numbered in the order of the replicas.

    Raises
    ------
    DataError: an unknown adapter, or one that is on more replicas than copies, or twice on one.
    """
    number = {name: position for position, name in enumerate(problem.names)}
    seen: dict[str, int] = {}
    parts = []
    for replica, held in enumerate(names):
        items = set()
        for name in held:
            if name not in number:
                raise DataError(
                    f"current names adapter {name}, which is none of the {len(number)} to place: "
                    "add it to the adapters, or take it out of the current placement"
                )
            if list(held).count(name) > 1:
                raise DataError(f"current has adapter {name} twice on replica {replica}")
            copy = seen.get(name, 0)
            seen[name] = copy + 1
            if copy < problem.copies:  # further copies are given up
                items.add(copy * problem.adapters.count + number[name])
        parts.append(frozenset(items))
    return tuple(parts)


def in_todays_order(parts: Parts, current: Parts, problem: Problem) -> tuple[Parts, list[Items]]:
    """The sets in the order of today's replicas that they resemble most, and what moves to each.

    Sets without a counterpart come last.
    """

    def adapters(items: Items) -> frozenset[int]:
        return frozenset(problem.adapter_of(item) for item in items)

    today = [adapters(part) for part in current]
    place = counterparts([adapters(part) for part in parts], today)
    order = sorted(range(len(parts)), key=lambda row: (place.get(row, len(today) + row), row))
    moved = []
    for row in order:
        kept = today[place[row]] if row in place else frozenset[int]()
        moved.append(frozenset(i for i in parts[row] if problem.adapter_of(i) not in kept))
    return tuple(parts[row] for row in order), moved


def moves_of(moved: Iterable[Items], current: Parts, problem: Problem) -> int:
    """Of what moves to each replica the adapters that are on one today; the others are new."""
    placed = {problem.adapter_of(item) for part in current for item in part}
    return sum(problem.adapter_of(item) in placed for items in moved for item in items)


def counterparts(then: Sequence[frozenset[Any]], today: Sequence[frozenset[Any]]) -> dict[int, int]:
    """Of each set the one of today's that it takes the place of, so that the fewest members move.

    An assignment problem; sets beyond the number of today's have none.
    """
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    common = np.array([[len(new & old) for old in today] for new in then])
    rows, columns = linear_sum_assignment(-common)
    return {int(row): int(column) for row, column in zip(rows, columns, strict=True)}
