"""The models that are tried, all with scikit-learn's fit and predict.

Each predicts one target of `TARGETS` from the features of `describe`. Times and shares are learned
as corrections to the mean-field estimate (`offset`), so that a model only has to know where the
estimate errs: fluctuations, queues for slots, preemption.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pytwin.errors import PytwinError
from pytwin.learn.rules import RuleList

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pytwin.learn.dataset import Dataset

MOST_LEAVES = 32
"""Of a readable tree: a person can check so many rules."""

Kind = Literal["regression", "probability"]


@dataclass(frozen=True)
class Target:
    """What a model predicts.

    Attributes
    ----------
    name: the label in the data set.
    kind: a number, learned as log(label / offset), or a probability.
    offset: feature that the label is measured in; None for the label itself.
    """

    name: str
    kind: Kind
    offset: str | None = None

    def encode(self, data: Dataset) -> NDArray[np.float64]:
        """What the estimator learns, shape (rows,); NaN where the label is missing."""
        import numpy as np

        label = data.labels[self.name]
        if self.kind == "probability":
            return label
        with np.errstate(divide="ignore", invalid="ignore"):
            encoded: NDArray[np.float64] = np.log(label / self._unit(data.x, data.names))
        return np.where(np.isfinite(encoded), encoded, np.nan)

    def decode(
        self, raw: NDArray[np.float64], x: NDArray[np.float64], names: tuple[str, ...]
    ) -> NDArray[np.float64]:
        """Predictions in the label's unit from the estimator's."""
        import numpy as np

        if self.kind == "probability":
            return raw
        value: NDArray[np.float64] = np.exp(raw) * self._unit(x, names)
        return np.minimum(value, 1.0) if self.name == "served_share" else value

    def _unit(self, x: NDArray[np.float64], names: tuple[str, ...]) -> NDArray[np.float64]:
        import numpy as np

        if self.offset is None:
            return np.ones(len(x))
        unit: NDArray[np.float64] = x[:, names.index(self.offset)]
        return unit


TARGETS = (
    Target("served_share", "regression", "served_share"),
    Target("tpot_ms", "regression", "step_ms"),
    Target("ttft_ms", "regression", "first_token_ms"),
    Target("starved", "probability"),
    Target("slo_missed", "probability"),
)

# Monotone by physics: more load for the same capacity never starves less.
_RISING = {"utilisation", "slot_pressure", "slot_wait_s", "slot_queue", "kv_pressure"}

READABLE = (
    "utilisation", "served_share", "kv_pressure", "slot_pressure", "slot_wait_s", "slot_queue",
    "slots_per_adapter", "top_slots_share", "rate_max_rps", "step_ms", "gain", "load_share",
    "served_adapters", "max_loras",
)  # fmt: skip
"""Features that the readable models may use: each has a meaning at a glance."""


def require(module: str) -> Any:
    """Import a library of the extra `learn`, or say how to get it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise PytwinError(
            f"training needs {module.split('.', maxsplit=1)[0]}: pip install 'pytwin[learn]'"
        ) from None


def _tree(kind: Kind, seed: int, _names: tuple[str, ...]) -> Any:
    tree = require("sklearn.tree")
    maker = tree.DecisionTreeClassifier if kind == "probability" else tree.DecisionTreeRegressor
    return maker(max_leaf_nodes=MOST_LEAVES, min_samples_leaf=20, random_state=seed)


def _rules(_kind: Kind, seed: int, _names: tuple[str, ...]) -> Any:
    make = require("sklearn.tree").DecisionTreeRegressor
    return RuleList(partial(make, random_state=seed))


def _forest(kind: Kind, seed: int, _names: tuple[str, ...]) -> Any:
    ensemble = require("sklearn.ensemble")
    maker = (
        ensemble.RandomForestClassifier if kind == "probability" else ensemble.RandomForestRegressor
    )
    return maker(
        n_estimators=40,
        max_leaf_nodes=128,
        min_samples_leaf=5,
        max_features=0.5,
        random_state=seed,
        n_jobs=1,
    )


def _boosted(kind: Kind, seed: int, names: tuple[str, ...]) -> Any:
    lightgbm = require("lightgbm")
    common = {
        "n_estimators": 200,
        "learning_rate": 0.1,
        "num_leaves": 31,
        "min_child_samples": 20,
        "random_state": seed,
        "n_jobs": 1,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    if kind == "probability":
        rising = [int(name in _RISING) for name in names]
        return lightgbm.LGBMClassifier(**common, monotone_constraints=rising or None)
    return lightgbm.LGBMRegressor(**common, objective="regression_l1")


def _linear(kind: Kind, _seed: int, _names: tuple[str, ...]) -> Any:
    linear = require("sklearn.linear_model")
    preprocessing = require("sklearn.preprocessing")
    pipeline = require("sklearn.pipeline")
    model = (
        linear.LogisticRegression(max_iter=2000)
        if kind == "probability"
        else linear.Ridge(alpha=1.0)
    )
    return pipeline.make_pipeline(
        preprocessing.FunctionTransformer(_signed_log),
        preprocessing.StandardScaler(),
        model,
    )


def _signed_log(x: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    return np.asarray(np.sign(x) * np.log1p(np.abs(x)))


@dataclass(frozen=True)
class Family:
    """A kind of model.

    Attributes
    ----------
    make: (kind, seed, feature names) -> an unfitted estimator.
    features: those it reads; None for all.
    exportable: whether it is trees, which the core and the exports can evaluate.
    most_rows: it learns from so many rows at most, drawn with the seed: a model with few values to
        set gains nothing from more, and takes its time over them. None for all.
    """

    name: str
    make: Callable[[Kind, int, tuple[str, ...]], Any]
    features: tuple[str, ...] | None = None
    exportable: bool = True
    most_rows: int | None = None

    def fitted(
        self,
        kind: Kind,
        seed: int,
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        names: tuple[str, ...],
    ) -> Any:
        """A new estimator that learned from features (rows, names) and labels (rows,)."""
        import numpy as np

        if self.most_rows is not None and len(y) > self.most_rows:
            drawn = np.random.default_rng(seed).choice(len(y), self.most_rows, replace=False)
            drawn.sort()
            if np.ptp(y[drawn]) > 0:  # else what is rare would not be learned at all
                x, y = x[drawn], y[drawn]
        estimator = self.make(kind, seed, names)
        estimator.fit(x, y)
        return estimator


FAMILIES = (
    Family("tree", _tree, READABLE),
    Family("forest", _forest, most_rows=50_000),
    Family("boosted", _boosted),
    Family("rules", _rules, READABLE, exportable=False, most_rows=50_000),
    Family("linear", _linear, READABLE, exportable=False),
)


def family(name: str) -> Family:
    """The family of that name."""
    return next(item for item in FAMILIES if item.name == name)


def predict(estimator: Any, kind: Kind, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Numbers, or probabilities of a classifier's second class."""
    raw = estimator.predict_proba(x)[:, 1] if kind == "probability" else estimator.predict(x)
    return raw.astype(float)  # type: ignore[no-any-return]
