"""`pytwin calibrate prior` as a user drives it."""

import json

import pytest

import pytwin as pt
from pytwin.calibrate.prior.learned import known_config, known_models
from pytwin.catalog import load_profile
from tests.conftest import ROOT


@pytest.fixture
def config(tmp_path):
    """The config.json of a known model, as downloaded."""

    def write(name="llama-3.1-8b-instruct", **changes):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        file = folder / "config.json"
        file.write_text(json.dumps({**known_config(name), **changes}))
        return file

    return write


def test_a_profile_that_simulates(cli, config, tmp_path):
    out = tmp_path / "prior.json"
    done = cli("calibrate", "prior", "--config", config(), "--gpu", "H100-80GB", "-o", out,
               "--max-model-len", 8192)  # fmt: skip
    assert (done.code, done.out) == (0, "")
    assert "llama-3.1-8b-instruct@h100-80gb-prior: a prior, never measured" in done.err
    server = pt.EngineConfig(profile=str(out), max_loras=8, max_lora_rank=8)
    traffic = pt.Workload.poisson(adapters=pt.adapters(16, 0.1, 8), duration_s=60)
    run = pt.simulate(server, traffic)
    assert run.status == "ok"
    assert run.metrics["completed"] > 0
    assert run.extrapolated[0] == "prior, never measured"
    plain = pt.simulate(
        server.replace(max_loras=0), pt.Workload.poisson(rate_rps=1.0, duration_s=5)
    )
    assert f"without LoRA: {plain.metrics['kv_tokens']} KV tokens" in done.err
    told = cli("simulate", "--profile", out, "--adapters", 4, "--max-loras", 4, "--ranks", 8,
               "--rates-rps", 0.1, "--duration-s", 10)  # fmt: skip
    assert told.code == 0
    assert "extrapolated: prior, never measured" in told.err


def test_the_document_says_where_it_comes_from(cli, config):
    done = cli("calibrate", "prior", "--config", config("qwen-3-8b").parent, "--gpu", "l40s")
    data = json.loads(done.out)
    assert data["name"] == "qwen-3-8b@l40s-prior"
    assert (data["schema"], data["dtype"], data["gpu"]) == (1, "bfloat16", "l40s")
    provenance = data["provenance"]
    assert provenance["kind"] == "prior"
    assert provenance["architecture"] == "Qwen3ForCausalLM"
    assert provenance["parameters"] == 8_190_735_360
    assert "never measured" in provenance["source"]
    assert {p["gpu"] for p in provenance["learned_from"]} == {"h100-64gb"}
    assert any("not on l40s" in note for note in provenance["notes"])
    assert data["lengths"]["sharegpt"] == "sharegpt-qwen-2.5"
    assert set(data["uncertainty"]["factors"]) >= {"step_time", "kv_memory"}


def test_known_models_go_by_name_and_a_measured_profile_is_pointed_to(cli, tmp_path):
    out = tmp_path / "p.json"
    done = cli("calibrate", "prior", "--config", "qwen-2.5-7b-instruct", "--gpu", "h100-64gb",
               "--output", out, "--name", "mine")  # fmt: skip
    assert done.code == 0
    assert "prefer --profile qwen-2.5-7b-instruct@h100-64gb" in done.err
    assert load_profile(str(out)).name == "mine"


def test_a_model_that_does_not_fit_is_an_answer(cli, config, tmp_path):
    out = tmp_path / "p.json"
    done = cli("calibrate", "prior", "--config", config("llama-3.1-70b-instruct"), "--gpu",
               "h100-80gb", "-o", out)  # fmt: skip
    assert done.code == 0
    assert "without LoRA: cannot start: oom_cuda" in done.err
    run = pt.simulate(
        pt.EngineConfig(profile=str(out)), pt.Workload.poisson(rate_rps=1.0, duration_s=10)
    )
    assert run.status == "infeasible"
    assert run.error.startswith("oom_cuda")


