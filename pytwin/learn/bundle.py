"""Trained models in one file: what is exported, shipped, read and evaluated by the core."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytwin import _core
from pytwin.catalog import load_profile
from pytwin.errors import ConfigError, DataError
from pytwin.learn import trees
from pytwin.learn.describe import Describer
from pytwin.learn.models import TARGETS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pytwin.learn.dataset import Dataset
    from pytwin.learn.train import Fitted

SCHEMA = 1
SHIPPED = Path(__file__).parent / "shipped"

# What a question must keep to for a model to answer it; the rest of the features follow from these.
RANGED = (
    "served_adapters", "max_loras", "max_lora_rank", "rate_max_rps", "prompt_tokens",
    "output_tokens", "context_tokens", "kv_tokens", "least_step_ms", "utilisation",
    "slot_pressure",
)  # fmt: skip


def tree_model(model: Fitted) -> dict[str, Any]:
    """A fitted tree, forest or boosted model as the core's `TreeModel` reads it."""
    estimator, probability = model.estimator, model.target.kind == "probability"
    document: dict[str, Any] = {"features": list(model.features)}
    if hasattr(estimator, "booster_"):
        dumped = estimator.booster_.dump_model()["tree_info"]
        document["trees"] = [trees.from_lightgbm(item["tree_structure"]) for item in dumped]
        document["link"] = "logistic" if probability else "identity"
    else:
        members = getattr(estimator, "estimators_", None)
        column = 1 if probability else 0
        document["trees"] = [
            trees.from_scikit_learn(member.tree_, column)
            for member in (members if members is not None else [estimator])
        ]
        document |= {"mean": members is not None, "float32": True}
    if model.calibration[0]:
        document["calibration"] = {"x": model.calibration[0], "y": model.calibration[1]}
    return document


def make_bundle(
    name: str, models: Sequence[Fitted], data: Dataset, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """The document of one set of models, one per target."""
    # A sweep may have named them by their files; a question names them as it likes.
    profiles = sorted({load_profile(name).name for name in set(data.frame["profile"].to_list())})
    return {
        "schema": SCHEMA,
        "name": name,
        "profiles": profiles,
        "provenance": dict(provenance),
        "duration_s": data.duration_s,
        "rows": len(data.groups),
        "workloads": len(set(data.groups.tolist())),
        "range": {
            feature: [float(data.column(feature).min()), float(data.column(feature).max())]
            for feature in RANGED
        },
        "models": {
            model.target.name: {
                "family": model.family.name,
                "held_out": model.scores.document(),
                "model": tree_model(model),
            }
            for model in models
        },
    }


def write_bundle(document: Mapping[str, Any], path: Path) -> None:
    """Write a bundle as JSON, compressed where the name ends in .gz; the same bytes every time."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
    else:
        path.write_text(text + "\n", encoding="utf-8")


@dataclass(frozen=True, eq=False)
class Bundle:
    """Models read from a file, ready to answer."""

    document: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The bundle's own name."""
        return str(self.document["name"])

    @cached_property
    def _models(self) -> dict[str, tuple[_core.TreeModel, list[int]]]:
        models = {}
        for name, entry in self.document["models"].items():
            try:
                model = _core.TreeModel(json.dumps(entry["model"]))
                models[name] = model, [Describer.names.index(item) for item in model.features]
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(f"models ({self.name}), {name}: {error}: train them anew") from None
        return models

    def predict(self, x: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Every target for rows of features, shape (rows, features).

        Returns
        -------
        dict: served_share (throughput over nominal rate x mean lengths), tpot_ms, ttft_ms, starved
            and slo_missed (probabilities), each shape (rows,); NaN for rows of NaN.
        """
        import numpy as np

        found = {}
        known = ~np.isnan(x).any(axis=1)
        for target in TARGETS:
            model, columns = self._models[target.name]
            raw = np.full(len(x), np.nan)
            raw[known] = model.predict(np.ascontiguousarray(x[known][:, columns]))
            found[target.name] = target.decode(raw, x, Describer.names)
        return found

    def outside(self, row: NDArray[np.float64]) -> list[str]:
        """Why a row of features is beyond what the models were trained on; empty if it is not."""
        reasons = []
        for feature, (low, high) in self.document["range"].items():
            value = float(row[Describer.names.index(feature)])
            if not low <= value <= high:
                reasons.append(f"{feature} {value:g}, trained on {low:g} to {high:g}")
        return reasons

    def inside(self, x: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Rows of features within the training range, shape (rows,)."""
        import numpy as np

        kept = np.ones(len(x), dtype=bool)
        for feature, (low, high) in self.document["range"].items():
            column = x[:, Describer.names.index(feature)]
            kept &= (column >= low) & (column <= high)
        return kept


def load_bundle(name: str) -> Bundle:
    """A shipped bundle by name ("best", "readable"), or one by the path of its file.

    Raises
    ------
    ConfigError: no such bundle. DataError: the file is none.
    """
    shipped = {path.name.split(".")[0]: path for path in sorted(SHIPPED.glob("*.json*"))}
    path = shipped.get(name, Path(name))
    if not path.is_file():
        raise ConfigError(
            f"models ({name}) are unknown: shipped are {', '.join(shipped) or 'none'}; "
            "or give the path of a file of pytwin learn fit"
        )
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _read(path: Path, _mtime_ns: int) -> Bundle:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        document = json.loads(content)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"models ({path}) cannot be read: {error}") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise DataError(
            f"models ({path}) have schema {found}, this version reads {SCHEMA}: train them anew "
            "with pytwin learn fit"
        )
    missing = [target.name for target in TARGETS if target.name not in document.get("models", {})]
    if missing:
        raise DataError(f"models ({path}) lack {', '.join(missing)}: train them anew")
    return Bundle(document)
