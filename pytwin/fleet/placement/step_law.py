"""Linear lower bounds of a profile's step time, found numerically from its terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pytwin.calibrate.terms import evaluate
from pytwin.catalog import Profile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_TOKENS = (0, 1, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512)
_SIZES, _DENSE = 3, 17
_LOADS = (60.0, 200.0, 500.0)
"""Decodes per step at which the bounds are made as high as they can be."""


@dataclass(frozen=True)
class StepBound:
    """A linear lower bound of a step's seconds.

    base + decode x decodes + prompt x prompt tokens + request x requests that start
    + adapter x (active adapters - least) + context x KV entries read.

    Holds for steps with least <= active adapters <= most, at rank `max_lora_rank`, with at least
    as many slots as active adapters. No coefficient is negative.
    """

    base: float
    decode: float
    prompt: float
    request: float
    adapter: float
    context: float


@dataclass(frozen=True)
class Mix:
    """Of a fleet's work per decoded token: prompt tokens and requests."""

    prompt: float
    requests: float


@lru_cache(maxsize=16)
def step_law(profile: Profile, max_num_seqs: int, max_num_batched_tokens: int, mix: Mix) -> StepLaw:
    """The law of a server, made once: its bounds take most of a small fleet's time."""
    engine = {"max_num_seqs": max_num_seqs, "max_num_batched_tokens": max_num_batched_tokens}
    return StepLaw(profile.data, engine, mix)


