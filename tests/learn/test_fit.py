"""`pytwin learn fit` on a tiny sweep, from the sweep to an answer; and its broken inputs."""

from __future__ import annotations

import json
import shutil

import polars as pl
import pytest

from pytwin.learn.bundle import load_bundle
from pytwin.learn.dataset import read_dataset
from tests.conftest import LLAMA

pytest.importorskip("sklearn", reason="scikit-learn is needed to train: make dev")
pytest.importorskip("lightgbm", reason="LightGBM is needed to train: make dev")

SPEC = """
name: tiny
base: {{profile: {profile}, duration_s: 60, lengths: [100, 60], max_lora_rank: 8}}
grid:
  rates_rps: {rates}
  ranks: [[8]]
  served_adapters: [4, 16]
  max_loras: [2, 4, 16]
link: {{max_cpu_loras: served_adapters}}
where: max_loras <= served_adapters
"""
RATES = [[round(0.02 * 1.45**k, 4)] for k in range(18)]


def sweep(cli, directory, rates=RATES, profile=LLAMA, replace=()):
    spec = directory / "tiny.yaml"
    text = SPEC.format(profile=profile, rates=json.dumps(rates))
    for old, new in replace:
        assert old in text
        text = text.replace(old, new)
    spec.write_text(text)
    done = cli("sweep", spec, "-o", directory / "rows")
    assert done.code == 0, done.err
    return directory / "rows"


@pytest.fixture(scope="module")
def own_profile(tmp_path_factory):
    """A profile under a path of its own, as `pytwin calibrate fit` leaves it."""
    from pytwin.catalog import load_profile

    path = tmp_path_factory.mktemp("profile") / "mine.json"
    document = json.loads(load_profile(LLAMA).text)
    path.write_text(json.dumps(document | {"name": "mine@somewhere"}))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, own_profile):
    import contextlib
    import io

    from pytwin.cli import main
    from tests.conftest import Outcome

    def cli(*arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(argument) for argument in arguments])
        return Outcome(code, out.getvalue(), err.getvalue())

    directory = tmp_path_factory.mktemp("fit")
    rows = sweep(cli, directory, profile=own_profile)
    models = directory / "models"
    done = cli("learn", "fit", rows, "-o", models, "--families", "tree,rules", "--format", "json")
    assert done.code == 0, done.err
    return rows, models, done


def test_the_files_are_there(trained):
    _, models, _ = trained
    assert sorted(path.name for path in models.iterdir()) == [
        "best.json.gz", "importance.png", "partial_dependence.png", "predict_readable.py",
        "readable.json", "reliability.png", "report.json", "rules.txt",
    ]  # fmt: skip


def test_scores_are_printed_and_kept(trained):
    _, models, done = trained
    rows = json.loads(done.out)
    assert {row["model"] for row in rows} == {"tree", "rules", "mean field", "fixed point"}
    report = json.loads((models / "report.json").read_text())
    assert report["scores"] == rows
    assert report["rows"] == 18 * 5
    assert "pytwin learn fit" in report["provenance"]["command"]
    assert "starved tree: F1" in done.err  # progress


def test_the_labels_are_those_of_the_rows(trained):
    rows, _, _ = trained
    data = read_dataset(rows)
    assert len(set(data.groups.tolist())) == len(RATES)
    frame = data.frame
    nominal = frame["rates_rps"].list.first() * frame["served_adapters"] * 160
    share = (frame["total_throughput"] / nominal).to_numpy()
    assert data.labels["served_share"] == pytest.approx(share)
    assert (data.labels["starved"] == (share <= 0.9)).all()
    assert 0 < data.labels["starved"].mean() < 1
    # A starved row keeps the throughput it had.
    assert data.labels["throughput"].min() > 0


def test_own_models_answer_for_their_own_profile(cli, trained, own_profile):
    _, models, _ = trained
    done = cli(
        "recommend", "--profile", own_profile, "--models", models / "best.json.gz",
        "--rates-rps", "0.1", "--ranks", "8", "--served", "4,16", "--slots", "4,16",
        "--lengths", "100,60", "--duration-s", "60", "--no-verify", "--format", "json",
    )  # fmt: skip
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["fallback"] == []
    assert found["simulations"] == 0
    assert found["served_adapters"] == 16
    assert found["total_throughput"] == pytest.approx(16 * 0.1 * 160, rel=0.1)


