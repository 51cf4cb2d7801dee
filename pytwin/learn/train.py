"""Choose models by grouped cross-validation, fit them, calibrate their probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytwin.errors import DataError
from pytwin.learn.judge import Scores, score
from pytwin.learn.models import FAMILIES, TARGETS, Family, Target, predict, require

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pytwin.learn.dataset import Dataset

FOLDS = 5
_LEAST_GROUPS = 2 * FOLDS
_CURVE_POINTS = 64


@dataclass(frozen=True)
class Fitted:
    """One target's model.

    Attributes
    ----------
    estimator: as fitted to all rows.
    features: the names that it reads, in order.
    calibration: (x, y) of the curve from its probability to the calibrated one; empty for numbers.
    scores: on rows of workloads that it did not see (out of fold, calibration out of fold too).
    """

    target: Target
    family: Family
    estimator: Any
    features: tuple[str, ...]
    calibration: tuple[list[float], list[float]]
    scores: Scores


def fit_all(
    data: Dataset,
    families: tuple[Family, ...] = FAMILIES,
    *,
    seed: int = 0,
    told: Callable[[str], None] = lambda _: None,
) -> dict[str, list[Fitted]]:
    """Every family on every target: target name -> fitted models, the best out of fold first.

    Raises
    ------
    DataError: too few workloads to leave some out, or a label that never varies.
    """  # fmt: skip
    workloads = len(set(data.groups.tolist()))
    if workloads < _LEAST_GROUPS:
        raise DataError(
            f"the data set has {workloads} workloads (distinct profile, rates, ranks, lengths), "
            f"at least {_LEAST_GROUPS} are needed to leave some out: sweep more of them"
        )
    fitted: dict[str, list[Fitted]] = {}
    for target in TARGETS:
        models = []
        for kind in families:
            models.append(fit(data, target, kind, seed=seed))
            told(f"{target.name} {kind.name}: {models[-1].scores.line()}")
        fitted[target.name] = sorted(models, key=lambda item: item.scores.loss)
    return fitted


def fit(data: Dataset, target: Target, kind: Family, *, seed: int = 0) -> Fitted:
    """One family on one target, judged out of fold."""
    import numpy as np

    names = kind.features or data.names
    x = data.x[:, [data.names.index(name) for name in names]]
    y = target.encode(data)
    rows = np.flatnonzero(np.isfinite(y) & np.isfinite(x).all(axis=1))
    if len(rows) == 0 or np.ptp(y[rows]) == 0:
        raise DataError(
            f"label {target.name} is {'missing' if len(rows) == 0 else 'the same'} in all rows: "
            "sweep configurations on both sides of the edge"
        )
    x, y, groups = x[rows], y[rows], data.groups[rows]
    raw = np.full(len(rows), np.nan)
    folds = require("sklearn.model_selection").GroupKFold(FOLDS)
    for train, held_out in folds.split(x, y, groups):
        if np.ptp(y[train]) == 0:  # nothing to learn from, and some estimators refuse to try
            raw[held_out] = y[train][0]
            continue
        model = kind.fitted(target.kind, seed, x[train], y[train], names)
        raw[held_out] = predict(model, target.kind, x[held_out])
    curve: tuple[list[float], list[float]] = ([], [])
    calibrated = raw
    if target.kind == "probability":
        curve = _curve(raw, y)
        calibrated = np.full(len(rows), np.nan)
        for train, held_out in folds.split(x, y, groups):
            calibrated[held_out] = apply_curve(_curve(raw[train], y[train]), raw[held_out])
    model = kind.fitted(target.kind, seed, x, y, names)
    predicted = target.decode(calibrated, data.x[rows], data.names)
    scores = score(target, predicted, data.labels[target.name][rows])
    return Fitted(target, kind, model, names, curve, scores)


def _curve(
    raw: NDArray[np.float64], labels: NDArray[np.float64]
) -> tuple[list[float], list[float]]:
    """Isotonic regression of the label on the model's probability, thinned to some points."""
    import numpy as np

    isotonic = require("sklearn.isotonic").IsotonicRegression(y_min=0.0, y_max=1.0)
    isotonic.fit(raw, labels)
    x, y = isotonic.X_thresholds_, isotonic.y_thresholds_
    if len(x) > _CURVE_POINTS:
        kept = np.unique(np.linspace(0, len(x) - 1, _CURVE_POINTS).round().astype(int))
        x, y = x[kept], y[kept]
    rising = np.concatenate([[True], np.diff(x) > 0])
    return [float(value) for value in x[rising]], [float(value) for value in y[rising]]


def apply_curve(
    curve: tuple[list[float], list[float]], raw: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Calibrated probabilities; flat outside the curve."""
    import numpy as np

    if not curve[0]:
        return raw
    return np.asarray(np.interp(raw, *curve), dtype=float)
