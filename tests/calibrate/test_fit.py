"""From recordings to a profile: the law that made them is found, and judged by what is left out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pytwin as pt
from pytwin.calibrate.recordings import fit, read_runs
from pytwin.calibrate.recordings.judge import predicted_ms
from pytwin.calibrate.terms import evaluate
from pytwin.catalog import load_profile
from pytwin.errors import PytwinError
from tests.calibrate.synthetic import CONFIG, Truth, batch_of, record

NOISY = Truth(noise=0.08)


def profile_of(result: Any, path: Path) -> str:
    path.write_text(json.dumps(result.document, allow_nan=False))
    return str(path)


def coefficients(terms: list[dict[str, Any]]) -> dict[str, float]:
    """Terms by their factors, in ms."""
    return {json.dumps(term["factors"]): term["coefficient"] / 1e3 for term in terms}


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("noisy") / "run", truth=NOISY, requests=300, seed=3)


@pytest.fixture(scope="module")
def fitted(noisy: Path) -> Any:
    return fit(read_runs([noisy]), model="m", gpu="g")


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_without_noise_every_coefficient_is_found(tmp_path, asynchronous):
    truth = Truth()
    runs = read_runs([record(tmp_path / "run", truth=truth, asynchronous=asynchronous)])
    document = fit(runs, model="m", gpu="g").document
    found = coefficients(document["step_time"]["terms"])
    host = 0.0 if asynchronous else truth.host
    expected = {
        "[]": truth.base + host, '["tokens"]': truth.tokens, '["adapters"]': truth.adapters,
        '[{"of": "prefill_tokens", "positive": true}]': truth.prompt,
    }  # fmt: skip
    expected |= {} if asynchronous else {'["seqs"]': truth.host_seqs}
    assert found == pytest.approx(expected, rel=1e-4)
    ahead = coefficients(document["host"]["async_schedule"])
    assert ahead == pytest.approx(
        {"[]": truth.host, '["seqs"]': truth.host_seqs} if asynchronous else {}, rel=1e-4
    )
    loads = document["load_time"]
    assert coefficients(loads["disk"]) == pytest.approx(
        {"[]": truth.disk, '["rank"]': truth.disk_rank}, rel=1e-4
    )
    assert coefficients(loads["memory"]) == pytest.approx({"[]": truth.memory}, rel=1e-4)
    egress = coefficients(document["frontend"]["egress"])
    assert egress == pytest.approx({"[]": truth.egress, '["seqs"]': truth.egress_seqs}, rel=1e-3)
    # Known to within the stretch of time in which no request tells more.
    ingress = coefficients(document["frontend"]["ingress"])["[]"]
    assert ingress == pytest.approx(truth.ingress, abs=0.3)


def test_a_server_whose_host_is_never_waited_for(tmp_path):
    # The host takes longer than the device: updates say nothing of executions, its events do.
    truth = Truth(base=5.0, host=30.0)
    kind = {"truth": truth, "asynchronous": True, "requests": 200}
    runs = read_runs([record(tmp_path / "run", gpu=True, **kind)])
    document = fit(runs, model="m", gpu="g").document
    ahead = coefficients(document["host"]["async_schedule"])
    assert ahead == pytest.approx({"[]": 30.0, '["seqs"]': truth.host_seqs}, rel=1e-3)
    found = coefficients(document["step_time"]["terms"])
    assert found["[]"] == pytest.approx(truth.base, rel=1e-3)
    assert found['["tokens"]'] == pytest.approx(truth.tokens, rel=1e-3)
    blind = record(tmp_path / "blind", **kind)
    with pytest.raises(PytwinError, match="timed steps to fit on"):
        fit(read_runs([blind]), model="m", gpu="g")


def test_through_noise_the_law_is_found(fitted, noisy):
    run = read_runs([noisy])[0]
    features = run.features
    predicted = evaluate(fitted.document["step_time"]["terms"], features) / 1e3
    truth = np.array([
        NOISY.execute(row) + NOISY.overhead(row)
        for row in (
            dict(zip(features, values, strict=True))
            for values in zip(*features.values(), strict=True)
        )
    ])  # fmt: skip
    # Noise of mean exp(sigma^2 / 2): what a step costs on average.
    truth *= np.exp(NOISY.noise**2 / 2)
    off = predicted / truth - 1
    assert np.abs(off).max() < 0.08
    assert np.median(np.abs(off)) < 0.015
    assert abs(predicted.sum() / truth.sum() - 1) < 0.01


def test_a_few_frozen_steps_move_nothing_and_are_told(tmp_path, noisy):
    lines = [json.loads(line) for line in (noisy / "steps.jsonl").read_text().splitlines()]
    late = 0.0
    for line in lines:
        if line["e"] != "step":
            continue
        line["t0"], line["t1"] = line["t0"] + late, line["t1"] + late
        late += 2.0 if line["i"] % 400 == 5 else 0.0  # two seconds in which nothing ran
        line["t2"], line["t3"] = line["t2"] + late, line["t3"] + late
    frozen = tmp_path / "frozen"
    frozen.mkdir()
    for name in ("requests.jsonl", "worker.jsonl"):
        (frozen / name).write_bytes((noisy / name).read_bytes())
    (frozen / "steps.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    calm = fit(read_runs([noisy]), model="m", gpu="g").document
    hit = fit(read_runs([frozen]), model="m", gpu="g").document
    features = read_runs([noisy])[0].features
    ours, theirs = (evaluate(d["step_time"]["terms"], features) for d in (hit, calm))
    assert np.median(np.abs(ours / theirs - 1)) < 0.03
    assert hit["errors"]["accident_share_percent"] > 10
    assert calm["errors"]["accident_share_percent"] < 0.1


def test_what_disturbs_steps_all_the_time_is_in_the_mean(tmp_path, noisy):
    lines = [json.loads(line) for line in (noisy / "steps.jsonl").read_text().splitlines()]
    late = 0.0
    for line in lines:
        if line["e"] == "step":
            line["t0"], line["t1"] = line["t0"] + late, line["t1"] + late
            late += 0.02 if line["i"] % 10 == 5 else 0.0  # another process takes its turn
            line["t2"], line["t3"] = line["t2"] + late, line["t3"] + late
    busy = tmp_path / "busy"
    busy.mkdir()
    for name in ("requests.jsonl", "worker.jsonl"):
        (busy / name).write_bytes((noisy / name).read_bytes())
    (busy / "steps.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    document = fit(read_runs([busy]), model="m", gpu="g").document
    assert document["errors"]["tail_factor"] > 1.08
    assert abs(document["errors"]["step_time"]["all"]["held_out_bias_percent"]) < 4


def naive_steps(path: Path) -> list[tuple[int, dict[str, float], float]]:
    """Steps with their counts and durations without loads, read by the plainest of programs."""
    steps = [json.loads(line) for line in (path / "steps.jsonl").read_text().splitlines()]
    steps = [step for step in steps if step["e"] == "step"]
    asked = [json.loads(line) for line in (path / "requests.jsonl").read_text().splitlines()]
    known = {
        r["id"]: {"prompt_len": r["prompt"], "lora_id": r["lora"]} for r in asked if r["e"] == "req"
    }
    loads: dict[int, float] = {}
    pending = 0.0
    for line in (path / "worker.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["e"].startswith("lora_"):
            pending += event["dt"]
        elif event["e"] == "exec":
            loads[event["step"]], pending = pending, 0.0
    rows = []
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        follows = after is not None and after["i"] == step["i"] + 1
        end = after["t0"] if after is not None and follows else step["t3"]
        batch = batch_of(step["sched"], known) | {"waiting": step["nwait"]}
        rows.append((step["i"], batch, 1e3 * (end - step["t0"] - loads[step["i"]])))
    return rows


def test_the_stated_held_out_error_is_the_error_on_what_was_held_out(fitted, noisy):
    held = []
    for name in fitted.document["provenance"]["held_out"]:
        first, last = name.removeprefix("run steps ").split("-")
        held.append(range(int(first), int(last) + 1))
    steps = naive_steps(noisy)
    outside = [row for row in steps if any(row[0] in stretch for stretch in held)]
    assert 0.15 * len(steps) < len(outside) < 0.25 * len(steps)
    terms = fitted.document["step_time"]["terms"]
    off, totals = [], [0.0, 0.0]
    for _, batch, measured in outside:
        features = {name: np.array([float(value)]) for name, value in batch.items()}
        predicted = float(evaluate(terms, features)[0]) / 1e3
        off.append(abs(predicted / measured - 1))
        totals = [totals[0] + predicted, totals[1] + measured]
    stated = fitted.document["errors"]["step_time"]["all"]
    assert stated["held_out_rows"] == len(outside)
    assert stated["held_out_mape_percent"] == pytest.approx(100 * np.mean(off), abs=0.02)
    assert stated["held_out_median_error_percent"] == pytest.approx(100 * np.median(off), abs=0.02)
    assert stated["held_out_bias_percent"] == pytest.approx(
        100 * (totals[0] / totals[1] - 1), abs=0.02
    )


def test_what_is_held_out_is_never_fitted_on(tmp_path, noisy):
    runs = read_runs([noisy, record(tmp_path / "other", truth=Truth(base=30.0), seed=9)])
    document = fit(runs, model="m", gpu="g", hold_out=["other"]).document
    alone = fit(read_runs([noisy]), model="m", gpu="g")
    other = document["errors"]["step_time"]["all"]
    # A run three times as slow has left no trace in the law: it is missed by what it is slower.
    assert other["held_out_bias_percent"] < -50
    assert document["provenance"]["held_out"] == ["other (whole run)"]
    assert other["bias_percent"] == pytest.approx(0.0, abs=1.0)
    features = runs[0].features
    ours, theirs = (
        predicted_ms(d["step_time"]["terms"], {}, features) for d in (document, alone.document)
    )
    assert np.median(np.abs(ours / theirs - 1)) < 0.02


def test_a_profile_of_recordings_is_a_profile_like_any_other(fitted, tmp_path):
    path = profile_of(fitted, tmp_path / "made.json")
    profile = load_profile(path)
    assert profile.name == "m@g"
    assert profile.engine_version == "0.32"
    for key in ("source", "date", "command", "fitted_on", "held_out"):
        assert profile.data["provenance"][key]
    traffic = pt.Workload.poisson(
        adapters=pt.adapters(8, rates_rps=0.2, ranks=16), lengths=(100, 30), duration_s=30
    )
    inside = pt.EngineConfig(profile=path, max_loras=4, max_cpu_loras=6, max_lora_rank=32)
    run = pt.simulate(inside, traffic)
    assert run.status == "ok"
    assert run.extrapolated == []
    assert run.metrics["kv_blocks"] == CONFIG["num_blocks"]
    beyond = pt.simulate(inside.replace(max_loras=6, max_num_batched_tokens=512), traffic)
    assert "max_loras 6, measured 4 to 4" in beyond.extrapolated
    assert "max_num_batched_tokens 512, measured 256 to 256" in beyond.extrapolated


def test_settings_that_never_varied_are_constants_and_said_so(fitted):
    provenance = fitted.document["provenance"]
    assert provenance["constants"]["max_loras"] == 4
    assert "3 are needed" in provenance["not_identified"]["slots"]
    factors = json.dumps([term["factors"] for term in fitted.document["step_time"]["terms"]])
    assert "max_loras" not in factors
    assert "max_lora_rank" not in factors


def test_the_way_in_is_found_when_every_request_waits_for_a_step(tmp_path):
    truth = Truth(ingress=2.5, base=20.0)
    runs = read_runs([record(tmp_path / "run", truth=truth, seed=5, requests=200)])
    document = fit(runs, model="m", gpu="g").document
    assert coefficients(document["frontend"]["ingress"])["[]"] == pytest.approx(2.5, abs=0.5)
    assert document["errors"]["frontend"]["ingress"]["held_out_distance_ms"] < 0.2


def test_memory_is_what_the_server_reported(tmp_path):
    run = record(tmp_path / "run")
    lines = (run / "worker.jsonl").read_text().splitlines()
    sizes = {"device_memory": 10_000_000, "weights": 3_000_000, "lora": 1_024_000, "kv": 2_560_000}
    lines.insert(1, json.dumps({"e": "worker", "device": "Some GPU 10", **sizes}))
    (run / "worker.jsonl").write_text("\n".join(lines) + "\n")
    result = fit(read_runs([run]), model="m")
    memory = result.document["memory"]
    assert memory["weights_bytes"] == 3_000_000
    assert memory["kv_bytes_per_token"] == 1000.0  # 160 blocks of 16 tokens
    assert memory["lora_slot_bytes_per_rank"] == 8000.0  # 4 slots of rank 32
    assert result.document["name"] == "m@some-gpu-10"
    path = profile_of(result, tmp_path / "made.json")
    traffic = pt.Workload.poisson(rate_rps=1, lengths=(50, 5), duration_s=5)

    def blocks(slots: int) -> int:
        server = pt.EngineConfig(profile=path, max_loras=slots, max_lora_rank=32)
        return int(pt.simulate(server, traffic).metrics["kv_blocks"])

    assert blocks(4) == 160
    assert blocks(2) == 160 + 512_000 // 16_000  # two slots less are so many blocks more


def test_several_runs_tell_how_far_runs_differ(tmp_path):
    runs = read_runs([
        record(tmp_path / name, truth=Truth(base=base, noise=0.03), seed=seed, requests=120)
        for seed, (name, base) in enumerate({"a": 9.0, "b": 9.9, "c": 9.0}.items())
    ])  # fmt: skip
    document = fit(runs, model="m", gpu="g").document
    assert 0.01 < document["uncertainty"]["factors"]["step_time"] < 0.12
    assert len(document["uncertainty"]["log_ratios"]) == 3
    alone = fit(runs[:1], model="m", gpu="g").document
    assert "other runs may differ more" in alone["uncertainty"]["method"]


def test_kv_blocks_set_by_hand_are_the_servers_setting(tmp_path):
    run = record(
        tmp_path / "run",
        header={"kv": {"num_gpu_blocks_override": 160, "kv_cache_memory_bytes": 12_800_000}},
    )
    lines = (run / "worker.jsonl").read_text().splitlines()
    lines.insert(1, json.dumps({"e": "worker", "device": "EPYC", "kv": 2_560_000, "weights": 100}))
    (run / "worker.jsonl").write_text("\n".join(lines) + "\n")
    result = fit(read_runs([run]), model="m")
    assert "num_gpu_blocks_override (160) set the KV blocks" in "\n".join(result.remarks)
    path = profile_of(result, tmp_path / "made.json")
    traffic = pt.Workload.poisson(rate_rps=1, lengths=(50, 5), duration_s=5)
    server = pt.EngineConfig(profile=path, max_loras=4, max_lora_rank=32)
    same = pt.simulate(server, traffic)
    assert same.metrics["kv_blocks"] == 160
    assert not any("num_gpu_blocks_override" in reason for reason in same.extrapolated)
    other = pt.simulate(server.replace(num_gpu_blocks_override=200), traffic)
    assert any("num_gpu_blocks_override" in reason for reason in other.extrapolated)
    data = result.document
    del data["server"]["num_gpu_blocks_override"]
    free = pt.EngineConfig(profile=profile_of(result, tmp_path / "free.json"), max_loras=4)
    assert pt.simulate(free, traffic).metrics["kv_blocks"] == 800  # what kv_cache_memory_bytes give
