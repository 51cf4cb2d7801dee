"""Recordings that no profile may come from: each says in one line what is wrong with it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytwin.calibrate.recordings import fit, read_runs
from pytwin.errors import PytwinError
from tests.calibrate.synthetic import record


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("good") / "run", requests=90)


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "run"))


def edit(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


def header(path: Path, **changed: Any) -> None:
    """Change the header of a recording; a dict is merged."""

    def change(lines: list[str]) -> list[str]:
        first = json.loads(lines[0])
        for name, value in changed.items():
            first[name] = {**first.get(name, {}), **value} if isinstance(value, dict) else value
        return [json.dumps(first), *lines[1:]]

    edit(path / "steps.jsonl", change)


def complaint(paths: list[Path], **options: Any) -> str:
    """The one line that a fit of these ends with."""
    with pytest.raises(PytwinError) as error:
        fit(read_runs(paths, torn=options.pop("torn", "error")), model="m", gpu="g", **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def keep_steps(path: Path, count: int) -> None:
    """The first steps of a recording, with what belongs to them, well closed."""
    steps = (path / "steps.jsonl").read_text().splitlines()
    kept = [json.loads(line) for line in steps if json.loads(line)["e"] == "step"][:count]
    edit(path / "steps.jsonl", lambda lines: [*lines[: count + 1], lines[-1]])
    last = kept[-1]["i"]
    edit(path / "worker.jsonl", lambda lines: [
        line for line in lines
        if json.loads(line)["e"] in ("file", "end") or json.loads(line)["t"] < kept[-1]["t2"]
    ])  # fmt: skip
    edit(path / "requests.jsonl", lambda lines: [
        line for line in lines if json.loads(line).get("step", 0) <= last
    ])  # fmt: skip


def test_the_recording_that_the_others_are_made_of_is_good(good):
    assert fit(read_runs([good]), model="m", gpu="g").document["step_time"]["terms"]


def test_nothing_there(tmp_path):
    assert "is no directory" in complaint([tmp_path / "absent"])
    (tmp_path / "empty").mkdir()
    assert "holds no recording" in complaint([tmp_path / "empty"])


@pytest.mark.parametrize("name", ["steps.jsonl", "requests.jsonl"])
def test_a_file_that_is_missing_or_empty(copy, name):
    (copy / name).write_text("")
    assert f"{name} is empty" in complaint([copy])
    (copy / name).unlink()
    assert name in complaint([copy])


def test_a_line_that_is_broken_in_the_middle(copy):
    edit(copy / "steps.jsonl", lambda lines: [*lines[:50], lines[50][:40], *lines[51:]])
    assert "steps.jsonl line 51" in complaint([copy])


def test_steps_that_are_missing_in_between(copy):
    edit(copy / "steps.jsonl", lambda lines: lines[:60] + lines[64:])
    assert "steps are missing" in complaint([copy])


def test_a_torn_end_is_an_error_or_a_stated_loss(copy):
    edit(copy / "steps.jsonl", lambda lines: lines[:-1])  # killed: no end line
    text = (copy / "steps.jsonl").read_text()
    (copy / "steps.jsonl").write_text(text[:-60])
    assert "ends in a torn line" in complaint([copy])
    result = fit(read_runs([copy], torn="drop"), model="m", gpu="g")
    said = "\n".join(result.remarks)
    assert "steps.jsonl ends in a torn line, left out" in said
    assert "killed" in said
    assert said.splitlines()[0] in result.document["provenance"]["remarks"]


def test_two_runs_in_one_directory(copy, tmp_path):
    other = record(tmp_path / "other", seed=4, requests=30)
    both = (copy / "steps.jsonl").read_text() + (other / "steps.jsonl").read_text()
    (copy / "steps.jsonl").write_text(both)
    assert "2 headers" in complaint([copy])


def test_the_worker_of_another_run(copy, tmp_path):
    other = record(tmp_path / "other", seed=4)
    shutil.copy(other / "worker.jsonl", copy / "worker.jsonl")
    assert "worker's steps are not the scheduler's" in complaint([copy])


def test_times_that_go_backwards(copy):
    def change(lines: list[str]) -> list[str]:
        step = json.loads(lines[80])
        step["t0"] -= 50.0
        return [*lines[:80], json.dumps(step), *lines[81:]]

    edit(copy / "steps.jsonl", change)
    assert "times of steps go backwards" in complaint([copy])


def test_lora_without_the_workers_events(copy):
    (copy / "worker.jsonl").unlink()
    assert "adapter loads cannot be told from steps" in complaint([copy])


def test_a_version_that_is_not_modelled(copy):
    header(copy, vllm="0.11.0")
    assert "was recorded on vLLM 0.11.0" in complaint([copy])


def test_features_that_are_not_modelled(copy):
    header(copy, unmodelled=["speculative_config"])
    assert "speculative_config" in complaint([copy])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"vllm": "0.8.5"}, "vLLM versions (run: 0.32.0, other: 0.8.5)"),
        ({"model": {"name": "another"}}, "models (run: this, other: another)"),
        ({"model": {"dtype": "torch.float16"}}, "dtypes"),
        ({"server": {"tensor_parallel_size": 2}}, "tensor_parallel_size (run: 1, other: 2)"),
        ({"model": {"enforce_eager": True}}, "enforce_eager"),
    ],
)
def test_recordings_of_different_servers(copy, tmp_path, changed, said):
    other = Path(shutil.copytree(copy, tmp_path / "other"))
    base = {"name": "this", "dtype": "torch.bfloat16", "enforce_eager": False}
    for path in (copy, other):
        header(path, model=base, server={"tensor_parallel_size": 1})
    header(other, **changed)
    message = complaint([copy, other])
    assert said in message
    assert "fit each kind of server by itself" in message


def test_scheduling_ahead_and_not(copy, tmp_path):
    other = record(tmp_path / "other", asynchronous=True, requests=60)
    assert "differ in async_scheduling" in complaint([copy, other])


def test_recordings_of_one_name(good, copy):
    assert "two recordings are called run" in complaint([good, copy])


def test_too_few_steps(copy):
    keep_steps(copy, 90)
    message = complaint([copy])
    assert "72 timed steps to fit on, at least 200 are needed" in message
    assert "record longer" in message


def test_traffic_of_one_kind_of_step(tmp_path):
    # One long request at a time: its prompts are a handful of steps.
    run = record(tmp_path / "run", requests=12, max_num_seqs=1)
    keep_steps(run, 320)
    assert "steps with prefill, 30 are needed" in complaint([run])


def test_nothing_left_to_fit_on(good):
    assert "leaves nothing to fit on" in complaint([good], hold_out=["run"])
    assert "hold_out (another) must be one of" in complaint([good], hold_out=["another"])


def test_a_directory_of_measured_tables(tmp_path):
    (tmp_path / "runs.parquet").write_bytes(b"")
    assert "python -m calibration.refit --traces" in complaint([tmp_path])


# -- the client's file ---------------------------------------------------------------------------


def remarks(path: Path) -> str:
    return "\n".join(fit(read_runs([path]), model="m", gpu="g").remarks)


def test_without_a_client_the_way_out_is_unknown_and_said_so(copy):
    (copy / "client.json").unlink()
    result = fit(read_runs([copy]), model="m", gpu="g")
    assert result.document["frontend"]["egress"] == []
    assert "egress unknown" in "\n".join(result.remarks)
    assert result.document["errors"]["frontend"]["client"] == "server"


def test_without_a_client_the_api_servers_account_stands_in(copy):
    full = fit(read_runs([copy]), model="m", gpu="g").document["frontend"]
    document = json.loads((copy / "client.json").read_text())
    (copy / "client.json").unlink()
    rows: list[dict[str, Any]] = [{"e": "file", "format": 1, "run": "x", "t": 1000.0}]
    for row in document["requests"]:
        first, last = row["token_times"][0] - row["sent"], row["token_times"][-1] - row["sent"]
        made = len(row["token_times"])
        times = {"t": row["token_times"][-1], "ttft": first, "e2e": last}
        rows.append({"e": "served", "id": row["id"], "out": made, **times})
    (copy / "frontend-77.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    result = fit(read_runs([copy]), model="m", gpu="g")
    said = "\n".join(result.remarks)
    assert "requests are timed at the API server" in said
    assert "the way between client and API server is not in it" in said
    for found, known in zip(result.document["frontend"]["egress"], full["egress"], strict=True):
        assert found["coefficient"] == pytest.approx(known["coefficient"], rel=0.02)


def test_a_clients_file_that_is_broken(copy):
    (copy / "client.json").write_text('{"requests": [')
    assert "client.json is not JSON" in complaint([copy])
    (copy / "client.json").write_text('{"something": 1}')
    assert "is no client's file" in complaint([copy])


def test_a_clients_file_of_another_run_or_clock(copy):
    document = json.loads((copy / "client.json").read_text())
    for row in document["requests"]:
        row["sent"] += 3600.0
    (copy / "client.json").write_text(json.dumps(document))
    assert "its clock is not the server's" in remarks(copy)
    for number, row in enumerate(document["requests"]):
        row["id"] = f"another{number}"
    (copy / "client.json").write_text(json.dumps(document))
    assert "none of its requests is the server's" in remarks(copy)


def test_front_ends_of_two_kinds_are_not_mixed(good, tmp_path):
    other = record(tmp_path / "other", seed=6, requests=60, client=None)
    result = fit(read_runs([good, other]), model="m", gpu="g")
    assert "front ends of several kinds" in "\n".join(result.remarks)
    assert result.document["errors"]["frontend"]["client"] == "timed"
