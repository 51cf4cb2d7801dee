"""What is exported answers as scikit-learn and LightGBM do: in the core, and in plain Python."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from pytwin import _core
from pytwin.learn import trees
from pytwin.learn.bundle import load_bundle, make_bundle, tree_model, write_bundle
from pytwin.learn.describe import Describer
from pytwin.learn.export import python_source, rules_text
from pytwin.learn.judge import Scores
from pytwin.learn.models import MOST_LEAVES, READABLE, TARGETS, Family, family, predict
from pytwin.learn.train import Fitted, apply_curve, fit, fit_all
from tests.learn.synthetic import at_the_edge, dataset

pytest.importorskip("sklearn", reason="scikit-learn is needed to compare with: make dev")
pytest.importorskip("lightgbm", reason="LightGBM is needed to compare with: make dev")

DATA = dataset()
REGRESSION = next(target for target in TARGETS if target.name == "tpot_ms")
PROBABILITY = next(target for target in TARGETS if target.name == "starved")


def small(name):
    """The family with few trees, so that a test takes a moment."""

    def make(kind, seed, names):
        estimator = family(name).make(kind, seed, names)
        if "n_estimators" in estimator.get_params():
            estimator.set_params(n_estimators=12)
        return estimator

    return replace(family(name), make=make)


def fitted(name, target, calibration=([], [])):
    """One family fitted to the made-up rows, without cross-validation."""
    chosen = small(name)
    names = chosen.features or DATA.names
    x = DATA.x[:, [DATA.names.index(item) for item in names]]
    y = target.encode(DATA)
    kept = np.isfinite(y)
    model = chosen.make(target.kind, 0, names)
    model.fit(x[kept], y[kept])
    return Fitted(target, chosen, model, names, calibration, Scores(rows=len(y), loss=0.0))


def columns(model, x):
    return x[:, [Describer.names.index(name) for name in model.features]]


@pytest.mark.parametrize("target", [REGRESSION, PROBABILITY], ids=lambda target: target.name)
@pytest.mark.parametrize("name", ["tree", "forest", "boosted"])
def test_the_core_evaluates_trees_as_the_library_that_made_them(name, target):
    model = fitted(name, target)
    document = tree_model(model)
    x = columns(model, np.concatenate([DATA.x, at_the_edge([document])]))
    ours = _core.TreeModel(json.dumps(document)).predict(np.ascontiguousarray(x))
    if name == "boosted":
        theirs = (
            model.estimator.predict_proba(x)[:, 1]
            if target.kind == "probability"
            else model.estimator.predict(x)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-13)
    else:
        np.testing.assert_array_equal(ours, predict(model.estimator, target.kind, x))
    assert len(np.unique(ours)) >= 3


def test_edge_rows_tell_32_from_64_bits():
    """The rows above do reach the rounding: compared in 64 bits some answers change."""
    document = tree_model(fitted("tree", REGRESSION))
    x = np.ascontiguousarray(columns(fitted("tree", REGRESSION), at_the_edge([document])))
    rounded = _core.TreeModel(json.dumps(document)).predict(x)
    plain = _core.TreeModel(json.dumps(document | {"float32": False})).predict(x)
    assert (rounded != plain).any()


def test_the_core_calibrates_as_numpy_interpolates():
    curve = ([0.1, 0.4, 0.7], [0.0, 0.2, 1.0])
    model = fitted("forest", PROBABILITY, curve)
    x = columns(model, DATA.x)
    ours = _core.TreeModel(json.dumps(tree_model(model))).predict(np.ascontiguousarray(x))
    theirs = apply_curve(curve, predict(model.estimator, "probability", x))
    np.testing.assert_allclose(ours, theirs, atol=1e-15)
    assert 0 < (ours == 0.0).sum() < len(ours)


@pytest.fixture(scope="module")
def readable():
    return [fit(DATA, target, family("tree")) for target in TARGETS]


@pytest.fixture(scope="module")
def bundle(readable, tmp_path_factory):
    document = make_bundle("readable", readable, DATA, {"date": "today"})
    path = tmp_path_factory.mktemp("bundle") / "readable.json.gz"
    write_bundle(document, path)
    return load_bundle(str(path))


def test_the_readable_models_are_small_and_use_plain_features(readable):
    for model in readable:
        tree = trees.from_scikit_learn(model.estimator.tree_)
        assert 2 <= trees.leaves(tree) <= MOST_LEAVES
        assert set(model.features) == set(READABLE)


def test_plain_python_equals_the_bundle(readable, bundle, tmp_path):
    path = tmp_path / "predict_readable.py"
    path.write_text(python_source(readable, {"command": "pytwin learn fit", "date": "today"}))
    entries = [entry["model"] for entry in bundle.document["models"].values()]
    x = np.concatenate([DATA.x, at_the_edge(entries)])
    rows = [dict(zip(Describer.names, row, strict=True)) for row in x.tolist()]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    # Isolated: neither this environment's packages nor the working directory can be imported.
    program = (
        "import json, runpy; m = runpy.run_path('predict_readable.py');"
        "print(json.dumps([m['predict'](row) for row in json.load(open('rows.json'))]))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    answers = json.loads(done.stdout)
    expected = bundle.predict(x)
    for target in TARGETS:
        plain = [answer[target.name] for answer in answers]
        np.testing.assert_allclose(plain, expected[target.name], rtol=1e-14, atol=0)


def test_the_exported_function_imports_the_standard_library_alone(readable):
    tree = ast.parse(python_source(readable, {}))
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert imported == {"math", "struct"}
    assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(tree))


def test_a_bundle_is_the_same_bytes_every_time(readable, tmp_path):
    document = make_bundle("readable", readable, DATA, {"date": "today"})
    for name in ("a.json.gz", "b.json.gz"):
        write_bundle(document, tmp_path / name)
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()


def test_a_bundle_leaves_out_rows_that_cannot_start(bundle):
    x = DATA.x[:3].copy()
    x[1] = np.nan
    found = bundle.predict(x)
    assert set(found) == {target.name for target in TARGETS}
    for values in found.values():
        assert np.isnan(values).tolist() == [False, True, False]


def test_the_range_is_that_of_the_training_rows(bundle):
    assert bundle.inside(DATA.x).all()
    for feature in bundle.document["range"]:
        column = Describer.names.index(feature)
        for beyond in (0.5 * DATA.x[:, column].min(), 2 * DATA.x[:, column].max()):
            row = DATA.x[0].copy()
            row[column] = beyond
            reasons = bundle.outside(row)
            assert [reason.split()[0] for reason in reasons] == [feature]
            assert "trained on" in reasons[0]
            assert not bundle.inside(row[None, :])[0]


def test_rules_are_written_for_every_target():
    tiny = dataset(rows=300, groups=12, seed=2)
    found = fit_all(tiny, (family("tree"), family("rules")))
    text = rules_text(found)
    for target in TARGETS:
        for name in ("tree", "rules"):
            assert any(
                line.startswith(f"# {target.name}") and f": {name}, held out: " in line
                for line in text.splitlines()
            )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not json", "cannot be read"),
        (b"[]", "have schema list, this version reads 1"),
        (b'{"schema": 0}', "have schema 0, this version reads 1"),
        (b'{"schema": 1, "models": {}}', "lack served_share, tpot_ms"),
    ],
)
def test_a_broken_bundle_is_one_line(tmp_path, content, message):
    from pytwin.errors import DataError

    path = tmp_path / "models.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_bundle(str(path))
    assert "\n" not in str(caught.value)


def test_a_torn_compressed_bundle_is_one_line(bundle, tmp_path):
    from pytwin.errors import DataError

    path = tmp_path / "best.json.gz"
    write_bundle(bundle.document, path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="cannot be read"):
        load_bundle(str(path))


def test_broken_models_within_a_bundle_are_one_line(bundle, tmp_path):
    from pytwin.errors import PytwinError

    document = json.loads(json.dumps(bundle.document))
    document["models"]["starved"]["model"]["trees"][0]["left"][0] = 10_000
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(document))
    with pytest.raises(PytwinError, match="bad feature or child"):
        load_bundle(str(path)).predict(DATA.x)


def test_families_read_features_by_name():
    assert isinstance(family("boosted"), Family)
    model = fitted("boosted", PROBABILITY)
    assert model.features == DATA.names
