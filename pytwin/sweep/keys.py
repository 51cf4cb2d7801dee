"""The names a sweep may vary, the type of each, and its column in the result."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from pytwin.config import EngineConfig
from pytwin.errors import ConfigError

Kind = Literal["int", "float", "bool", "str", "ints", "floats", "law"]


@dataclass(frozen=True)
class Key:
    """A row key: its name, and the kind of value it takes.

    ``ints`` and ``floats`` are lists (a single number is a list of one); ``law`` is a name, a
    list of numbers or a mapping, and is written to the result as text.
    """

    name: str
    kind: Kind

    def coerce(self, value: Any, where: str) -> Any:
        """`value` as this key's type; None means "left out".

        Raises
        ------
        ConfigError: the value is of another type; `where` tells the place in the spec.
        """
        if value is None:
            return None
        try:
            return _COERCE[self.kind](value)
        except (TypeError, ValueError, OverflowError):
            raise ConfigError(
                f"{where}: {self.name} ({_shown(value)}) must be {_WANTED[self.kind]}"
            ) from None

    def cell(self, value: Any) -> Any:
        """`value` as it is written to the result's column."""
        if self.kind != "law" or value is None or isinstance(value, str):
            return value
        if isinstance(value, dict):
            return ",".join(f"{name}={item}" for name, item in value.items())
        return ",".join(str(item) for item in value)


_MOST_INT = 2**63 - 1  # what a column of whole numbers holds


def _int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        raise TypeError
    if abs(value) > _MOST_INT:
        raise OverflowError
    return int(value)


def _float(value: Any) -> float:
    # YAML reads 1e-3 (no dot) as text: take numbers that arrive so.
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError
    return float(value)


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _str(value: Any) -> str:
    # YAML reads engine_version: 0.32 as a number.
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise TypeError
    return str(value)


def _ints(value: Any) -> list[int]:
    return [_int(item) for item in (value if isinstance(value, list) else [value])]


def _floats(value: Any) -> list[float]:
    return [_float(item) for item in (value if isinstance(value, list) else [value])]


def _law(value: Any) -> Any:
    if isinstance(value, list):
        return [_float(item) if isinstance(item, float) else _int(item) for item in value]
    if isinstance(value, bool) or not isinstance(value, (str, int, float, dict)):
        raise TypeError
    return value


_COERCE = {
    "int": _int,
    "float": _float,
    "bool": _bool,
    "str": _str,
    "ints": _ints,
    "floats": _floats,
    "law": _law,
}
_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "ints": "a whole number or a list of them",
    "floats": "a number or a list of numbers",
    "law": "a name, a list of numbers or a mapping",
}

_KIND_OF_TYPE: dict[Any, Kind] = {int: "int", float: "float", bool: "bool", str: "str"}


def _kind_of(annotation: Any) -> Kind:
    """The kind of an `EngineConfig` field, from its annotation (``int | None`` and the like)."""
    if get_origin(annotation) in (Union, types.UnionType):
        members = [item for item in get_args(annotation) if item is not type(None)]
        return _kind_of(members[0])
    if get_origin(annotation) is Literal:
        return "str"
    if get_origin(annotation) is tuple:
        return "ints"
    return _KIND_OF_TYPE[annotation]


ENGINE_KEYS: dict[str, Key] = {
    name: Key(name, _kind_of(field.annotation)) for name, field in EngineConfig.model_fields.items()
}
"""Server settings: every field of `EngineConfig`."""

WORKLOAD_KEYS: dict[str, Key] = {
    key.name: key
    for key in (
        Key("served_adapters", "int"),
        Key("rates_rps", "floats"),
        Key("ranks", "ints"),
        Key("total_rate_rps", "float"),
        Key("popularity", "law"),
        Key("base_rate_rps", "float"),
        Key("lengths", "law"),
        Key("duration_s", "float"),
        Key("arrivals", "str"),
        Key("burstiness", "float"),
        Key("early_eos", "float"),
        Key("total_requests", "int"),
        Key("drain", "bool"),
    )
}
"""Traffic: the arguments of `pytwin.workload.workload_from_values`."""

RUN_KEYS: dict[str, Key] = {
    key.name: key
    for key in (
        Key("ttft_slo_ms", "float"),
        Key("tpot_slo_ms", "float"),
        Key("exact_quantiles", "bool"),
        Key("stop_starving", "bool"),
        Key("stop_tolerance", "float"),
    )
}
"""How a run is judged, and when it may end early: arguments of `pytwin.simulate`."""

KEYS: dict[str, Key] = {
    "label": Key("label", "str"),
    **ENGINE_KEYS,
    **WORKLOAD_KEYS,
    **RUN_KEYS,
    "seed": Key("seed", "int"),
}
"""Every row key, in the order of the result's columns. `label` is free text, carried along."""


def key_named(name: Any, where: str) -> Key:
    """The row key `name`; a `ConfigError` with the nearest known name if there is none."""
    key = KEYS.get(name) if isinstance(name, str) else None
    if key is None:
        raise ConfigError(unknown(f"{where}: {name}", str(name), KEYS, "names no row key"))
    return key


def unknown(subject: str, name: str, known: Iterable[str], complaint: str) -> str:
    """One line for an unknown name, with a suggestion, or with the whole list."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    way_out = f"did you mean {close[0]}?" if close else "known are " + ", ".join(names)
    return f"{subject} {complaint}: {way_out}"


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
