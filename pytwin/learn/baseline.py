"""Baselines that any trained model must beat: two fixed points, solved in closed form.

"mean field" is the estimate of `twin_core::surrogate`, from the profile, untrained. "fixed point"
is the textbook law ITL = (a B + b)(1 + c A), with B requests and A adapters in the batch: a, b and
c are fitted to the data set, then B = rate x E[output] x ITL is solved for each row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pytwin.learn.dataset import Dataset

_ITERATIONS = 60


def mean_field(data: Dataset) -> dict[str, NDArray[np.float64]]:
    """served_share, tpot_ms, ttft_ms and starved (0 or 1) of the untrained estimate."""
    share = data.column("served_share")
    return {
        "served_share": share,
        "tpot_ms": data.column("step_ms"),
        "ttft_ms": data.column("first_token_ms"),
        "starved": (share <= 0.9).astype(float),
    }


@dataclass(frozen=True)
class FixedPoint:
    """ITL = (a B + b)(1 + c A), in ms."""

    a: float
    b: float
    c: float

    @staticmethod
    def fit(data: Dataset) -> FixedPoint:
        """Least squares on the relative error of TPOT over the rows' mean batches."""
        import numpy as np

        from pytwin.learn.models import require

        batch = data.frame["mean_running"].to_numpy()
        adapters = data.frame["mean_batch_adapters"].to_numpy()
        tpot = data.labels["tpot_ms"]
        kept = np.isfinite(tpot) & (batch > 0)

        def residual(values: NDArray[np.float64]) -> NDArray[np.float64]:
            a, b, c = values
            law = (a * batch[kept] + b) * (1.0 + c * adapters[kept])
            return np.asarray(law / tpot[kept] - 1.0)

        found = require("scipy.optimize").least_squares(residual, [0.05, 15.0, 0.01]).x
        return FixedPoint(*(float(value) for value in found))

    def predict(self, data: Dataset) -> dict[str, NDArray[np.float64]]:
        """served_share, tpot_ms and starved (0 or 1), each shape (rows,)."""
        import numpy as np

        rate, output = data.column("rate_rps"), data.column("output_tokens")
        most = data.column("most_running")
        slots, served = data.column("max_loras"), data.column("served_adapters")
        batch = np.zeros(len(rate))
        for _ in range(_ITERATIONS):
            # Adapters of equal rate: each is in the batch with probability 1 - exp(-B / served).
            active = np.minimum(served * -np.expm1(-batch / served), slots)
            itl_ms = (self.a * batch + self.b) * (1.0 + self.c * active)
            batch = np.minimum(rate * output * itl_ms / 1e3, most)
        capacity = batch / (output * itl_ms / 1e3)
        share = np.minimum(capacity / rate, 1.0)
        return {
            "served_share": share,
            "tpot_ms": itl_ms,
            "starved": (share <= 0.9).astype(float),
        }
