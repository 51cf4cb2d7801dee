"""Refit the shipped profiles from measured runs: one command, a few minutes.

    python -m calibration.refit --traces DIR [--out pytwin/profiles]

DIR holds runs.parquet, adapters.parquet, steps.parquet, lora_loads.parquet, timeseries.parquet and
calib_memory.parquet. Runs of the family dt_real are never fitted on.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from calibration import closing, frontend, kv_memory, replay
from calibration.models import (
    ENGINE_VERSION,
    FITTED,
    GPU,
    HELD_OUT,
    KNOWN_BAD,
    MODELS,
    SERVER,
    Model,
)
from pytwin.calibrate import early_eos, load_time, memory, observations, read, step_time
from pytwin.calibrate.solve import Problem
from pytwin.catalog import LengthTable, load_lengths
from pytwin.validate import RunConfig

SOURCE = (
    "public logs of FerranAgulloLopez/GPULLMAdapterOptimization (arXiv:2508.08343), "
    "commit bae36e2da: vLLM 0.8.5 (V1 engine, fork) on one 64 GB Hopper GPU"
)

_CLOSING_TURNS = 2
_PROMPT_SAMPLE = 4000


class Traces:
    """The tables of a traces directory, without the runs that are known to be bad."""

    def __init__(self, directory: Path) -> None:
        runs = read.runs(directory)
        self.runs = runs.filter(~pl.col("run_id").is_in(KNOWN_BAD), pl.col("family").is_in(FITTED))
        self.tables = {
            name: read.table(directory, name)
            for name in ("steps", "timeseries", "adapters", "lora_loads")
        }
        # The memory frontier also uses failed starts of every V1 family: a server that could not
        # start has no outcome to fit a law on.
        self.calib_memory = read.table(directory, "calib_memory").filter(
            ~pl.col("family").is_in(HELD_OUT)
        )

    def of(self, name: str, runs: pl.DataFrame) -> pl.DataFrame:
        """Rows of a table that belong to these runs."""
        return self.tables[name].filter(pl.col("run_idx").is_in(runs["run_idx"].implode()))


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a fit starts from.

    document: the profile but for its step times (a first law without the twin's batches), front
    end and their errors. micro: the logged steps, steps: how many behind each of its rows. cases:
    runs under traffic, with their outcomes.
    """

    document: dict[str, Any]
    loads: dict[str, Any]
    micro: Problem
    steps: npt.NDArray[np.int64]
    cases: list[tuple[RunConfig, dict[str, Any]]]


def prepare(traces: Traces, directory: Path, model: Model) -> Prepared:
    """Everything of one model that needs no simulation."""
    runs = traces.runs.filter(pl.col("model") == model.name)
    lengths = load_lengths(model.lengths)
    timeseries = traces.of("timeseries", runs)
    observed = observations.collect(
        runs,
        traces.of("steps", runs),
        timeseries,
        traces.of("adapters", runs),
        sample_of_prompts(lengths),
        ("ml_test",),
    )
    components = step_time.candidates(model.loads_fitted)
    logged = step_time.problem_of(observed, components)
    loads, load_errors = load_time.fit(traces.of("lora_loads", runs), runs)
    memory_rows = traces.calib_memory.filter(pl.col("model") == model.name)
    memory_document = memory.fit(memory_rows, runs, model.shape)
    traffic = kv_memory.with_kv_tokens(
        runs.filter(pl.col("family") == "ml_test", pl.col("status") == "ok"), memory_document
    )
    left_out = kv_memory.short_of_memory(traffic, timeseries)
    document: dict[str, Any] = {
        "schema": 1,
        "name": model.profile,
        "model": model.name,
        "gpu": GPU,
        "dtype": "bfloat16",
        "engine_version": ENGINE_VERSION,
        "provenance": {
            "source": SOURCE,
            "date": dt.date.today().isoformat(),
            "command": "python -m calibration.refit --traces DIR",
            "fitted_on": list(FITTED),
            "held_out": list(HELD_OUT),
            "left_out_short_of_kv_memory": len(left_out),
        },
        "server": {**SERVER, "max_model_len": model.shape.max_model_len},
        "lengths": {"sharegpt": model.lengths},
        "early_eos": early_eos.fit(runs, timeseries, lengths),
        "step_time": {"unit": "us", "terms": step_time.fit(logged).terms()},
        "load_time": loads,
        "frontend": {},
        "host": {"unit": "us", "async_schedule": []},
        "memory": memory_document,
        "ranges": ranges(runs, observed),
        "errors": {
            "load_time": load_errors,
            "memory": memory.judge(memory_document, memory_rows, runs, model.shape.max_model_len),
        },
        "residual_spread": {},
    }
    cases = [
        (config, real)
        for config, real in replay.cases(directory, "ml_test", model.name)
        if config.run_idx not in left_out
    ]
    steps = observed.steps[observed.family != "traffic"]
    return Prepared(document, loads, step_time.without(logged, "traffic"), steps, cases)


