"""Write trained models: JSON for the core, rules for people, Python for anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytwin.errors import DataError
from pytwin.learn import trees
from pytwin.learn.baseline import FixedPoint, mean_field
from pytwin.learn.bundle import make_bundle, write_bundle
from pytwin.learn.judge import score
from pytwin.learn.models import TARGETS

if TYPE_CHECKING:
    from pytwin.learn.dataset import Dataset
    from pytwin.learn.train import Fitted

_PYTHON_HEAD = '''"""{title}

Made by `{command}` on {date}. Needs nothing but Python. `predict` takes a mapping with the features
{features}
and returns one number per target; served_share, tpot_ms and ttft_ms are in units of the mean-field
estimates served_share, step_ms and first_token_ms (served_share at most 1), the others are
probabilities. What the features mean: docs/reference/learn.md of pytwin.
"""

import math
import struct


def _rounded(value):
    """To 32 bits, as scikit-learn does before it compares."""
    return struct.unpack("f", struct.pack("f", value))[0]


def _calibrated(value, x, y):
    """Piecewise linear, flat outside."""
    if not x or value <= x[0]:
        return y[0] if x else value
    if value >= x[-1]:
        return y[-1]
    right = next(k for k, edge in enumerate(x) if edge > value)
    x0, x1, y0, y1 = x[right - 1], x[right], y[right - 1], y[right]
    return y0 + (y1 - y0) * (value - x0) / (x1 - x0)

'''


def write_models(
    fitted: Mapping[str, Sequence[Fitted]],
    data: Dataset,
    provenance: Mapping[str, Any],
    output: Path,
) -> list[dict[str, Any]]:
    """Write everything into `output`; returns the table of held-out scores, best model first."""
    readable = [_of_family(models, "tree") for models in fitted.values()]
    best = [next(m for m in models if m.family.exportable) for models in fitted.values()]
    rows = [_row(model) for models in fitted.values() for model in models] + _baselines(data)
    report = {"provenance": dict(provenance), "scores": rows, "rows": len(data.groups)}
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_bundle(make_bundle("readable", readable, data, provenance), output / "readable.json")
        write_bundle(make_bundle("best", best, data, provenance), output / "best.json.gz")
        (output / "rules.txt").write_text(rules_text(fitted), encoding="utf-8")
        (output / "predict_readable.py").write_text(
            python_source(readable, provenance), encoding="utf-8"
        )
        (output / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"output ({output}) cannot be written: {error.strerror}") from None
    return rows


def rules_text(fitted: Mapping[str, Sequence[Fitted]]) -> str:
    """The readable trees and the rule lists, target by target."""
    parts = []
    for name, models in fitted.items():
        target = models[0].target
        unit = "" if target.offset is None else f" x {target.offset} (mean field), as a logarithm"
        for model in models:
            text = None
            if model.family.name == "tree":
                text = trees.as_text(trees.from_scikit_learn(
                    model.estimator.tree_, int(target.kind == "probability")), model.features
                )  # fmt: skip
            elif model.family.name == "rules":
                text = model.estimator.text(model.features)
            if text is not None:
                head = f"# {name}{unit}: {model.family.name}, held out: {model.scores.line()}"
                parts.append(f"{head}\n{text}\n")
    return "\n".join(parts)


def python_source(models: Sequence[Fitted], provenance: Mapping[str, Any]) -> str:
    """A module whose `predict` gives what the trees give, to the bit."""
    features = sorted({name for model in models for name in model.features})
    lines = [
        _PYTHON_HEAD.format(
            title="The readable models of pytwin.",
            command=provenance.get("command", "pytwin learn fit"),
            date=provenance.get("date", "?"),
            features=", ".join(features),
        )
    ]
    for model in models:
        tree = trees.from_scikit_learn(
            model.estimator.tree_, int(model.target.kind == "probability")
        )
        lines += ["", f"def _{model.target.name}(f):", *_source(tree, model.features, 0, 1), ""]
    lines += ["", "def predict(features):", '    """One number per target."""']
    lines.append("    f = {name: _rounded(value) for name, value in features.items()}")
    lines.append("    return {")
    for model in models:
        name, call = model.target.name, f"_{model.target.name}(f)"
        if model.target.kind == "probability":
            x, y = model.calibration
            value = f"_calibrated({call}, {x!r}, {y!r})"
        else:
            value = f'math.exp({call}) * features["{model.target.offset}"]'
            value = f"min({value}, 1.0)" if name == "served_share" else value
        lines.append(f'        "{name}": {value},')
    return "\n".join([*lines, "    }", ""])


def _source(tree: trees.Tree, names: Sequence[str], node: int, depth: int) -> list[str]:
    indent = "    " * depth
    feature = tree["feature"][node]
    if feature < 0:
        return [f"{indent}return {tree['value'][node]!r}"]
    return [
        f'{indent}if f["{names[feature]}"] <= {tree["threshold"][node]!r}:',
        *_source(tree, names, tree["left"][node], depth + 1),
        *_source(tree, names, tree["right"][node], depth),
    ]


def _of_family(models: Sequence[Fitted], name: str) -> Fitted:
    return next(model for model in models if model.family.name == name)


def _row(model: Fitted) -> dict[str, Any]:
    scores = model.scores
    return {
        "target": model.target.name,
        "model": model.family.name,
        "mape_percent": scores.mape_percent,
        "median_percent": scores.median_percent,
        "f1": scores.f1,
        "brier": scores.brier,
        "calibration_error": scores.calibration_error,
    }


def _baselines(data: Dataset) -> list[dict[str, Any]]:
    import numpy as np

    rows = []
    law = FixedPoint.fit(data)
    for name, answers in (("mean field", mean_field(data)), ("fixed point", law.predict(data))):
        for target in TARGETS:
            if target.name not in answers:
                continue
            labels = data.labels[target.name]
            kept = np.isfinite(labels)
            scores = score(target, answers[target.name][kept], labels[kept])
            rows.append(
                {
                    "target": target.name,
                    "model": name,
                    "mape_percent": scores.mape_percent,
                    "median_percent": scores.median_percent,
                    "f1": scores.f1,
                    "brier": scores.brier,
                    "calibration_error": scores.calibration_error,
                }
            )
    return rows