def test_settings_of_the_server_are_the_profile_s_defaults(cli, tmp_path):
    out = tmp_path / "p.json"
    limits = ("--max-model-len", 4096, "--max-num-seqs", 64, "--max-num-batched-tokens", 1024)
    cli("calibrate", "prior", "--config", "qwen-3-8b", "--gpu", "a10g", "-o", out, *limits)
    resolved = pt.EngineConfig(profile=str(out)).resolved()
    assert resolved["max_model_len"] == 4096
    assert resolved["max_num_seqs"] == 64
    assert resolved["max_num_batched_tokens"] == 1024
    # The rest are vLLM's, not those of the benchmark that the efficiencies come from.
    assert resolved["enable_prefix_caching"] is True


def test_another_gpu(cli, tmp_path):
    spec = tmp_path / "b200.json"
    spec.write_text(
        json.dumps(
            {"memory_gib": 178.4, "bandwidth_gb_s": 7700, "bf16_tflop_s": 2250, "sms": 148,
             "pcie_gb_s": 63}
        )
    )  # fmt: skip
    done = cli("calibrate", "prior", "--config", "llama-3.1-70b-instruct", "--gpu", "B200",
               "--gpu-spec", spec, "--max-model-len", 16384)  # fmt: skip
    assert done.code == 0
    assert json.loads(done.out)["gpu"] == "b200"
    assert "without LoRA: cannot start" not in done.err


@pytest.mark.parametrize("name", known_models())
@pytest.mark.parametrize("gpu", ["a10g", "h200"])
def test_every_known_model_gives_a_profile_that_the_core_takes(cli, tmp_path, name, gpu):
    out = tmp_path / "p.json"
    done = cli("calibrate", "prior", "--config", name, "--gpu", gpu, "-o", out,
               "--max-model-len", 2048)  # fmt: skip
    assert done.code == 0
    run = pt.simulate(
        pt.EngineConfig(profile=str(out), max_loras=2, max_lora_rank=8),
        pt.Workload.poisson(adapters=pt.adapters(2, 0.5, 8), lengths=(50, 20), duration_s=10),
        ignore_memory=True,
    )
    assert run.metrics["completed"] > 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--config", "absent.json", "--gpu", "h200"), "config (absent.json) cannot be read"),
        (("--config", "nosuch", "--gpu", "h200"), "neither a file nor a known model"),
        (("--config", "qwen-3-8b", "--gpu", "mi300"), "gpu (mi300) is unknown"),
        (("--config", "qwen-3-8b", "--gpu", "x", "--gpu-spec", "no.json"), "cannot be read"),
        (("--config", "qwen-3-8b", "--gpu", "h200", "--dtype", "fp8"), "dtype"),
        (("--config", "qwen-3-8b", "--gpu", "h200", "--max-num-seqs", 0), "must be >= 1"),
        (("--config", "qwen-3-8b", "--gpu", "h200", "--max-num-seqs", 999_999), "must be >="),
        (("--config", "qwen-3-8b", "--gpu", "h200", "-o", "/nosuch/x.json"), "cannot be written"),
        (("--gpu", "h200"), "--config"),
    ],
)
def test_errors_are_one_line(cli, arguments, told):
    done = cli("calibrate", "prior", *arguments)
    assert done.code == 2
    assert told in done.err
    assert (done.out, len(done.err.strip().splitlines())) == ("", 1)


def test_a_quantised_checkpoint_is_refused(cli, config):
    file = config(quantization_config={"quant_method": "awq"})
    done = cli("calibrate", "prior", "--config", file, "--gpu", "h200")
    assert done.code == 2
    assert "quantization_config (awq) is not supported" in done.err


def test_the_guide_shows_what_is_printed(cli, tmp_path):
    page = (ROOT / "docs" / "guides" / "priors.md").read_text()
    shown = page.split("$ pytwin calibrate prior --config config.json", 1)[1].split("```")[0]
    done = cli("calibrate", "prior", "--config", "mistral-7b-instruct-v0.3", "--gpu", "h100-80gb",
               "-o", tmp_path / "mine.json")  # fmt: skip
    assert shown.split("\n", 1)[1] == done.err