class StepLaw:
    """A profile's step time, bounded from below.

    Parameters
    ----------
    profile: the profile's document.
    engine: resolved settings of the server.
    mix: the traffic at which the bounds are made tight; they hold for any.
    """

    def __init__(self, profile: Mapping[str, Any], engine: Mapping[str, Any], mix: Mix) -> None:
        terms = list(profile["step_time"]["terms"])
        plain = [term for term in terms if list(term["factors"]) == ["context_tokens"]]
        mixed = [term for term in terms if term not in plain and _names(term, "context_tokens")]
        # Left out where they add time; a product with context that shortens a step is unknown here.
        waits = [term for term in terms if _names(term, "waiting")]
        self.supported = all(term["coefficient"] >= 0 for term in (*mixed, *waits))
        self._context = max(0.0, sum(float(term["coefficient"]) for term in plain)) / 1e6
        self._terms = [term for term in terms if term not in plain and term not in mixed]
        self._engine = engine
        self._known: dict[tuple[int, float, float], list[StepBound]] = {}
        self._mix = mix
        self._points = self._grid()
        self._adapter_edges = {
            float(factor[bend])
            for term in self._terms
            for factor in term["factors"]
            if not isinstance(factor, str) and factor["of"] == "adapters"
            for bend in ("above", "at_most", "at_least")
            if bend in factor
        }
        self.least_s = float(self._seconds(1, 0.0, 0.0).min())
        """Of any step, in seconds."""

    def bounds(self, max_lora_rank: int, least: float, most: float) -> list[StepBound]:
        """Bounds for a range of active adapters, each tight at another load."""
        key = (max_lora_rank, least, most)
        if key not in self._known:
            self._known[key] = self._found(*key)
        return self._known[key]

    def _found(self, max_lora_rank: int, least: float, most: float) -> list[StepBound]:
        import numpy as np
        from scipy.optimize import linprog

        if not self.supported:  # a step of unknown length: memory and slots still bound
            return [StepBound(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)]
        low, high = max(least, 1e-9), max(most, 1e-9)
        matrix, floor = self._samples(max_lora_rank, low, high, _SIZES)
        dense, dense_floor = self._samples(max_lora_rank, low, high, _DENSE)
        found = []
        for load in _LOADS:
            mix, spread = self._mix, 0.5 * (high - low)
            aim = np.array([1.0, load, load * mix.prompt, load * mix.requests, spread])
            # In milliseconds, and scaled to about 1: HiGHS judges in absolute numbers.
            scale = np.array([1.0, 100.0, 100.0, 10.0, max(most, 1.0)])
            solved = linprog(
                -aim / scale,
                A_ub=matrix / scale,
                b_ub=1e3 * floor,
                bounds=(0.0, None),
                method="highs",
            )
            if solved.x is None:
                continue
            slope = np.maximum(solved.x, 0.0) / scale / 1e3
            # Slots times adapters bend between the samples, and solvers round.
            slope[0] += min(0.0, float(np.min(dense_floor - dense @ slope)))
            if slope[0] < 0.0:
                continue
            found.append(StepBound(*(float(value) for value in (*slope, self._context))))
        return found or [StepBound(0.0, 0.0, 0.0, 0.0, 0.0, self._context)]

    def _samples(
        self, max_lora_rank: int, low: float, high: float, count: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Steps with active adapters from low to high: what a bound multiplies, and their times."""
        import numpy as np

        decodes, prompt, starts = self._points
        ones = np.ones_like(decodes)
        sizes = {*np.linspace(low, high, count).tolist()}
        sizes |= {edge for edge in self._adapter_edges if low < edge < high}
        rows, values = [], []
        for active in sorted(sizes):
            rows.append(np.stack([ones, decodes, prompt, starts, (active - low) * ones], axis=1))
            values.append(self._seconds(max_lora_rank, active, high))
        return np.concatenate(rows), np.concatenate(values)

    def _seconds(self, max_lora_rank: int, active: float, most: float) -> NDArray[np.float64]:
        """The law on the grid, the fewest slots that hold the active adapters, without context.

        Should more slots be quicker somewhere, the quickest of a ladder up to four times `most`.
        """
        import numpy as np

        decodes, prompt, starts = self._points
        seqs = decodes + starts
        ones = np.ones_like(decodes)
        values = []
        for factor in (1.0, 1.5, 4.0):
            slots = max(1.0, active * factor, most if factor > 1.0 else 0.0)
            features = {
                "prefill_tokens": prompt, "prefill_seqs": starts, "decode_seqs": decodes,
                "seqs": seqs, "tokens": decodes + prompt, "context_tokens": 0.0 * ones,
                "adapters": active * ones, "lora_seqs": seqs, "running": seqs,
                "waiting": 0.0 * ones, "lora": ones, "max_loras": slots * ones,
                "max_lora_rank": max_lora_rank * ones, "max_cpu_loras": slots * ones,
                "served_adapters": slots * ones,
            }  # fmt: skip
            values.append(evaluate(self._terms, features) / 1e6)
        return np.asarray(np.maximum(np.min(values, axis=0), 1e-6))

    def _grid(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """(decodes, prompt tokens, requests that start) of steps: corners of the law among them."""
        import numpy as np

        most_seqs = int(self._engine["max_num_seqs"])
        budget = int(self._engine["max_num_batched_tokens"])
        edges = {edge for term in self._terms for edge in _edges(term)}
        around = {
            int(edge) + step for edge in edges for step in (-1, 0, 1) if 0 <= edge + step <= budget
        }
        tokens = {value for value in _TOKENS if value <= budget} | around | {most_seqs, budget}
        tokens |= {int(value) for value in np.geomspace(512, max(budget, 513), 5)}
        # Between the edges the law is linear in each number: its extremes are at these corners.
        points = set()
        for total in sorted(tokens):
            for prompt in {0, 1, total // 2, total - 1, total}:
                decodes = total - prompt
                if prompt < 0 or decodes < 0 or decodes > most_seqs:
                    continue
                points |= {
                    (decodes, prompt, starts)
                    for starts in {min(prompt, 1), min(prompt, most_seqs - decodes, 64)}
                    if decodes + starts > 0
                }
        columns = np.array(sorted(points), dtype=np.float64).T
        return columns[0], columns[1], columns[2]


def _names(term: Mapping[str, Any], name: str) -> bool:
    return any(_feature(factor) == name for factor in term["factors"])


def _feature(factor: str | Mapping[str, Any]) -> str:
    return factor if isinstance(factor, str) else str(factor["of"])


def _edges(term: Mapping[str, Any]) -> Sequence[float]:
    """Where a factor in the batch's size bends."""
    return [
        float(factor[bend])
        for factor in term["factors"]
        if not isinstance(factor, str)
        and factor["of"] not in ("adapters", "max_lora_rank", "max_loras")
        for bend in ("above", "at_most", "at_least")
        if bend in factor
    ]
