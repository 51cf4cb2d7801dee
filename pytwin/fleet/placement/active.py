"""How long an adapter is active, and by how much waiting for a slot can shorten that."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_EULER = 0.577_215_664_901_532_9
_MOST_LOAD = 30.0
_HALVINGS = 40


def covered(starts: Floats, outputs: Floats, steps: Floats, horizon_s: float) -> Floats:
    """Share of the horizon within [start, start + output x step] of any request, by step.

    `starts` in seconds, rising; `steps` in seconds, shape (steps, 1). Shape (steps,).
    """
    import numpy as np

    ends = np.minimum(starts + outputs * steps, horizon_s)
    last = np.maximum.accumulate(ends, axis=1)
    before = np.concatenate([np.zeros_like(steps), last[:, :-1]], axis=1)
    length = np.maximum(0.0, ends - np.maximum(starts, before)).sum(axis=1)
    return np.asarray(length / horizon_s)


def least_kept(rate: Floats, load: Floats, wait_s: float) -> Floats:
    """Share of its active time that an adapter keeps if its requests wait `wait_s` in the mean.

    An adapter is idle for 1/rate, waits T for a slot, then holds it for the busy period B of an
    M/G/inf queue that begins with the 1 + rate T requests that came by then
    (docs/background/surrogate.md). A cycle brings 1 + rate (T + B) requests, which wait
    T (1 + rate T / 2) in all. T is the longest that keeps their mean at `wait_s`. The answer is
    B / (1/rate + T + B) over the same with T = 0.

    rate: requests/s, any shape. load: rate x stay, the same shape.
    """
    import numpy as np

    stay = load / np.maximum(rate, 1e-300)

    def busy(wait: Floats) -> Floats:
        return stay * busy_period(load, 1.0 + rate * wait)

    low, high = np.zeros_like(load), np.full_like(load, 1e5)
    for _ in range(_HALVINGS):
        middle = np.where(low > 0.0, np.sqrt(np.maximum(low, 1e-3) * high), 0.01 * high)
        waits = middle * (1.0 + 0.5 * rate * middle)
        requests = 1.0 + rate * (middle + busy(middle))
        short = waits <= wait_s * requests
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    idle = 1.0 / np.maximum(rate, 1e-300)
    held, free = busy(high), busy(np.zeros_like(load))
    some = free > 0.0  # else nothing of it is served: no request is short enough
    kept = held / (idle + high + held) / np.where(some, free / (idle + free), 1.0)
    return np.asarray(np.where((rate > 0.0) & some, np.minimum(kept, 1.0), 1.0))


def busy_period(load: Floats, first: Floats) -> Floats:
    """Mean busy period of M/M/inf that begins with `first` requests, in units of their stay.

    H(first) + sum over k of load^k / k (1 / k! - first! / (first + k)!); as in the core's
    mean-field estimate. Loads above 30 count as 30.
    """
    import numpy as np

    load = np.minimum(load, _MOST_LOAD)
    middle = first + 0.5
    total = np.log(middle) + _EULER + 1.0 / (24.0 * middle * middle)
    plain, shifted = np.ones_like(total), np.ones_like(total)
    for k in range(1, 100):
        plain = plain * load / k
        shifted = shifted * load / (first + k)
        term = (plain - shifted) / k
        total = total + term
        if float(np.max(term / total)) < 1e-6:
            break
    return np.asarray(total)