def fit(
    traces: Traces, directory: Path, model: Model, rounds: int, out: Path, start: Path | None = None
) -> dict[str, Any]:
    """A profile document of one model."""
    prepared = prepare(traces, directory, model)
    document, micro, runs = prepared.document, prepared.micro, prepared.cases
    # Round by round: the law of the last round decides which batches the twin goes through, those
    # decide the next law. The micro-benchmarks' logged steps stay in all of them.
    if start is not None:
        earlier = json.loads((start / f"{model.profile}.json").read_text(encoding="utf-8"))
        document["step_time"], document["frontend"] = earlier["step_time"], earlier["frontend"]
        document["load_time"] = closing.scaled_loads(prepared.loads, replay.load_factor(earlier))
        document["errors"]["frontend"] = earlier["errors"].get("frontend")
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            file = write(document, Path(folder))
            replayed = replay.replay(
                runs, file, step_time.candidates(model.loads_fitted), seed=number
            )
            seen = replay.observations(replayed)
            law = step_time.fit(step_time.join(micro, seen))
            document = closing.with_law(document, law.components, law.coefficients)
            document["errors"]["step_time"] = law.errors()
            document["residual_spread"] = law.spread()
            # The stalls of the first minute decide in which state a busy run settles.
            if number == rounds - 1:
                for turn in range(_CLOSING_TURNS):
                    law = close(document, law, micro, runs, 100 + turn)
                document = closing.with_law(document, law.components, law.coefficients)
                document["errors"]["step_time"] = law.errors()
            if number == rounds - 1 or (number == 0 and start is None):
                document["frontend"], document["errors"]["frontend"] = frontend.fit(document, runs)
            met = f"{len(seen.target)}/{len(replayed)} runs met"
            print(f"{model.name} round {number}: {met}", flush=True)
            write(document, out)
    return document


def sample_of_prompts(lengths: LengthTable) -> npt.NDArray[np.float64]:
    """Prompt lengths of the law, an even sample."""
    order = np.argsort(lengths.prompt_tokens, kind="stable")
    total = np.cumsum(lengths.weights[order])
    places = (np.arange(_PROMPT_SAMPLE) + 0.5) / _PROMPT_SAMPLE * total[-1]
    found = lengths.prompt_tokens[order][np.searchsorted(total, places)]
    return np.asarray(found, dtype=np.float64)


def close(
    document: dict[str, Any],
    law: step_time.Law,
    micro: Problem,
    runs: list[tuple[RunConfig, dict[str, Any]]],
    seed: int,
) -> step_time.Law:
    """The law after one closed-loop step."""
    offered = micro.matrix.shape[1] == len(step_time.candidates())
    names = [entry.name for entry in step_time.candidates(offered)]
    columns = [names.index(entry.name) for entry in law.components]
    coefficients, before = closing.close(
        document, law.components, law.coefficients, micro.columns(columns), runs, seed
    )
    print(f"{document['model']} before closing (seed {seed}): {before}", flush=True)
    return dataclasses.replace(law, coefficients=coefficients)


def ranges(runs: pl.DataFrame, observed: observations.Observations) -> dict[str, list[float]]:
    """What the fitted runs cover, per feature: lowest and highest."""
    finished = runs.filter(pl.col("status") == "ok")
    traffic = finished.filter(pl.col("family") == "ml_test")
    batch = observed.features

    def highest(frame: pl.DataFrame, column: str) -> float:
        return float(frame[column].drop_nulls().to_numpy().max())

    ranks = traffic["adapter_rank_pattern"].explode().to_numpy()
    return {
        "max_loras": [1, highest(finished, "max_loras")],
        "max_lora_rank": [8, highest(traffic, "max_lora_rank")],
        "rank": [float(ranks.min()), float(ranks.max())],
        "served_adapters": [0, highest(traffic, "n_adapters")],
        "max_cpu_loras": [1, highest(traffic, "max_cpu_loras")],
        "seqs": [1, max(highest(traffic, "ts_running_max"), float(batch["seqs"].max()))],
        "waiting": [0, highest(traffic, "ts_waiting_max")],
        "adapters": [0, float(batch["max_loras"].max())],
        "prompt_tokens": [1, 1024],
        "output_tokens": [1, 2048],  # of prompt and output together, the clients' rule
        "max_num_batched_tokens": [2048, 2048],
        "block_size": [16, 16],
    }


def write(document: dict[str, Any], out: Path) -> Path:
    """Write a profile as JSON, one term per line."""
    file = out / f"{document['name']}.json"
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return file


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Refit the shipped profiles.")
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("pytwin/profiles"))
    parser.add_argument("--model", help="only this one, for example llama-3.1-8b-instruct")
    parser.add_argument("--start", type=Path, help="directory of profiles to go on from")
    parser.add_argument("--rounds", type=int, default=3, help="simulate-and-refit rounds")
    arguments = parser.parse_args()
    traces = Traces(arguments.traces)
    for model in MODELS:
        if arguments.model not in (None, model.name):
            continue
        document = fit(
            traces, arguments.traces, model, arguments.rounds, arguments.out, arguments.start
        )
        print(write(document, arguments.out))
        print(json.dumps(document["errors"], indent=1))


if __name__ == "__main__":
    main()