def test_a_bundle_remembers_where_it_comes_from(trained):
    _, models, _ = trained
    document = load_bundle(str(models / "readable.json")).document
    assert document["profiles"] == ["mine@somewhere"]
    assert document["duration_s"] == 60
    assert document["workloads"] == len(RATES)
    assert document["range"]["served_adapters"] == [4, 16]


def test_too_few_workloads_are_one_line(cli, tmp_path):
    rows = sweep(cli, tmp_path, rates=[[0.1], [0.2]])
    done = cli("learn", "fit", rows, "-o", tmp_path / "models")
    assert done.code == 2
    assert "the data set has 2 workloads" in done.err
    assert not (tmp_path / "models").exists()


def test_one_side_of_the_edge_is_one_line(cli, tmp_path):
    rates = [[20 + k] for k in range(10)]  # all of them far too much
    rows = sweep(cli, tmp_path, rates=rates, replace=[("[4, 16]", "[4]"), ("[2, 4, 16]", "[4]")])
    done = cli("learn", "fit", rows, "-o", tmp_path / "models", "--families", "tree")
    assert done.code == 2
    assert "is the same in all rows: sweep configurations on both sides of the edge" in done.err


def test_several_horizons_are_one_line(cli, tmp_path):
    rows = sweep(
        cli, tmp_path, rates=[[0.1], [0.2]],
        replace=[(", duration_s: 60", ""), ("  ranks:", "  duration_s: [30, 60]\n  ranks:")],
    )  # fmt: skip
    done = cli("learn", "fit", rows, "-o", tmp_path / "models")
    assert done.code == 2
    assert "duration_s (30, 60) must be the same in all rows" in done.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--families", "tree,magic"), "families (magic) must be of tree, forest, boosted"),
        (("--families", "forest"), "families must hold tree"),
    ],
)
def test_bad_flags_are_one_line(cli, trained, tmp_path, options, message):
    rows, _, _ = trained
    done = cli("learn", "fit", rows, "-o", tmp_path / "models", *options)
    assert done.code == 2
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_no_sweep_a_file_for_output_and_torn_parts_are_one_line(cli, trained, tmp_path):
    rows, _, _ = trained
    done = cli("learn", "fit", tmp_path / "nowhere", "-o", tmp_path / "models")
    assert done.code == 2
    assert "nowhere" in done.err
    (tmp_path / "taken").write_text("")
    done = cli("learn", "fit", rows, "-o", tmp_path / "taken")
    assert done.code == 2
    assert "must be a directory" in done.err
    torn = tmp_path / "torn"
    shutil.copytree(rows, torn)
    part = next(torn.glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    done = cli("learn", "fit", torn, "-o", tmp_path / "models")
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1


def test_a_sweep_without_the_columns_is_one_line(cli, tmp_path):
    spec = tmp_path / "plain.yaml"
    spec.write_text(
        f"name: plain\nbase: {{profile: {LLAMA}, duration_s: 10, base_rate_rps: 1}}\n"
        "grid: {max_num_seqs: [8, 16]}\n"
    )
    assert cli("sweep", spec, "-o", tmp_path / "rows").code == 0
    done = cli("learn", "fit", tmp_path / "rows", "-o", tmp_path / "models")
    assert done.code == 2
    assert "has no column" in done.err
    assert "rates_rps" in done.err


def test_rows_of_failed_or_infeasible_configurations_are_left_out(cli, tmp_path):
    larger = [
        ("[2, 4, 16]", "[4, 900]"), ("[4, 16]", "[4, 900]"), ("lora_rank: 8", "lora_rank: 64"),
    ]  # fmt: skip
    rows = sweep(cli, tmp_path, rates=[[0.1]], replace=larger)
    import pytwin.sweep

    assert "infeasible" in pytwin.sweep.open(rows).collect()["status"].to_list()
    data = read_dataset(rows)
    assert set(data.frame["status"]) == {"ok"}
    assert data.frame.filter(pl.col("max_loras") == 900).is_empty()
