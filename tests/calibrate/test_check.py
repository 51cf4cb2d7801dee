"""A profile against what was measured: recordings and results of vllm bench serve."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytwin.calibrate.check import check
from pytwin.calibrate.recordings import fit, read_runs
from pytwin.errors import PytwinError
from tests.calibrate.synthetic import Truth, record

# Every adapter has a slot: nothing depends on the order in which adapters are visited.
ROOMY = {"max_loras": 8, "max_cpu_loras": 8}


@pytest.fixture(scope="module", params=[False, True], ids=["sync", "async"])
def exact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A profile of a server without noise, and another run of the same server."""
    folder = tmp_path_factory.mktemp("exact")
    kind = {"asynchronous": request.param, **ROOMY}
    made = fit(read_runs([record(folder / "fitted", **kind)]), model="m", gpu="g")
    # The way in is known to 0.1 ms only, and a request that just misses a step shifts all others.
    (way_in,) = made.document["frontend"]["ingress"]
    assert way_in["coefficient"] == pytest.approx(1e3 * Truth().ingress, abs=100)
    way_in["coefficient"] = 1e3 * Truth().ingress
    # Eight loads do not tell what a rank costs.
    rank = {"coefficient": 1e3 * Truth().disk_rank, "factors": ["rank"]}
    base = {"coefficient": 1e3 * Truth().disk, "factors": []}
    made.document["load_time"]["disk"] = [base, rank]
    profile = folder / "profile.json"
    profile.write_text(json.dumps(made.document))
    return str(profile), record(folder / "other", seed=7, requests=120, **kind)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A profile of a LoRA-free server, and a bench result measured on it."""
    folder = tmp_path_factory.mktemp("bench")
    off = {"max_loras": 0, "max_cpu_loras": None, "client": "bench"}
    run = record(folder / "run", requests=200, **off)
    made = fit(read_runs([run]), model="m", gpu="g")
    profile = folder / "profile.json"
    profile.write_text(json.dumps(made.document))
    return str(profile), run / "client.json"


def rows(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["metric"]: row for row in report["end_to_end"]}


def test_the_same_arrivals_give_the_same_latencies(exact):
    profile, other = exact
    report = check(profile, other)
    found = rows(report)
    for name in ("completed", "max_running", "preemptions", "lora_loads_disk", "lora_loads_memory"):
        assert found[name]["simulated"] == found[name]["measured"], name
    for name in (
        "duration", "output_throughput", "mean_ttft_ms", "p99_ttft_ms", "mean_tpot_ms",
        "p99_tpot_ms", "mean_itl_ms", "mean_e2el_ms", "mean_running",
    ):  # fmt: skip
        assert abs(found[name]["error_percent"]) < 0.2, name
    assert report["requests"]["ttft_ms"]["requests"] == 120
    assert report["requests"]["ttft_ms"]["median_error_percent"] < 0.2
    assert report["requests"]["tpot_ms"]["median_error_percent"] < 0.2
    assert report["fitted_on"] == "no"
    assert all(row["median_error_percent"] < 0.1 for row in report["steps"] + report["loads"])


def test_a_slower_machine_shows_in_every_figure(exact, tmp_path):
    profile, _ = exact
    data = json.loads(Path(profile).read_text())
    asynchronous = data["server"]["async_scheduling"]
    slow = record(
        tmp_path / "slow", truth=Truth(base=18.0), seed=7, asynchronous=asynchronous, **ROOMY
    )
    report = check(profile, slow)
    every = {row["steps"]: row for row in report["steps"]}
    assert every["all"]["bias_percent"] < -30
    assert every["decode"]["bias_percent"] < every["prefill"]["bias_percent"] < 0
    assert rows(report)["mean_tpot_ms"]["error_percent"] < -30
    assert rows(report)["mean_ttft_ms"]["error_percent"] < 0


def test_bias_is_told_by_batch_adapters_and_prompt(exact):
    profile, other = exact
    names = [row["steps"] for row in check(profile, other)["steps"]]
    for start in ("decode, requests ", "decode, adapters ", "prefill, prompt tokens "):
        assert sum(name.startswith(start) for name in names) >= 2


def test_beyond_what_was_measured_is_flagged(exact, tmp_path):
    profile, other = exact
    assert check(profile, other.parent / "fitted")["extrapolated"] == []
    asynchronous = json.loads(Path(profile).read_text())["server"]["async_scheduling"]
    wide = record(
        tmp_path / "wide", seed=2, requests=60, asynchronous=asynchronous, max_loras=9,
        max_cpu_loras=9, block_size=32,
    )  # fmt: skip
    reasons = "; ".join(check(profile, wide)["extrapolated"])
    assert "max_loras 9, measured 8 to 8" in reasons
    assert "block_size 32, measured 16 to 16" in reasons
    assert "num_gpu_blocks_override" not in reasons  # the recording's own


def test_a_recording_with_aborts_and_a_sudden_end(exact, tmp_path):
    profile, other = exact
    cut = Path(shutil.copytree(other, tmp_path / "cut"))
    steps = (cut / "steps.jsonl").read_text().splitlines()
    (cut / "steps.jsonl").write_text("\n".join(steps[:300]) + "\n")
    last = json.loads(steps[299])
    worker = [json.loads(line) for line in (cut / "worker.jsonl").read_text().splitlines()]
    keep = [e for e in worker if e["e"] == "file" or e["t"] <= last["t1"] + 1e-9]
    (cut / "worker.jsonl").write_text("\n".join(map(json.dumps, keep)) + "\n")
    requests = [json.loads(line) for line in (cut / "requests.jsonl").read_text().splitlines()]
    inside = [e for e in requests if e.get("step", 0) <= last["i"] and e["e"] != "end"]
    alive = [e["id"] for e in inside if e["e"] == "req"][-1]
    inside.append({"e": "abort", "t": last["t0"], "id": alive, "step": last["i"]})
    (cut / "requests.jsonl").write_text("\n".join(map(json.dumps, inside)) + "\n")
    client = json.loads((cut / "client.json").read_text())
    for row in client["requests"]:
        row["token_times"] = [time for time in row["token_times"] if time < last["t3"]]
    (cut / "client.json").write_text(json.dumps(client))
    report = check(profile, cut)
    said = "\n".join(report["remarks"])
    assert "1 aborted requests are played back with the tokens that they got" in said
    assert "ends with requests in flight" in said
    found = rows(report)
    assert 0 < found["completed"]["measured"] < 120
    assert found["completed"]["simulated"] == pytest.approx(found["completed"]["measured"], abs=2)
    assert abs(found["mean_tpot_ms"]["error_percent"]) < 3


def test_a_recording_of_another_model_is_said_so(exact, tmp_path):
    profile, other = exact
    named = Path(shutil.copytree(other, tmp_path / "named"))
    lines = (named / "steps.jsonl").read_text().splitlines()
    first = json.loads(lines[0]) | {"model": {"name": "org/another"}}
    (named / "steps.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    remarks = check(profile, named)["remarks"]
    assert "the recording is of model another, the profile of m" in remarks


def test_a_recording_without_a_client_is_timed_at_the_engine(exact, tmp_path):
    profile, other = exact
    alone = Path(shutil.copytree(other, tmp_path / "alone"))
    (alone / "client.json").unlink()
    report = check(profile, alone)
    assert "latencies are the engine's" in "\n".join(report["remarks"])
    assert rows(report)["mean_ttft_ms"]["measured"] > 0


def test_several_recordings_are_checked_one_at_a_time(exact):
    profile, other = exact
    with pytest.raises(PytwinError, match=r"2 recordings .*check one at a time"):
        check(profile, other.parent)


# -- vllm bench serve ----------------------------------------------------------------------------


def written(tmp_path: Path, source: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    document = json.loads(source.read_text())
    change(document)
    path = tmp_path / "result.json"
    path.write_text(json.dumps(document))
    return path


def test_a_detailed_result_is_played_back(bench):
    profile, result = bench
    report = check(profile, result, server={"max_loras": 0})
    found = rows(report)
    assert report["kind"] == "bench"
    for name in ("output_throughput", "mean_ttft_ms", "mean_tpot_ms", "mean_itl_ms"):
        assert abs(found[name]["error_percent"]) < 1.5, name
    assert report["requests"]["ttft_ms"]["median_error_percent"] < 1.5


def test_totals_alone_are_compared_by_their_means(bench, tmp_path):
    profile, result = bench

    def totals(document: dict[str, Any]) -> None:
        for name in ("input_lens", "output_lens", "ttfts", "itls", "start_times", "errors"):
            del document[name]

    report = check(profile, written(tmp_path, result, totals))
    found = rows(report)
    assert "totals only" in "\n".join(report["remarks"])
    assert report["requests"] == {}
    # Bursts are gone (the true arrivals are unknown), but load and step times are not.
    assert abs(found["output_throughput"]["error_percent"]) < 10
    assert abs(found["mean_itl_ms"]["error_percent"]) < 10
    assert "median_ttft_ms" not in found


def test_without_start_times_arrivals_are_drawn(bench, tmp_path):
    profile, result = bench
    path = written(tmp_path, result, lambda document: document.pop("start_times"))
    report = check(profile, path)
    assert "no start_times: arrivals are drawn" in "\n".join(report["remarks"])
    assert abs(rows(report)["mean_itl_ms"]["error_percent"]) < 10


def test_adapters_of_a_result_are_drawn_and_said_so(exact, bench, tmp_path):
    profile, _ = exact
    _, result = bench
    report = check(
        profile, result, server={"max_loras": 8, "max_lora_rank": 32}, adapters=8, ranks=(8, 16)
    )
    assert "names no adapters: drawn uniformly from 8" in "\n".join(report["remarks"])
    # Adapters cost time that the LoRA-free server did not spend.
    assert rows(report)["mean_itl_ms"]["error_percent"] > 5
    with pytest.raises(PytwinError, match="max_loras is missing for 8 adapters"):
        check(profile, result, adapters=8)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.pop("duration"), "has no duration"),
        (lambda d: d.update(completed=0), "no request completed"),
        (lambda d: d["ttfts"].pop(), "ttfts has 199 entries and input_lens 200"),
        (lambda d: d.update(errors=["refused"] * 200), "every request failed"),
        (lambda d: d.update(itls=5), "is no result of vllm bench serve"),
        (lambda d: d.update(ttfts=[float("nan")] * 200), "request 0 is no time"),
        (lambda d: d.update(mean_tpot_ms=float("nan")), "mean_tpot_ms (nan) must be"),
        (lambda d: d.update(mean_ttft_ms="fast"), "mean_ttft_ms (fast) must be"),
        (lambda d: d.update(duration=0), "duration (0) must be"),
    ],
)
def test_a_damaged_result_is_one_line(bench, tmp_path, change, said):
    profile, result = bench
    with pytest.raises(PytwinError) as error:
        check(profile, written(tmp_path, result, change))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_failed_requests_are_left_out_and_counted(bench, tmp_path):
    profile, result = bench

    def fail(document: dict[str, Any]) -> None:
        document["errors"][3] = "connection reset"
        document["output_lens"][3] = 0

    report = check(profile, written(tmp_path, result, fail))
    assert "1 failed requests are left out" in "\n".join(report["remarks"])
    assert rows(report)["completed"]["measured"] == 199


# -- the command line ----------------------------------------------------------------------------


def test_fit_and_check_as_a_user_drives_them(cli, exact, tmp_path):
    _, other = exact
    target = tmp_path / "made.json"
    done = cli("calibrate", "fit", other, "-o", target, "--model", "tiny", "--gpu", "cpu")
    assert (done.code, target.exists()) == (0, True)
    assert "held out: other steps" in done.out
    assert "matrix products, per token" in done.out
    assert f"wrote {target}" in done.err
    assert json.loads(target.read_text())["provenance"]["command"].startswith("pytwin")
    summary = cli("calibrate", "fit", other, "-o", target, "--format", "json", "--model", "tiny")
    assert json.loads(summary.out)["name"] == "tiny@unknown-device"
    report = tmp_path / "report.json"
    judged = cli("calibrate", "check", target, other, "--format", "json", "--out", report)
    assert judged.code == 0
    assert json.loads(judged.out) == json.loads(report.read_text())
    assert json.loads(judged.out)["fitted_on"] == "fitted on (but for its held-out part)"
    table = cli("calibrate", "check", target, other)
    assert "mean_ttft_ms" in table.out
    assert "Step time (without adapter loads)" in table.out


def test_a_run_held_out_on_the_command_line(cli, exact, tmp_path):
    profile, other = exact
    target = tmp_path / "made.json"
    fitted = Path(profile).parent / "fitted"
    done = cli(
        "calibrate", "fit", fitted, "-o", target, "--hold-out", other, "--model", "m", "--gpu", "g"
    )
    assert done.code == 0
    assert json.loads(target.read_text())["provenance"]["held_out"] == ["other (whole run)"]
    judged = cli("calibrate", "check", target, other, "--format", "json")
    assert json.loads(judged.out)["fitted_on"] == "held out whole"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fit", "{other}", "-o", "made.txt"), "must end in .json"),
        (("fit", "-o", "made.json"), "must be at least one"),
        (("fit", "{tables}", "-o", "{here}/made.json"), "python -m calibration.refit --traces"),
        (("fit", "{here}", "-o", "{here}/made.json"), "holds no recording"),
        (("check", "absent-profile", "{other}"), "absent-profile"),
        (("check", "{profile}", "{here}/absent"), "does not exist"),
        (("check", "{profile}", "{here}"), "holds no recording"),
        (("check", "{profile}", "{other}", "--adapters", "4"), "belong to a bench result"),
        (("check", "{profile}", "{other}", "--adapters", "-4"), "adapters (-4) must be >= 0"),
        (("check", "{profile}", "{profile}"), "has no completed"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(cli, exact, tmp_path, arguments, said):
    profile, other = exact
    tables = tmp_path.parent / f"{tmp_path.name}-tables"
    tables.mkdir()
    (tables / "runs.parquet").write_bytes(b"")
    words = [
        word.format(other=other, here=tmp_path, profile=profile, tables=tables)
        for word in arguments
    ]
    done = cli("calibrate", *words)
    assert done.code == 2
    assert said in done.err
    assert done.out == ""
    assert len(done.err.strip().splitlines()) == 1
