"""Errors of the package: one line each, with the value, the rule and the way out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


class PytwinError(ValueError):
    """Bad input, told in one line: ``max_cpu_loras (2) must be >= max_loras (4)``."""


class ConfigError(PytwinError):
    """A server setting that vLLM, or the chosen engine version, would refuse."""


class WorkloadError(PytwinError):
    """Traffic that cannot be: a negative rate, a zero duration, a trace going backwards."""


class DataError(PytwinError):
    """A file that is missing, unreadable or not of the stated schema."""


def one_line(error: ValidationError) -> str:
    """The first complaint of pydantic, without its headline and its links."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "settings"
    if first["type"] == "missing":
        return f"{field} is missing: give a shipped name or the path of a profile JSON"
    if first["type"] == "extra_forbidden":
        return f"{field} is no setting of EngineConfig: see the reference for the list"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return message
    return f"{field} ({_shown(first)}) {_rule(message)}"


def _shown(detail: ErrorDetails | Mapping[str, Any]) -> str:
    """The offending value, cut so that the message stays one line."""
    text = " ".join(repr(detail["input"]).split())
    return text if len(text) <= 60 else text[:57] + "..."


def _rule(message: str) -> str:
    """Pydantic's `Input should be greater than 0` as `must be greater than 0`."""
    for prefix in ("Input should be ", "Input should ", "Input "):
        if message.startswith(prefix):
            return ("must be " if prefix != "Input " else "") + message.removeprefix(prefix)
    return message[:1].lower() + message[1:]
