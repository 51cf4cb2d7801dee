"""What runs when: placements one after the other, as replicas that start and stop and events."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

from pytwin.config import EngineConfig
from pytwin.fleet.cluster import AdapterEvent, Replica
from pytwin.fleet.placement.current import counterparts

Names = frozenset[str]


@dataclass
class _Server:
    """One replica from its start to its stop."""

    start_s: float
    startup_s: float
    first: Names
    adapters: Names
    stop_s: float | None = None

    @property
    def ready_s(self) -> float:
        """When requests may come."""
        return self.start_s + self.startup_s


@dataclass
class Schedule:
    """Placements at rising times, and what they make of the fleet.

    Parameters
    ----------
    server: settings of every replica.
    startup_s: seconds from a replica's start until requests may come.

    Attributes
    ----------
    moves: adapters that were loaded on a replica after its start.
    started: replicas started after the first placement.
    """

    server: EngineConfig
    startup_s: float
    moves: int = 0
    started: int = 0
    _servers: list[_Server] = field(default_factory=list)
    _events: list[tuple[float, int, str, str]] = field(default_factory=list)
    _running: list[int] = field(default_factory=list)

    @property
    def placement(self) -> tuple[Names, ...]:
        """Adapters of each replica that runs or is about to, in order of their start."""
        return tuple(self._servers[number].adapters for number in self._running)

    def place(self, at_s: float, sets: Sequence[Names]) -> None:
        """Change to these sets, with as few moves as may be.

        Running replicas load what is new to them at once. An adapter leaves a replica when those
        that it comes to are ready; a replica that is given up stops when all of its adapters have
        left.
        """
        begun = not self._servers
        place = counterparts(sets, self.placement) if self._running else {}
        kept: list[int] = []
        for row, names in enumerate(sets):
            if row in place:
                kept.append(self._running[place[row]])
                continue
            kept.append(len(self._servers))
            self._servers.append(_Server(at_s, 0.0 if begun else self.startup_s, names, names))
            self.started += not begun
        served_from = self._served_from(at_s, sets, kept)
        for names, number in zip(sets, kept, strict=True):
            server = self._servers[number]
            server.adapters |= self._stay(at_s, number, names)
            at = max(at_s, server.ready_s)
            for name in sorted(names - server.adapters):
                self._events.append((at, number, name, "load"))
                self.moves += 1
            for name in sorted(server.adapters - names):
                self._events.append((max(at, served_from.get(name, at)), number, name, "unload"))
            server.adapters = names
        for number in sorted(set(self._running) - set(kept)):
            server = self._servers[number]
            served = (served_from.get(name, at_s) for name in server.adapters)
            leaving = (event[0] for event in self._leaving(at_s, number))
            server.stop_s = max(at_s, server.ready_s, *served, *leaving)
        self._running = sorted(kept)

    def _leaving(self, at_s: float, number: int) -> list[tuple[float, int, str, str]]:
        """Adapters that a replica still serves, until another is ready."""
        return [
            event
            for event in self._events
            if event[0] > at_s and event[1] == number and event[3] == "unload"
        ]

    def _stay(self, at_s: float, number: int, names: Names) -> Names:
        """Of these adapters those that were about to leave the replica: they do not."""
        stay = [event for event in self._leaving(at_s, number) if event[2] in names]
        for event in stay:
            self._events.remove(event)
        return frozenset(event[2] for event in stay)

    def _served_from(
        self, at_s: float, sets: Sequence[Names], kept: Sequence[int]
    ) -> dict[str, float]:
        """When every adapter is where it came to anew, and on one of its replicas at least."""
        first: dict[str, float] = {}
        anew: dict[str, float] = {}
        today = set(self._running)
        for names, number in zip(sets, kept, strict=True):
            server = self._servers[number]
            ready = max(at_s, server.ready_s)
            for name in names:
                first[name] = min(first.get(name, ready), ready)
                if number not in today or name not in server.adapters:
                    anew[name] = max(anew.get(name, ready), ready)
        return {name: max(at, anew.get(name, at)) for name, at in first.items()}

    def replicas(self, known: Container[str]) -> list[Replica]:
        """For `simulate_fleet`; adapters that the traffic does not know are left out."""
        return [
            Replica(
                self.server,
                adapters=tuple(sorted(name for name in item.first if name in known)),
                start_s=item.start_s,
                startup_s=item.startup_s,
                stop_s=item.stop_s,
            )
            for item in self._servers
        ]

    def events(self, known: Container[str]) -> list[AdapterEvent]:
        """Loads and unloads, for `simulate_fleet`."""
        return [
            AdapterEvent(at, number, name, "load" if action == "load" else "unload")
            for at, number, name, action in self._events
            if name in known
        ]
