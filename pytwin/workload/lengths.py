"""Laws of (prompt, output) token lengths."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pytwin.catalog import LengthTable, Profile, load_lengths
from pytwin.errors import WorkloadError
from pytwin.workload.checks import non_negative, positive, whole

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MEAN_TOLERANCE = 1e-12  # relative
_NEWTON_STEPS = 60
_NORMAL_99 = 2.326  # 99 % of a normal law lies below its mean plus this many deviations


@dataclass(frozen=True)
class ResolvedLengths:
    """A law as the core reads it.

    Attributes
    ----------
    document: the core's JSON value, {"law": ...}.
    table: the table that the core must hold first, if the law needs one.
    prompt_range, output_range: (least, greatest) tokens; of a law without bounds, its 1st and
        99th percentile.
    """

    document: dict[str, Any]
    prompt_range: tuple[float, float]
    output_range: tuple[float, float]
    table: LengthTable | None = None


class LengthLaw(ABC):
    """Base of the length laws; `resolve` gives what the core reads."""

    @abstractmethod
    def resolve(self, profile: Profile) -> ResolvedLengths:
        """The law under this profile's tokenizer."""


@dataclass(frozen=True)
class ConstantLengths(LengthLaw):
    """Every request has the same lengths, in tokens."""

    prompt_tokens: int
    output_tokens: int

    def __post_init__(self) -> None:
        whole("prompt_tokens", self.prompt_tokens, least=1)
        whole("output_tokens", self.output_tokens, least=1)

    def resolve(self, profile: Profile) -> ResolvedLengths:
        prompt, output = int(self.prompt_tokens), int(self.output_tokens)
        document = {"law": "constant", "prompt_tokens": prompt, "output_tokens": output}
        return ResolvedLengths(document, (prompt, prompt), (output, output))


@dataclass(frozen=True)
class LogNormal(LengthLaw):
    """Independent log-normal lengths, rounded to >= 1 and redrawn above max_total_tokens.

    Medians in tokens; sigma is the standard deviation of the logarithm.
    """

    prompt_median: float
    prompt_sigma: float
    output_median: float
    output_sigma: float
    max_total_tokens: int = 2048

    def __post_init__(self) -> None:
        positive("prompt_median", self.prompt_median)
        positive("output_median", self.output_median)
        non_negative("prompt_sigma", self.prompt_sigma)
        non_negative("output_sigma", self.output_sigma)
        whole("max_total_tokens", self.max_total_tokens, least=2)
        if self.prompt_median + self.output_median > self.max_total_tokens:
            raise WorkloadError(
                f"max_total_tokens ({self.max_total_tokens}) must be >= the sum of the medians "
                f"({self.prompt_median + self.output_median:g})"
            )

    def resolve(self, profile: Profile) -> ResolvedLengths:
        document = {
            "law": "lognormal",
            "prompt_median": float(self.prompt_median),
            "prompt_sigma": float(self.prompt_sigma),
            "output_median": float(self.output_median),
            "output_sigma": float(self.output_sigma),
            "max_total_tokens": int(self.max_total_tokens),
        }
        prompt, output = (
            (median / spread, min(median * spread, float(self.max_total_tokens)))
            for median, spread in (
                (self.prompt_median, math.exp(_NORMAL_99 * self.prompt_sigma)),
                (self.output_median, math.exp(_NORMAL_99 * self.output_sigma)),
            )
        )
        return ResolvedLengths(document, prompt, output)


@dataclass(frozen=True, eq=False)
class Empirical(LengthLaw):
    """Draws from given (prompt, output) pairs, jointly, each with its weight (default 1)."""

    pairs: Iterable[tuple[int, int]]
    weights: Iterable[float] | None = None
    _table: LengthTable = field(init=False, repr=False)

    def __post_init__(self) -> None:
        import numpy as np

        listed = list(self.pairs)
        if not listed:
            raise WorkloadError("pairs ([]) must hold at least one (prompt, output) pair")
        checked = np.array(
            [
                (
                    whole("prompt_tokens", prompt, least=1),
                    whole("output_tokens", output, least=1),
                )
                for prompt, output in listed
            ],
            dtype=np.uint32,
        )
        if self.weights is None:
            weights = np.ones(len(listed))
        else:
            weights = np.array([non_negative("weights", value) for value in self.weights])
        if len(weights) != len(listed):
            raise WorkloadError(
                f"weights ({len(weights)}) must be as many as pairs ({len(listed)})"
            )
        if not weights.sum() > 0:
            raise WorkloadError("weights (all 0) must hold a positive one")
        prompt, output = np.ascontiguousarray(checked.T)
        digest = hashlib.sha256(checked.tobytes() + weights.tobytes()).hexdigest()[:16]
        table = LengthTable(f"empirical-{digest}", prompt, output, weights)
        object.__setattr__(self, "_table", table)

    def resolve(self, profile: Profile) -> ResolvedLengths:
        return _of_table(self._table)


