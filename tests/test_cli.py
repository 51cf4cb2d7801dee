"""The command line as a user drives it."""

from __future__ import annotations

import csv
import io
import json
import re
import resource
import signal
import subprocess
import sys
import time

import polars as pl
import pytest

import pytwin as pt
from tests.conftest import LLAMA, QWEN, TOY

SIMULATE = (
    "simulate", "--profile", TOY, "--adapters", 8, "--max-loras", 4, "--rates-rps", "0.5,0.25",
    "--ranks", "8,16", "--duration-s", 60,
)  # fmt: skip


def test_help_lists_the_verbs_and_loads_nothing_heavy():
    """`pytwin --help` is quick because it imports no numpy, no polars, no core."""
    code = """
import sys
from pytwin.cli import main
assert main(["--help"]) == 0
heavy = {"numpy", "polars", "pydantic", "pytwin._core", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for verb in ("simulate", "sweep", "validate", "conformance", "profiles"):
        assert verb in done.stdout


def test_version(cli):
    assert cli("--version").out.strip() == pt.__version__


def test_the_console_script_is_installed():
    code = (
        "from importlib.metadata import entry_points as e; print(e(name='pytwin')['pytwin'].value)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "pytwin.cli:main"


def test_simulate_prints_what_the_python_api_gives(cli):
    done = cli(*SIMULATE, "--seed", 3, "--format", "json")
    assert (done.code, done.err) == (0, "")
    server = pt.EngineConfig(profile=TOY, max_loras=4)
    traffic = pt.Workload.poisson(adapters=pt.adapters(8, [0.5, 0.25], [8, 16]), duration_s=60)
    assert json.loads(done.out) == pt.simulate(server, traffic, seed=3).to_dict()


def test_the_three_formats_tell_the_same(cli):
    saved = json.loads(cli(*SIMULATE, "--format", "json").out)
    (row,) = csv.DictReader(io.StringIO(cli(*SIMULATE, "--format", "csv").out))
    assert int(row["completed"]) == saved["completed"]
    table = cli(*SIMULATE).out
    assert f"{saved['completed']}" in table
    assert "starved" in table


def test_dash_and_underscore_are_one(cli):
    dashes = cli(*SIMULATE, "--max-cpu-loras", 8, "--format", "json")
    underscores = cli(
        *(re.sub(r"(?<=\w)-(?=\w)", "_", str(word)) if word != TOY else word for word in SIMULATE),
        "--max_cpu_loras", 8, "--format", "json",
    )  # fmt: skip
    assert dashes == underscores


def test_the_command_line_goes_before_the_file_before_the_default(cli, tmp_path):
    file = tmp_path / "server.yaml"
    file.write_text(
        f"profile: {TOY}\nadapters: 8\nrates_rps: [0.5, 0.25]\nranks: [8, 16]\nduration_s: 60\n"
        "max-loras: 2\nseed: 3\nlengths: [30, 40]\nformat: json\n"
    )
    by_file = json.loads(cli("simulate", "--config", file).out)
    assert by_file["engine"]["max_loras"] == 2
    assert by_file["seed"] == 3
    assert by_file["total_input_tokens"] == 30 * by_file["completed"]
    by_flag = json.loads(cli("simulate", f"--config={file}", "--max-loras", 4).out)
    assert by_flag["engine"]["max_loras"] == 4
    assert by_flag["seed"] == 3


def test_frames_are_saved(cli, tmp_path):
    names = ("requests", "adapters", "timeseries", "steps")
    targets = [
        f"--save-{n}={tmp_path / n}.{s}" for n, s in zip(names, ["csv", "parquet"] * 2, strict=True)
    ]
    done = cli(*SIMULATE, *targets, "--format", "json")
    assert done.code == 0
    saved = json.loads(done.out)
    assert pl.read_csv(tmp_path / "requests.csv").height == saved["arrived"]
    assert pl.read_parquet(tmp_path / "adapters.parquet").height == 8
    assert pl.read_csv(tmp_path / "timeseries.csv").height >= 29
    assert pl.read_parquet(tmp_path / "steps.parquet").height == saved["steps"]
    assert not list(tmp_path.glob("*.tmp"))


def test_adapters_and_traces_from_files(cli, tmp_path):
    fleet = tmp_path / "fleet.csv"
    fleet.write_text("adapter,rate_rps,rank\nsql,1,8\nchat,2,16\n")
    done = cli(
        "simulate", "--profile", TOY, "--adapters", fleet, "--duration-s", 60, "--drain",
        "--format", "json",
        "--save-requests", tmp_path / "requests.csv",
    )  # fmt: skip
    assert done.code == 0
    again = cli(
        "simulate", "--profile", TOY, "--trace", tmp_path / "requests.csv", "--ranks", 16,
        "--format", "json",
    )  # fmt: skip
    assert again.code == 0
    assert json.loads(again.out)["arrived"] == json.loads(done.out)["arrived"]


def test_an_infeasible_server_is_an_answer(cli):
    done = cli(
        "simulate", "--profile", LLAMA, "--adapters", 8, "--rates-rps", 0.1, "--max-loras", 2000,
        "--max-lora-rank", 64, "--format", "json",
    )  # fmt: skip
    assert done.code == 0
    assert json.loads(done.out)["status"] == "infeasible"
    assert "extrapolated" in done.err


def test_profiles_are_listed(cli):
    rows = json.loads(cli("profiles", "--format", "json").out)
    assert [row["name"] for row in rows] == [LLAMA, QWEN]
    assert all(row["source"] and row["ranges"] for row in rows)
    assert cli("profiles").code == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("simulte",), 'Did you mean "simulate"?'),
        (("simulate",), "--profile requires an argument"),
        (("simulate", "--profile", "llama"), "profile (llama) is unknown"),
        ((*SIMULATE, "--max-lorras", 3), "--max-lorras"),
        ((*SIMULATE, "--max-cpu-loras", 2), "max_cpu_loras (2) must be >= max_loras (4)"),
        ((*SIMULATE, "--max-lora-rank", 8), "rank (16) of adapter 2 must be <= max_lora_rank (8)"),
        ((*SIMULATE, "--engine-version", "0.7"), "engine_version (0.7) must be one of"),
        ((*SIMULATE, "--max-num-seqs", "many"), "--max-num-seqs"),
        ((*SIMULATE, "--rate-rps", "-1"), "rate_rps (-1.0) must be >= 0"),
        ((*SIMULATE, "--rate-rps", "nan"), "rate_rps (nan) must be finite"),
        ((*SIMULATE, "--burstiness", "0"), "burstiness (0.0) must be > 0"),
        ((*SIMULATE, "--lengths", "10,x"), "lengths (10,x) must be sharegpt or PROMPT,OUTPUT"),
        ((*SIMULATE, "--lengths", "chat"), "lengths (chat) is unknown"),
        ((*SIMULATE, "--seed", "-4"), "seed (-4) must be a whole number"),
        ((*SIMULATE, "--format", "xml"), "--format"),
        ((*SIMULATE, "--trace", "x.csv"), "adapters (8) has no meaning with trace"),
        (("simulate", "--profile", TOY), "total rate (0) must be > 0"),
        (("simulate", "--profile", TOY, "--trace", "absent.csv"), "trace (absent.csv) cannot be"),
        (("simulate", "--profile", TOY, "--adapters", "absent.csv"), "absent.csv cannot be read"),
        ((*SIMULATE, "--save-requests", "/absent/requests.csv"), "folder /absent does not exist"),
        ((*SIMULATE, "--save-requests", "requests.xlsx"), "must end in .parquet or .csv"),
        ((*SIMULATE, "--config", "absent.yaml"), "config (absent.yaml) cannot be read"),
        ((*SIMULATE, "--config"), "--config () needs a YAML file"),
    ],
)
def test_a_wrong_command_gets_one_line_and_exit_code_2(cli, arguments, expected):
    done = cli(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("pytwin: error: ")
    assert done.err.count("\n") == 1
    assert expected in done.err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_lorras: 3\n", "max_lorras is no flag of this verb"),
        ("- 3\n", "must map flags to values"),
        ("a: [\n", "is not YAML"),
    ],
)
def test_a_wrong_config_file_gets_one_line(cli, tmp_path, text, expected):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    done = cli(*SIMULATE, "--config", file)
    assert done.code == 2
    assert expected in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_disk_that_takes_no_more_is_told_in_one_line(tmp_path, suffix):
    """Files of at most 4 kB stand for the full disk; the result is on stdout all the same."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    target = tmp_path / f"requests.{suffix}"
    done = subprocess.run(
        [sys.executable, "-m", "pytwin", *map(str, SIMULATE), "--save-requests", str(target)],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        check=False,
    )
    assert done.returncode == 2
    assert "cannot be written: File too large" in done.stderr
    assert done.stderr.endswith("free space or choose another path\n")
    assert done.stderr.count("\n") == 1
    assert "completed" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_reader_that_stops_reading_is_no_error():
    command = [sys.executable, "-m", "pytwin", *map(str, SIMULATE), "--format", "json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), error) == (0, b"")


def test_ctrl_c_ends_a_simulation_with_one_line():
    code = f"""
from pytwin.cli import main
import pytwin.cli.simulate, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
print("ready", flush=True)
sys.exit(main(["simulate", "--profile", {TOY!r}, "--rate-rps", "90", "--duration-s", "1e6"]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)  # into the simulation; too short only makes the test easier
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error == "pytwin: interrupted\n"


def test_a_hopeless_run_may_be_stopped(cli):
    hopeless = (*SIMULATE, "--rate-rps", 500, "--format", "json")
    stopped = json.loads(cli(*hopeless, "--stop-starving").out)
    assert (stopped["stop_reason"], stopped["starved"]) == ("starving", 1)
    assert 0 < stopped["stopped_at_s"] < 60
    whole = json.loads(cli(*hopeless).out)
    assert whole["stop_reason"] is None
    refused = cli(*SIMULATE, "--stop-starving", "--interval", 0.9)
    assert refused.code == 2
    assert "have no meaning with interval" in refused.err


def test_objectives_are_flags(cli):
    strict = json.loads(cli(*SIMULATE, "--tpot-slo-ms", 1, "--format", "json").out)
    assert strict["slo_attainment"] == 0
    lax = cli(*SIMULATE, "--tpot-slo-ms", 1e6, "--ttft-slo-ms", 1e6, "--format", "json")
    assert json.loads(lax.out)["slo_attainment"] == 1
