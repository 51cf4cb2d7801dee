"""Pictures of trained models: what they look at, how each feature acts, whether to believe them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytwin.errors import DataError
from pytwin.learn.models import require

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pytwin.learn.dataset import Dataset
    from pytwin.learn.train import Fitted

Ranking = list[tuple[str, float]]

_ROWS = 1000
_SHOWN = 10
_CURVES = 4
_GRID = 25
_REPEATS = 3


def write_plots(
    fitted: Mapping[str, Sequence[Fitted]], data: Dataset, output: Path, *, seed: int = 0
) -> list[Path]:
    """Write importance.png, partial_dependence.png and reliability.png into `output`.

    Of each target's best model that can be exported. Importance is by permutation (scikit-learn):
    how much worse the model explains its labels when one feature is shuffled. Partial dependence
    is the mean answer when one feature is set to a value in every row. Reliability is out of
    fold. Rows beyond 1,000 are thinned evenly.

    Raises
    ------
    DataError: `output` cannot be written.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    best = [next(m for m in models if m.family.exportable) for models in fitted.values()]
    ranked = [importances(model, data, seed) for model in best]
    figures = {
        "importance.png": _importance(best, ranked),
        "partial_dependence.png": _partial_dependence(best, ranked, data),
        "reliability.png": _reliability(fitted),
    }
    try:
        for name, figure in figures.items():
            # Without the date and the library's version the same models give the same bytes.
            figure.savefig(output / name, dpi=110, metadata={"Software": None})
    except OSError as error:
        raise DataError(f"output ({output}) cannot be written: {error.strerror}") from None
    return [output / name for name in figures]


def importances(model: Fitted, data: Dataset, seed: int = 0) -> Ranking:
    """(feature, loss of the score when it is shuffled), most important first; R2 or accuracy."""
    x, y = _rows(model, data)
    found = require("sklearn.inspection").permutation_importance(
        model.estimator, x, y, n_repeats=_REPEATS, random_state=seed, n_jobs=1
    )
    pairs = zip(model.features, found.importances_mean.tolist(), strict=True)
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))


def partial_dependence(
    model: Fitted, data: Dataset, feature: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values of a feature and the estimator's mean answer at each, both shape (points,)."""
    import numpy as np

    from pytwin.learn.models import predict

    x, _ = _rows(model, data)
    column = model.features.index(feature)
    values = np.unique(np.quantile(x[:, column], np.linspace(0.02, 0.98, _GRID)))
    answers = np.empty(len(values))
    for k, value in enumerate(values):
        x[:, column] = value
        answers[k] = predict(model.estimator, model.target.kind, x).mean()
    return values, answers


def _rows(model: Fitted, data: Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Features and encoded labels of rows that have both, thinned."""
    import numpy as np

    x = data.x[:, [data.names.index(name) for name in model.features]]
    y = model.target.encode(data)
    rows = np.flatnonzero(np.isfinite(y) & np.isfinite(x).all(axis=1))
    if len(rows) > _ROWS:
        rows = rows[np.linspace(0, len(rows) - 1, _ROWS).astype(int)]
    return x[rows], y[rows]


def _figure(count: int, columns: int, width: float, height: float) -> tuple[Any, list[Any]]:
    import matplotlib.pyplot as plt

    rows = -(-count // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained"
    )
    flat = list(axes.ravel())
    for spare in flat[count:]:
        spare.set_visible(False)
    plt.close(figure)
    return figure, flat[:count]


def _importance(models: Sequence[Fitted], ranked: Sequence[Ranking]) -> Any:
    figure, axes = _figure(len(models), 3, 4.2, 3.0)
    for axis, model, ranking in zip(axes, models, ranked, strict=True):
        top = ranking[:_SHOWN][::-1]
        axis.barh([name for name, _ in top], [value for _, value in top], color="#4c72b0")
        axis.set_title(f"{model.target.name}: {model.family.name}", fontsize=9)
        axis.set_xlabel("loss of score when shuffled", fontsize=8)
        axis.tick_params(labelsize=7)
    return figure


def _partial_dependence(models: Sequence[Fitted], ranked: Sequence[Ranking], data: Dataset) -> Any:
    figure, axes = _figure(len(models) * _CURVES, _CURVES, 2.8, 2.2)
    for k, (model, ranking) in enumerate(zip(models, ranked, strict=True)):
        top = [name for name, _ in ranking[:_CURVES]]
        for axis, feature in zip(axes[k * _CURVES :], top, strict=False):
            values, answers = partial_dependence(model, data, feature)
            axis.plot(values, answers, color="#4c72b0", marker=".", markersize=3)
            axis.set_xlabel(feature, fontsize=8)
            axis.tick_params(labelsize=7)
        unit = "probability" if model.target.offset is None else f"log(x / {model.target.offset})"
        axes[k * _CURVES].set_ylabel(f"{model.target.name}\n{unit}", fontsize=8)
    return figure


def _reliability(fitted: Mapping[str, Sequence[Fitted]]) -> Any:
    of_probability = {
        name: models for name, models in fitted.items() if models[0].target.kind == "probability"
    }
    figure, axes = _figure(len(of_probability), 2, 4.0, 3.6)
    for axis, (name, models) in zip(axes, of_probability.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for model in models:
            table = model.scores.reliability
            label = f"{model.family.name}, Brier {model.scores.brier:.4f}"
            axis.plot(
                [mean for mean, _, _ in table], [share for _, share, _ in table],
                marker="o", markersize=3, label=label,
            )  # fmt: skip
        axis.set_title(f"{name}, workloads held out", fontsize=9)
        axis.set_xlabel("predicted probability", fontsize=8)
        axis.set_ylabel("observed share", fontsize=8)
        axis.legend(fontsize=7)
        axis.tick_params(labelsize=7)
    return figure
