"""Moments of a length law: all that a mean-field estimate needs of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pytwin.catalog import LengthTable, Profile
from pytwin.workload.lengths import LengthLaw

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_QUANTILES = 64  # per dimension of a log-normal law


@dataclass(frozen=True)
class LengthMoments:
    """Moments of the joint law, in tokens.

    Attributes
    ----------
    prompt, output, prompt_output, output_squared: E[p], E[o], E[p o], E[o^2]; o is what is
        generated, early ends included.
    requested: E[p] + E[requested output]: tokens of a request, were there no early ends.
    """

    prompt: float
    output: float
    prompt_output: float
    output_squared: float
    requested: float

    def document(self) -> dict[str, float]:
        """As the core reads it."""
        values = asdict(self)
        del values["requested"]
        return values


def length_moments(
    law: LengthLaw, profile: Profile, early_eos: float | None = None
) -> LengthMoments:
    """Moments of `law` under this profile's tokenizer and early ends.

    A request of requested output o ends early with the profile's chance q(o), at a uniform
    position: it generates o (1 - q/2) tokens in the mean, o^2 (1 - 2q/3) in the mean square.
    """
    resolved = law.resolve(profile)
    ends = profile.data.get("early_eos", 0.0) if early_eos is None else early_eos
    chance, per_token = (
        (float(ends["probability"]), float(ends.get("per_token", 0.0)))
        if isinstance(ends, Mapping)
        else (float(ends), 0.0)
    )
    if resolved.table is not None:
        return _of_table(resolved.table, chance, per_token)
    return _of_document(tuple(sorted(resolved.document.items())), chance, per_token)


def mixed(laws: Sequence[LengthMoments], weights: Sequence[float]) -> LengthMoments:
    """Moments of a mixture: each law with the weight of its rate."""
    total = sum(weights)
    names = [field.name for field in fields(LengthMoments)]
    return LengthMoments(
        **{
            name: sum(w * getattr(law, name) for law, w in zip(laws, weights, strict=True)) / total
            for name in names
        }
    )


@lru_cache(maxsize=64)
def _of_table(table: LengthTable, chance: float, per_token: float) -> LengthMoments:
    prompt, output = (column.astype(float) for column in (table.prompt_tokens, table.output_tokens))
    return _moments(prompt, output, table.weights, chance, per_token)


@lru_cache(maxsize=4096)
def _of_document(
    items: tuple[tuple[str, Any], ...], chance: float, per_token: float
) -> LengthMoments:
    import numpy as np

    document = dict(items)
    if document["law"] == "constant":
        prompt = np.array([float(document["prompt_tokens"])])
        output = np.array([float(document["output_tokens"])])
        return _moments(prompt, output, np.ones(1), chance, per_token)
    normal = _normal_quantiles()
    columns = [
        np.maximum(
            np.rint(_exp(math.log(document[f"{what}_median"]), document[f"{what}_sigma"] * normal)),
            1.0,
        )
        for what in ("prompt", "output")
    ]
    prompt, output = (grid.ravel() for grid in np.meshgrid(*columns, indexing="ij"))
    kept = (prompt + output <= document["max_total_tokens"]).astype(float)
    return _moments(prompt, output, kept, chance, per_token)


def _exp(mu: float, deviation: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp(mu + deviation)."""
    import numpy as np

    return np.asarray(np.exp(mu + deviation))


@lru_cache(maxsize=1)
def _normal_quantiles() -> NDArray[np.float64]:
    from statistics import NormalDist

    import numpy as np

    law = NormalDist()
    return np.array([law.inv_cdf((k + 0.5) / _QUANTILES) for k in range(_QUANTILES)])


def _moments(
    prompt: NDArray[np.float64],
    output: NDArray[np.float64],
    weights: NDArray[np.float64],
    chance: float,
    per_token: float,
) -> LengthMoments:
    import numpy as np

    share = weights / weights.sum()
    ends = np.clip(chance + per_token * output, 0.0, 1.0)
    generated = output * (1.0 - 0.5 * ends)
    squared = output * output * (1.0 - 2.0 / 3.0 * ends)
    return LengthMoments(
        prompt=float(share @ prompt),
        output=float(share @ generated),
        prompt_output=float(share @ (prompt * generated)),
        output_squared=float(share @ squared),
        requested=float(share @ (prompt + output)),
    )