@dataclass(frozen=True)
class ShareGpt(LengthLaw):
    """First turns of ShareGPT under the profile's tokenizer: the joint law of real pairs.

    The table is tilted (weights times exp(a prompt + b output)) so that its means, in tokens,
    become these, by default those of the pools that the measured runs drew from: the least
    change of the law, in relative entropy, that does so.
    """

    mean_prompt_tokens: float | None = None
    mean_output_tokens: float | None = None

    def __post_init__(self) -> None:
        if (self.mean_prompt_tokens is None) != (self.mean_output_tokens is None):
            raise WorkloadError(
                "mean_prompt_tokens and mean_output_tokens must be given together, or neither"
            )
        if self.mean_prompt_tokens is not None:
            positive("mean_prompt_tokens", self.mean_prompt_tokens)
            positive("mean_output_tokens", self.mean_output_tokens)

    def resolve(self, profile: Profile) -> ResolvedLengths:
        told = profile.data.get("lengths", {})
        name = told.get("sharegpt")
        if name is None:
            raise WorkloadError(
                f"lengths (sharegpt) needs a table, and profile {profile.name} names none: "
                "give (prompt_tokens, output_tokens) or another law"
            )
        prompt, output = self.mean_prompt_tokens, self.mean_output_tokens
        if prompt is None or output is None:
            prompt, output = told.get("mean_prompt_tokens"), told.get("mean_output_tokens")
        return _sharegpt(name, (float(prompt), float(output)) if prompt and output else None)


def as_length_law(lengths: str | tuple[int, int] | LengthLaw) -> LengthLaw:
    """A law from what a user may write: a name, a pair of constants, or a law."""
    if isinstance(lengths, LengthLaw):
        return lengths
    if isinstance(lengths, str):
        if lengths.lower() == "sharegpt":
            return ShareGpt()
        raise WorkloadError(
            f"lengths ({lengths}) is unknown: use sharegpt, a (prompt, output) pair or a law"
        )
    if isinstance(lengths, (tuple, list)) and len(lengths) == 2:
        return ConstantLengths(
            whole("prompt_tokens", lengths[0], least=1), whole("output_tokens", lengths[1], least=1)
        )
    raise WorkloadError(
        f"lengths ({lengths!r}) must be a law's name, a (prompt, output) pair or a law"
    )


def tilted(table: LengthTable, mean_prompt: float, mean_output: float) -> LengthTable:
    """The table reweighted by exp(a prompt + b output) to the given means, in tokens.

    Of all reweightings with these means it is the nearest to the table in relative entropy.

    Raises
    ------
    WorkloadError: means that no reweighting of this table has, or only an extreme one.
    """
    import numpy as np

    lengths = np.stack([table.prompt_tokens, table.output_tokens]).astype(np.float64)
    points = lengths / np.array([[mean_prompt], [mean_output]]) - 1.0  # E[points] = 0 is sought
    base = table.weights / table.weights.sum()

    def weigh(slope: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        exponent = slope @ points
        top = float(exponent.max())
        weights = base * np.exp(exponent - top)
        total = float(weights.sum())
        return weights / total, top + math.log(total)

    slope = np.zeros(2)
    weights, objective = weigh(slope)
    for _ in range(_NEWTON_STEPS):
        gradient = points @ weights
        if np.abs(gradient).max() < _MEAN_TOLERANCE:
            break
        centred = points - gradient[:, None]
        step = np.linalg.lstsq((centred * weights) @ centred.T, gradient, rcond=None)[0]
        # The objective (log of the partition sum) is convex: halving the step until it falls
        # makes Newton's method safe far from the solution (1e-12: rounding near it).
        size = 1.0
        while size > 1e-9 and weigh(slope - size * step)[1] > objective + 1e-12:
            size /= 2
        slope = slope - size * step
        weights, objective = weigh(slope)
    effective = 1.0 / float((weights * weights / base.clip(1e-300)).sum())
    if np.abs(points @ weights).max() > 1e-6 or effective < 0.05:
        prompt, output = table.means()
        raise WorkloadError(
            f"mean lengths ({mean_prompt:g}, {mean_output:g}) are too far from those of table "
            f"{table.name} ({prompt:.1f}, {output:.1f}): use another length law"
        )
    name = f"{table.name}~{mean_prompt!r}~{mean_output!r}"
    return LengthTable(name, table.prompt_tokens, table.output_tokens, weights)


@lru_cache(maxsize=256)
def _sharegpt(name: str, means: tuple[float, float] | None) -> ResolvedLengths:
    table = load_lengths(name)
    wanted = table.pool_means if means is None else means
    return _of_table(table if wanted is None else tilted(table, *wanted))


def _of_table(table: LengthTable) -> ResolvedLengths:
    prompt, output = (
        (float(tokens.min()), float(tokens.max()))
        for tokens in (table.prompt_tokens, table.output_tokens)
    )
    return ResolvedLengths({"law": "table", "name": table.name}, prompt, output, table)
