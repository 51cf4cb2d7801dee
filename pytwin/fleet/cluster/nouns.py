"""What a fleet is made of: replicas, and what happens to their adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pytwin.config import EngineConfig
from pytwin.errors import ConfigError
from pytwin.workload.checks import non_negative, whole

AdapterRef = int | str
"""An adapter, by its number in the workload (from 1) or by its name."""

Action = Literal["load", "unload"]


@dataclass(frozen=True)
class Replica:
    """One server of a fleet.

    Attributes
    ----------
    server: profile and settings.
    adapters: whom it serves from its start on, by number or name; None for all of the workload.
    start_s: when it is started; GPU time counts from here.
    startup_s: seconds that it then takes until requests may come.
    stop_s: when it is sent no more; it ends with the requests that it has. None for never.
    """

    server: EngineConfig
    adapters: tuple[AdapterRef, ...] | None = None
    start_s: float = 0.0
    startup_s: float = 0.0
    stop_s: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.server, EngineConfig):
            raise ConfigError(f"server ({self.server!r}) of a replica must be a pt.EngineConfig")
        start = non_negative("start_s", self.start_s)
        ready = start + non_negative("startup_s", self.startup_s)
        if self.stop_s is not None and non_negative("stop_s", self.stop_s) < ready:
            raise ConfigError(
                f"stop_s ({self.stop_s}) must be >= start_s + startup_s ({ready}): it would stop "
                "before it serves"
            )
        if self.adapters is not None:
            object.__setattr__(self, "adapters", tuple(self.adapters))


@dataclass(frozen=True)
class AdapterEvent:
    """An adapter is loaded on a replica, or unloaded, while the fleet runs.

    Attributes
    ----------
    at_s: when, in seconds.
    replica: where: its number, from 0.
    adapter: whom, by number or name.
    action: "load" (`/v1/load_lora_adapter`: its requests may come from then on, and the engine
        stands still while it loads) or "unload" (none come from then on).
    """

    at_s: float
    replica: int
    adapter: AdapterRef
    action: Action

    def __post_init__(self) -> None:
        non_negative("at_s", self.at_s)
        if self.action not in get_args(Action):
            raise ConfigError(f"action ({self.action}) must be load or unload")


class Numbers:
    """Adapters by number or name -> number.

    Raises
    ------
    ConfigError: no such adapter, one line.
    """

    def __init__(self, count: int, names: Sequence[str] | None) -> None:
        self.count = count
        self._of = {name: number for number, name in enumerate(names or (), start=1)}

    def __call__(self, adapter: Any) -> int:
        if isinstance(adapter, str):
            number = self._of.get(adapter)
            if number is None:
                few = ", ".join(list(self._of)[:5])
                known = f"known are {few}, ..." if few else "they have no names: give numbers"
                raise ConfigError(f"adapter ({adapter}) is none of the workload's: {known}")
            return number
        number = whole("adapter", adapter, least=1)
        if number > self.count:
            raise ConfigError(
                f"adapter ({number}) must be <= {self.count}, the workload's last adapter"
            )
        return number
