"""What a sweep would cost, from a few of its rows."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pytwin.simulation import Twin
from pytwin.sweep.expand import Design, Row
from pytwin.sweep.rows import simulate_rows
from pytwin.sweep.store import encode

_LEAST_SAMPLE, _MOST_SAMPLE = 8, 512
_ENOUGH_S = 0.5


@dataclass(frozen=True)
class Estimate:
    """Rough cost of a sweep.

    Attributes
    ----------
    seconds: wall-clock time on this machine with these workers.
    disk_bytes: size of all parts.
    sampled: rows that were simulated to find out, evenly spread over the sweep.
    """

    seconds: float
    disk_bytes: int
    sampled: int


def estimate(design: Design, workers: int) -> Estimate:
    """Simulate a few rows and scale up; more of them where they are quick."""
    twin = Twin()
    simulate_rows(twin, list(design.rows(0, 1)), design.columns, workers)  # reads the profiles
    count, seconds = min(_LEAST_SAMPLE, design.n_rows), 0.0
    while True:
        rows = _spread(design, count)
        began = time.perf_counter()
        frame = simulate_rows(twin, rows, design.columns, workers)
        seconds = time.perf_counter() - began
        most = min(_MOST_SAMPLE, design.n_rows)
        if seconds >= _ENOUGH_S or count == most:
            break
        count = min(4 * count, most)
    one, many = len(encode(frame[:1])), len(encode(frame))
    per_row = (many - one) / (count - 1) if count > 1 else one / 8
    per_part = max(one - per_row, 0.0)
    disk = int(design.n_parts * per_part + design.n_rows * per_row)
    return Estimate(seconds * design.n_rows / count, disk, count)


def _spread(design: Design, count: int) -> list[Row]:
    """The middles of equal stretches: the ends of a grid are its extremes."""
    places = [(2 * index + 1) * design.n_rows // (2 * count) for index in range(count)]
    return [row for place in places for row in design.rows(place, place + 1)]
