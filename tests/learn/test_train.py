"""Training: folds by workload, calibrated probabilities, rule lists, what cannot be learned."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import ClassVar

import numpy as np
import pytest

from pytwin.errors import DataError, PytwinError
from pytwin.learn.baseline import FixedPoint, mean_field
from pytwin.learn.judge import f1_score, score
from pytwin.learn.models import FAMILIES, TARGETS, Family, family, require
from pytwin.learn.rules import RuleList
from pytwin.learn.train import FOLDS, apply_curve, fit, fit_all
from tests.learn.synthetic import dataset

tree = pytest.importorskip("sklearn.tree", reason="scikit-learn is needed to train: make dev")
pytest.importorskip("lightgbm", reason="LightGBM is needed to train: make dev")

BY_NAME = {target.name: target for target in TARGETS}


class Recorder:
    """An estimator that notes which workloads it was trained on and asked about."""

    seen: ClassVar[list[tuple[set[float], set[float]]]] = []

    def __init__(self) -> None:
        self.trained: set[float] = set()

    def fit(self, x, y):
        self.trained = set(x[:, 0])
        return self

    def predict(self, x):
        Recorder.seen.append((self.trained, set(x[:, 0])))
        return np.zeros(len(x))

    def predict_proba(self, x):
        return np.tile([0.7, 0.3], (len(x), 1)) + 0 * self.predict(x)[:, None]


@pytest.mark.parametrize("name", ["tpot_ms", "starved"])
def test_a_workload_is_never_in_training_and_held_out_at_once(name):
    data = dataset(rows=200, groups=17)
    data.x[:, 0] = data.groups  # the recorder reads the workload's number
    Recorder.seen.clear()
    fit(data, BY_NAME[name], Family("recorder", lambda *_: Recorder()))
    assert len(Recorder.seen) == FOLDS
    held = [asked for _, asked in Recorder.seen]
    for trained, asked in Recorder.seen:
        assert not trained & asked
        assert trained | asked == set(range(17))
    assert sum(len(asked) for asked in held) == 17  # each is held out once


def test_scores_are_of_rows_that_the_model_did_not_see():
    """A tree that remembers every row would otherwise be perfect."""
    data = dataset(rows=200, groups=200)
    data = replace(data, groups=np.arange(200))
    rng = np.random.Generator(np.random.PCG64(5))
    labels = data.labels | {"starved": (rng.random(200) < 0.5).astype(float)}
    memory = Family("memory", lambda *_: tree.DecisionTreeClassifier(random_state=0))
    found = fit(replace(data, labels=labels), BY_NAME["starved"], memory)
    assert found.estimator.score(data.x, labels["starved"]) == 1.0
    assert 0.3 < found.scores.f1 < 0.7


def test_calibration_mends_a_model_that_exaggerates():
    rng = np.random.Generator(np.random.PCG64(1))
    data = dataset(rows=2000, groups=100)
    truth = rng.uniform(0.2, 0.8, 2000)
    data.x[:, 0] = truth
    labels = data.labels | {"starved": (rng.random(2000) < truth).astype(float)}

    class Exaggerates:
        def fit(self, x, y):
            return self

        def predict_proba(self, x):
            bold = 1 / (1 + np.exp(-12 * (x[:, 0] - 0.5)))
            return np.stack([1 - bold, bold], axis=1)

    found = fit(
        replace(data, labels=labels), BY_NAME["starved"], Family("x", lambda *_: Exaggerates())
    )
    raw = score(BY_NAME["starved"], Exaggerates().predict_proba(data.x)[:, 1], labels["starved"])
    assert found.scores.brier < raw.brier
    assert found.scores.calibration_error < 0.5 * raw.calibration_error
    x, y = found.calibration
    assert len(x) == len(y) <= 64
    assert x == sorted(set(x))
    assert y == sorted(y)
    assert 0 <= min(y) <= max(y) <= 1
    assert apply_curve(found.calibration, np.array([-1.0, 2.0])).tolist() == [y[0], y[-1]]


def test_models_are_sorted_by_what_they_err_held_out():
    data = dataset(rows=300, groups=15)
    found = fit_all(data, (family("tree"), family("rules"), family("linear")))
    assert list(found) == [target.name for target in TARGETS]
    for models in found.values():
        losses = [model.scores.loss for model in models]
        assert losses == sorted(losses)
    assert found["starved"][0].scores.f1 > 0.9  # labels follow from utilisation
    best = found["tpot_ms"][0].scores
    assert best.mape_percent < 5  # gain > 1 is worth 30 %
    untrained = score(BY_NAME["tpot_ms"], mean_field(data)["tpot_ms"], data.labels["tpot_ms"])
    assert best.mape_percent < untrained.mape_percent


def test_training_again_gives_the_same_model():
    data = dataset()
    one, two = (fit(data, BY_NAME["ttft_ms"], family("forest"), seed=3) for _ in range(2))
    assert one.scores == two.scores
    np.testing.assert_array_equal(one.estimator.predict(data.x), two.estimator.predict(data.x))


def test_rows_without_the_label_are_left_out():
    data = dataset()
    labels = dict(data.labels)
    labels["tpot_ms"] = np.where(np.arange(300) % 3 == 0, np.nan, labels["tpot_ms"])
    assert fit(replace(data, labels=labels), BY_NAME["tpot_ms"], family("tree")).scores.rows == 200


def test_too_few_workloads_or_one_kind_of_label_is_one_line():
    data = dataset(rows=60, groups=4)
    with pytest.raises(DataError, match=r"has 4 workloads .* at least 10 are needed"):
        fit_all(data)
    data = dataset()
    same = replace(data, labels=data.labels | {"starved": np.zeros(300)})
    with pytest.raises(DataError, match="label starved is the same in all rows"):
        fit(same, BY_NAME["starved"], family("tree"))
    none = replace(data, labels=data.labels | {"tpot_ms": np.full(300, np.nan)})
    with pytest.raises(DataError, match="label tpot_ms is missing in all rows"):
        fit(none, BY_NAME["tpot_ms"], family("tree"))


def test_a_missing_library_says_what_to_install():
    with pytest.raises(PytwinError, match=r"training needs no_such: pip install 'pytwin\[learn\]'"):
        require("no_such.module")


def test_boosted_starvation_never_falls_with_load():
    data = dataset(rows=400, groups=20)
    model = family("boosted").make("probability", 0, data.names)
    model.set_params(n_estimators=30).fit(data.x, data.labels["slo_missed"])
    column = data.names.index("utilisation")
    for row in data.x[:20]:
        rows = np.tile(row, (25, 1))
        rows[:, column] = np.linspace(0.0, 2.0, 25)
        risk = model.predict_proba(rows)[:, 1]
        assert (np.diff(risk) >= -1e-12).all()


def evaluate(text: str, row: dict[str, float]) -> float:
    """What a reader of a rule list's text would answer."""
    for line in text.splitlines():
        head, _, tail = line.partition(": ")
        value = float(tail.split()[0])
        if head == "else":
            return value
        tests = re.findall(r"(\w+) (<=|>) (\S+)", head)
        if all((row[name] <= float(t)) == (sign == "<=") for name, sign, t in tests):
            return value
    raise AssertionError("no else")


