"""Small checks at the border: each error states the value, the rule and the way out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import SupportsIndex

from pytwin.errors import WorkloadError

MAX_TOKENS = 2**31 - 1
"""No request of vLLM is longer; the core counts tokens in 32 bits."""


def number(name: str, value: object) -> float:
    """A finite number."""
    if type(value) is float and math.isfinite(value):  # nearly always: a sweep has millions
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise WorkloadError(f"{name} ({value!r}) must be a number")
    if not math.isfinite(value):
        raise WorkloadError(f"{name} ({value}) must be finite")
    return float(value)


def positive(name: str, value: object) -> float:
    """A finite number > 0."""
    checked = number(name, value)
    if checked <= 0:
        raise WorkloadError(f"{name} ({value}) must be > 0")
    return checked


def non_negative(name: str, value: object) -> float:
    """A finite number >= 0."""
    checked = number(name, value)
    if checked < 0:
        raise WorkloadError(f"{name} ({value}) must be >= 0")
    return checked


def whole(name: str, value: object, *, least: int, most: int = MAX_TOKENS) -> int:
    """A whole number in [least, most]."""
    if type(value) is int:
        checked = value
    elif isinstance(value, bool) or not isinstance(value, SupportsIndex):
        if not (isinstance(value, float) and value.is_integer()):
            raise WorkloadError(f"{name} ({value!r}) must be a whole number")
        checked = int(value)
    else:
        checked = value.__index__()
    if not least <= checked <= most:
        raise WorkloadError(f"{name} ({checked}) must be from {least} to {most}")
    return checked


def rates(name: str, values: float | Iterable[float]) -> tuple[float, ...]:
    """One rate or several, each finite and >= 0, in requests per second."""
    listed = _listed(values)
    if not listed:
        raise WorkloadError(f"{name} ([]) must hold at least one rate")
    return tuple(non_negative(name, value) for value in listed)


def ranks(name: str, values: int | Iterable[int]) -> tuple[int, ...]:
    """One adapter rank or several, each from 1 to 512."""
    listed = _listed(values)
    if not listed:
        raise WorkloadError(f"{name} ([]) must hold at least one rank")
    return tuple(whole(name, value, least=1, most=512) for value in listed)


def _listed(values: object) -> Sequence[object]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        return [values]
    return list(values)
