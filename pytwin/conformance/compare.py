"""The first difference of two traces."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# What names or times the program that wrote the trace, and not a decision.
NOT_DECISIONS = {
    "header": frozenset({"vllm", "hash_seed"}),
    "summary": frozenset({"seconds", "scheduler_seconds"}),
}
ABSENT = "(absent)"


@dataclass(frozen=True)
class Difference:
    """Where two traces first part.

    Attributes:
        line: index of the trace line, from 0.
        step: engine iteration; None in the header or the summary.
        field: name of the field, with the key or index inside it that differs.
        reference: vLLM's value, as JSON.
        twin: the twin's value, as JSON.
    """

    line: int
    step: int | None
    field: str
    reference: str
    twin: str

    def __str__(self) -> str:
        where = f"line {self.line}" if self.step is None else f"iteration {self.step}"
        return f"{where}, {self.field}\n  vLLM  {self.reference}\n  twin  {self.twin}"


def first_difference(reference: Sequence[str], twin: Sequence[str]) -> Difference | None:
    """Compares two traces, all fields of every line; None when they decide the same.

    Args:
        reference: JSON lines of vLLM's own code.
        twin: JSON lines of the twin.
    """
    for k in range(max(len(reference), len(twin))):
        if k >= len(twin) or k >= len(reference):
            ends = ["(trace ends)" if k >= len(t) else _shown(t[k]) for t in (reference, twin)]
            return Difference(k, _step(reference, twin, k), "line", ends[0], ends[1])
        if reference[k] == twin[k]:
            continue
        found = _differs(json.loads(reference[k]), json.loads(twin[k]))
        if found is not None:
            return Difference(k, _step(reference, twin, k), *found)
    return None


def _differs(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[str, str, str] | None:
    ignored = NOT_DECISIONS.get(str(a.get("type")), frozenset())
    for name in [*a, *(name for name in b if name not in a)]:
        if name in ignored:
            continue
        left, right = a.get(name, ABSENT), b.get(name, ABSENT)
        if not _equal(left, right):
            return _narrowed(name, left, right)
    return None


def _equal(a: Any, b: Any) -> bool:
    # JSON's true is not 1 here, and an object's order of keys means nothing.
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    return bool(a == b)


def _narrowed(field: str, a: Any, b: Any) -> tuple[str, str, str]:
    """Goes into lists and objects as long as a single part explains the difference."""
    if isinstance(a, list) and isinstance(b, list) and a and b:
        at = next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if not _equal(x, y)), None)
        if at is None:
            at = min(len(a), len(b))
            rest = [_shown(x[at:]) for x in (a, b)]
            return f"{field}[{at}:]", rest[0], rest[1]
        if isinstance(a[at], list | dict) and len(a) == len(b):
            return _narrowed(f"{field}[{at}]", a[at], b[at])
        return f"{field}[{at}]", _excerpt(a, at), _excerpt(b, at)
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *(key for key in b if key not in a)]:
            left, right = a.get(key, ABSENT), b.get(key, ABSENT)
            if not _equal(left, right):
                return _narrowed(f"{field}.{key}", left, right)
    return field, _shown(a), _shown(b)


def _excerpt(values: list[Any], at: int) -> str:
    before = "... " if at > 2 else ""
    after = " ..." if len(values) > at + 4 else ""
    return f"{before}{_shown(values[max(at - 2, 0) : at + 4])}{after}"


def _shown(value: Any, limit: int = 300) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def _step(reference: Sequence[str], twin: Sequence[str], k: int) -> int | None:
    for trace in (reference, twin):
        if k < len(trace):
            step = json.loads(trace[k]).get("i")
            if isinstance(step, int):
                return step
    return None