def test_a_rule_list_reads_as_it_answers():
    rng = np.random.Generator(np.random.PCG64(0))
    x = rng.uniform(0, 1, (1000, 2))
    y = np.where(x[:, 0] > 0.6, 5.0, np.where(x[:, 1] > 0.5, 2.0, 1.0))
    rules = RuleList(partial(tree.DecisionTreeRegressor, random_state=0)).fit(x, y)
    np.testing.assert_array_equal(np.unique(rules.predict(x)), [1.0, 2.0, 5.0])
    assert (rules.predict(x) != y).mean() < 0.01
    text = rules.text(("load", "rank"))
    lines = text.splitlines()
    assert lines[0].startswith("if ")
    assert all(line.startswith("else if ") for line in lines[1:-1])
    assert lines[-1].startswith("else: ")
    read = [evaluate(text, {"load": a, "rank": b}) for a, b in x]
    assert (np.array(read) != rules.predict(x)).mean() < 0.002  # thresholds have six digits
    share = rules.predict_proba(x)
    np.testing.assert_allclose(share.sum(axis=1), 1.0)


def test_the_fixed_point_law_is_recovered_from_rows_that_follow_it():
    data = dataset(rows=300)
    batch, adapters = (
        data.frame["mean_running"].to_numpy(),
        data.frame["mean_batch_adapters"].to_numpy(),
    )
    labels = data.labels | {"tpot_ms": (0.4 * batch + 12.0) * (1 + 0.05 * adapters)}
    law = FixedPoint.fit(replace(data, labels=labels))
    assert [law.a, law.b, law.c] == pytest.approx([0.4, 12.0, 0.05], rel=1e-3)
    found = law.predict(data)
    assert set(found["starved"]) <= {0.0, 1.0}
    assert (found["served_share"] <= 1.0).all()


