"""How good predictions are, in the terms of the project's targets."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pytwin.learn.models import Target

_BINS = 10


@dataclass(frozen=True)
class Scores:
    """Of a number: mean and median absolute percentage error, and the 95th percentile.

    Of a probability: F1 at one half, Brier score, expected calibration error, and the reliability
    table (mean prediction, observed share, rows) of ten bins.
    """

    rows: int
    loss: float
    mape_percent: float | None = None
    median_percent: float | None = None
    p95_percent: float | None = None
    f1: float | None = None
    brier: float | None = None
    calibration_error: float | None = None
    reliability: tuple[tuple[float, float, int], ...] = ()

    def line(self) -> str:
        """The main figures in a line."""
        if self.f1 is None:
            return f"MAPE {self.mape_percent:.2f} %, median {self.median_percent:.2f} %"
        return f"F1 {self.f1:.4f}, Brier {self.brier:.4f}"

    def document(self) -> dict[str, Any]:
        """As JSON takes it, without what does not apply."""
        items = asdict(self).items()
        return {
            name: round(value, 5) if isinstance(value, float) else value
            for name, value in items
            if value not in (None, ())
        }


def score(target: Target, predicted: NDArray[np.float64], labels: NDArray[np.float64]) -> Scores:
    """Scores of predictions against labels, both shape (rows,)."""
    if target.kind == "probability":
        return _of_probability(predicted, labels)
    import numpy as np

    error = 100.0 * np.abs(predicted / labels - 1.0)
    # Logarithmic loss: a TTFT wrong by a factor of two weighs alike in both directions.
    loss = float(np.mean(np.abs(np.log(np.maximum(predicted, 1e-12) / labels))))
    return Scores(
        rows=len(labels),
        loss=loss,
        mape_percent=float(error.mean()),
        median_percent=float(np.median(error)),
        p95_percent=float(np.quantile(error, 0.95)),
    )


def f1_score(predicted: NDArray[np.bool_], labels: NDArray[np.bool_]) -> float:
    """Harmonic mean of precision and recall; 1 where there is nothing to find nor found."""
    both = int((predicted & labels).sum())
    total = int(predicted.sum()) + int(labels.sum())
    return 2 * both / total if total else 1.0


def _of_probability(predicted: NDArray[np.float64], labels: NDArray[np.float64]) -> Scores:
    import numpy as np

    truth = labels > 0.5
    bins = np.minimum((predicted * _BINS).astype(int), _BINS - 1)
    table = []
    gap = 0.0
    for index in range(_BINS):
        inside = bins == index
        if not inside.any():
            continue
        mean, share = float(predicted[inside].mean()), float(labels[inside].mean())
        table.append((round(mean, 4), round(share, 4), int(inside.sum())))
        gap += abs(mean - share) * inside.mean()
    brier = float(np.mean((predicted - labels) ** 2))
    return Scores(
        rows=len(labels),
        loss=brier,
        f1=f1_score(predicted > 0.5, truth),
        brier=brier,
        calibration_error=float(gap),
        reliability=tuple(table),
    )
