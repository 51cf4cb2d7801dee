"""Random designs: the numbers that a random axis draws, the same on every machine."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

from pytwin.sweep.spec import Law, Random

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def draw(random: Random, name: str) -> NDArray[Any]:
    """The `n` values of one key: numbers, or places in the values of a choice.

    Each key has streams of its own, so that a key more or less leaves the others as they are.
    """
    uniforms = _uniforms(random.seed, name, random.n)
    if random.method == "latin":
        uniforms = (_order(random.seed, name, random.n) + uniforms) / random.n
    return _by_law(random.ranges[name], uniforms)


def _uniforms(seed: int, name: str, count: int) -> NDArray[np.float64]:
    """`count` numbers of [0, 1): Philox keyed by seed and name.

    Taken from the raw stream, which numpy keeps stable over versions as it does not its
    distributions (NEP 19).
    """
    import numpy as np

    raw = _raw(seed, name, count)
    uniforms: NDArray[np.float64] = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniforms


def _order(seed: int, name: str, count: int) -> NDArray[np.int64]:
    """A random order of 0 .. count - 1: the ranks of random numbers."""
    import numpy as np

    order: NDArray[np.int64] = np.argsort(_raw(seed, f"{name}/order", count), kind="stable")
    return order


def _raw(seed: int, name: str, count: int) -> NDArray[np.uint64]:
    import numpy as np

    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    raw: NDArray[np.uint64] = np.random.Philox(
        key=int.from_bytes(digest[:16], "little")
    ).random_raw(count)
    return raw


def _by_law(law: Law, uniforms: NDArray[np.float64]) -> NDArray[Any]:
    import numpy as np

    if law.values is not None:
        return np.minimum(uniforms * len(law.values), len(law.values) - 1).astype(np.int64)
    low, high = law.bounds
    if law.law == "integer":
        count = high - low + 1
        return (low + np.minimum(np.floor(uniforms * count), count - 1)).astype(np.int64)
    if law.law == "log":
        return np.exp(math.log(low) + uniforms * (math.log(high) - math.log(low)))
    return low + uniforms * (high - low)