def test_scores_by_hand():
    truth = np.array([True, True, False, False])
    assert f1_score(np.array([True, False, True, False]), truth) == 0.5
    assert f1_score(np.zeros(2, dtype=bool), np.zeros(2, dtype=bool)) == 1.0
    found = score(BY_NAME["tpot_ms"], np.array([11.0, 9.0]), np.array([10.0, 10.0]))
    assert found.mape_percent == pytest.approx(10)
    sure = score(BY_NAME["starved"], np.array([0.05, 0.95, 0.95]), np.array([0.0, 1.0, 1.0]))
    assert sure.f1 == 1.0
    assert sure.brier == pytest.approx(0.0025)
    assert sure.calibration_error == pytest.approx(0.05)
    assert sure.reliability == ((0.05, 0.0, 1), (0.95, 1.0, 2))


def test_every_family_can_be_made():
    assert [item.name for item in FAMILIES] == ["tree", "forest", "boosted", "rules", "linear"]
    for item in FAMILIES:
        for kind in ("regression", "probability"):
            assert hasattr(item.make(kind, 0, dataset(20).names), "fit")


def test_a_slow_family_learns_from_a_part_of_the_rows():
    data = dataset(rows=400, groups=20)
    y = data.labels["tpot_ms"]
    part = replace(family("tree"), most_rows=100)
    seen = part.fitted("regression", 0, data.x, y, data.names)
    assert seen.tree_.n_node_samples[0] == 100
    again = part.fitted("regression", 0, data.x, y, data.names)
    assert np.array_equal(seen.predict(data.x), again.predict(data.x))
    assert family("tree").fitted("regression", 0, data.x, y, data.names).tree_.n_node_samples[
        0
    ] == (400)


def test_a_part_without_the_rare_class_is_not_taken():
    data = dataset(rows=400, groups=20)
    rare = np.zeros(400)
    rare[7] = 1.0
    some = replace(family("tree"), most_rows=2)
    assert list(some.fitted("probability", 0, data.x, rare, data.names).classes_) == [0.0, 1.0]


@pytest.mark.parametrize("name", ["tree", "forest", "boosted", "rules", "linear"])
def test_folds_in_which_nothing_starves_do_not_end_the_training(name):
    """One workload alone starves: the folds that leave it out know one class."""
    data = dataset(rows=200, groups=10)
    labels = data.labels | {"starved": (data.groups == 3).astype(float)}
    found = fit(replace(data, labels=labels), BY_NAME["starved"], family(name))
    assert found.scores.rows == 200
