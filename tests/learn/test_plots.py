"""Pictures of models: the figures behind them, and the files."""

from __future__ import annotations

import numpy as np
import pytest

from pytwin.errors import DataError
from pytwin.learn.models import TARGETS, family
from pytwin.learn.plots import importances, partial_dependence, write_plots
from pytwin.learn.train import fit, fit_all
from tests.learn.synthetic import dataset

pytest.importorskip("sklearn", reason="scikit-learn is needed to train: make dev")

DATA = dataset()
BY_NAME = {target.name: target for target in TARGETS}


def test_what_a_label_follows_from_is_what_matters():
    found = dict(importances(fit(DATA, BY_NAME["tpot_ms"], family("tree")), DATA))
    assert max(found, key=found.__getitem__) == "gain"  # tpot is 30 % longer where gain > 1
    assert found["gain"] > 10 * abs(found["max_loras"])


def test_partial_dependence_follows_the_label():
    model = fit(DATA, BY_NAME["tpot_ms"], family("tree"))
    values, answers = partial_dependence(model, DATA, "gain")
    assert (np.diff(values) > 0).all()
    step = answers[values > 1.1].mean() - answers[values < 0.9].mean()
    assert step == pytest.approx(np.log(1.3), abs=0.03)
    flat = partial_dependence(model, DATA, "max_loras")[1]
    assert np.ptp(flat) < 0.05


def test_pictures_are_written_and_the_same_every_time(tmp_path):
    found = fit_all(DATA, (family("tree"),))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        files = write_plots(found, DATA, tmp_path / name)
    assert [path.name for path in files] == [
        "importance.png", "partial_dependence.png", "reliability.png",
    ]  # fmt: skip
    for path in files:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()
    with pytest.raises(DataError, match="cannot be written"):
        write_plots(found, DATA, tmp_path / "nowhere")
