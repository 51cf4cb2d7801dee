"""Each measured model predicted from the other alone: the tables of docs/background/priors.md.

python experiments/priors/run.py [-o DIR] [--docs docs/background/priors.md] [--traces DIR]

Efficiencies are learned from one shipped profile, applied to the other model's config.json on the
same GPU, and the prior is compared with that model's own profile: step times, adapter loads, KV
memory, and simulations whose 90 % intervals must hold the other's result. With --traces (measured
servers) KV tokens are compared with the servers' own logs, and predictions with real one-hour runs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import real_runs

import pytwin as pt
from pytwin.calibrate import memory as measured_memory
from pytwin.calibrate.prior import steps
from pytwin.calibrate.prior.build import build
from pytwin.calibrate.prior.learn import Measured, learn, measured_profiles
from pytwin.calibrate.prior.learned import Learned, shipped
from pytwin.calibrate.terms import evaluate

Z90 = 1.645
SEEDS, DRAWS, DURATION_S = 4, 16, 900.0
METRICS = ("total_throughput", "mean_tpot_ms", "mean_ttft_ms")
# Settings of the measured servers, given to both sides.
SERVER: dict[str, Any] = {
    "max_num_seqs": 2048,
    "max_num_batched_tokens": 2048,
    "enable_prefix_caching": False,
    "gpu_memory_utilization": 0.9,
}
# name, adapters, rates in requests per second, ranks, slots
WORKLOADS: tuple[tuple[str, int, list[float], list[int], int], ...] = (
    ("32 adapters, all in slots", 32, [0.1], [8], 32),
    ("96 adapters on 64 slots", 96, [0.1, 0.05, 0.025], [8, 16], 64),
    ("192 adapters on 96 slots", 192, [0.05, 0.025, 0.0125], [8, 16], 96),
    ("160 adapters of rank 32", 160, [0.1, 0.05], [32], 96),
    ("384 rare adapters", 384, [0.025, 0.0125], [8], 192),
    ("overload: 128 adapters on 16 slots", 128, [0.4, 0.2], [8, 16], 16),
)


def prior_of(one: Measured, learned: Learned) -> dict[str, Any]:
    """The prior for a measured model and GPU."""
    return build(
        one.model, one.gpu, model_name=one.profile.model, learned=learned,
        max_num_seqs=SERVER["max_num_seqs"],
        max_num_batched_tokens=SERVER["max_num_batched_tokens"],
    )  # fmt: skip


def step_rows(one: Measured, prior: dict[str, Any], label: str) -> list[dict[str, Any]]:
    """Errors of step time by kind of step, and how often the 90 % interval holds the truth."""
    predicted = evaluate(prior["step_time"]["terms"], one.features)
    error = predicted / one.step_us - 1
    groups = {name: np.zeros(len(error)) for name in (*steps.GROUPS, "")}
    for term in prior["step_time"]["terms"]:
        groups[steps.group_of(term["factors"])] += evaluate([term], one.features)
    spread = prior["uncertainty"]["factors"]
    variance = np.full(len(error), spread["step_time"] ** 2)
    for name in steps.GROUPS:
        variance += (groups[name] / predicted * spread[name]) ** 2
    inside = np.abs(np.log(predicted / one.step_us)) <= Z90 * np.sqrt(variance)
    rows = []
    for kind, mask in steps.kinds(one.features).items():
        rows.append(
            {
                "predicted": one.profile.model,
                "from": label,
                "steps": kind,
                "number": int(mask.sum()),
                "mean error %": 100 * float(np.abs(error[mask]).mean()),
                "bias %": 100 * float(error[mask].mean()),
                "p95 %": 100 * float(np.quantile(np.abs(error[mask]), 0.95)),
                "in 90 % interval %": 100 * float(inside[mask].mean()),
            }
        )
    return rows


def load_rows(one: Measured, prior: dict[str, Any], label: str) -> list[dict[str, Any]]:
    """Adapter loads by rank, milliseconds."""
    rows = []
    for source in ("memory", "disk"):
        for rank in (8, 16, 32):
            features = {"rank": np.array([float(rank)]), "rank_padding": np.zeros(1)}
            truth, guess = (
                float(evaluate(data["load_time"][source], features)[0]) / 1e3
                for data in (one.profile.data, prior)
            )
            rows.append(
                {
                    "predicted": one.profile.model, "from": label, "load from": source,
                    "rank": rank, "measured ms": truth, "prior ms": guess,
                }
            )  # fmt: skip
    return rows


def memory_rows(
    one: Measured, prior: dict[str, Any], label: str, traces: Path | None
) -> list[dict[str, Any]]:
    """Errors of weights, and of KV tokens against the measured law or the servers' own logs."""
    own = one.profile.data["memory"]
    weights = prior["memory"]["weights_bytes"] / own["weights_bytes"] - 1
    row: dict[str, Any] = {
        "predicted": one.profile.model,
        "from": label,
        "weights error %": 100 * weights,
        "KV bytes per token": "equal"
        if prior["memory"]["kv_bytes_per_token"] == own["kv_bytes_per_token"]
        else "differ",
    }
    if traces is None:
        errors = []
        for slots in (0, 8, 32, 64, 128, 192, 256):
            for rank in (8, 16, 32):
                truth, guess = (
                    measured_memory.kv_tokens(memory, slots, rank, SERVER["max_num_seqs"])
                    for memory in (own, prior["memory"])
                )
                if truth:
                    errors.append(abs(guess / truth - 1))
        row["KV tokens error %"] = 100 * float(np.mean(errors))
        row["worst %"] = 100 * float(np.max(errors))
        return [row]
    import polars as pl

    from pytwin.calibrate import read

    table = read.table(traces, "calib_memory").filter(
        pl.col("model") == one.profile.model, pl.col("family") != "dt_real"
    )
    judged = measured_memory.judge(
        prior["memory"], table, read.runs(traces), one.model.max_model_len
    )
    row["KV tokens error %"] = judged["kv_tokens_mape_percent"]
    row["worst %"] = judged["kv_tokens_worst_percent"]
    row["can start, right"] = judged["can_start_right"]
    return [row]


def simulated_rows(
    one: Measured, prior: dict[str, Any], label: str, folder: Path
) -> list[dict[str, Any]]:
    """Simulations under both profiles; whether the prior's intervals hold the measured one's."""
    file = folder / f"{prior['name']}.json"
    file.write_text(json.dumps(prior), encoding="utf-8")
    rows = []
    for name, count, rates, ranks, slots in WORKLOADS:
        traffic = pt.Workload.poisson(
            adapters=pt.adapters(count, rates_rps=rates, ranks=ranks), duration_s=DURATION_S
        )
        settings = {
            **SERVER, "max_loras": slots, "max_cpu_loras": count, "max_lora_rank": max(ranks),
            "max_connections": 25_000,
        }  # fmt: skip
        truth = pt.predict(
            pt.EngineConfig(profile=one.profile.name, **settings), traffic, seeds=SEEDS, draws=0
        )
        guess = pt.predict(
            pt.EngineConfig(profile=str(file), **settings), traffic, seeds=SEEDS, draws=DRAWS
        )
        for metric in METRICS:
            low, high = guess.intervals[metric]
            rows.append(
                {
                    "predicted": one.profile.model, "from": label, "workload": name,
                    "metric": metric, "measured profile": truth.metrics[metric],
                    "prior": guess.metrics[metric], "low": low, "high": high,
                    "error %": 100 * (guess.metrics[metric] / truth.metrics[metric] - 1),
                    "held": low <= truth.metrics[metric] <= high,
                }
            )  # fmt: skip
    return rows


def tables(traces: Path | None, runs: int) -> dict[str, list[dict[str, Any]]]:
    """All tables: every model from the others, and (steps only) from all."""
    measured = measured_profiles()
    spread = shipped().spread
    found: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("steps", "memory", "loads", "simulated", "real")
    }
    with tempfile.TemporaryDirectory() as folder:
        for one in measured:
            rest = [other for other in measured if other is not one]
            label = ", ".join(other.profile.model for other in rest)
            prior = prior_of(one, learn(rest, spread))
            found["steps"] += step_rows(one, prior, label)
            found["steps"] += step_rows(one, prior_of(one, shipped()), "both")[-1:]
            found["memory"] += memory_rows(one, prior, label, traces)
            found["loads"] += load_rows(one, prior, label)
            found["simulated"] += simulated_rows(one, prior, label, Path(folder))
            if traces is not None:
                # The settings of that server are known; its times are not.
                served = {**prior, "server": dict(one.profile.server)}
                for family in ("ml_test", "dt_real"):
                    found["real"] += real_runs.rows(
                        one.profile.model, served, label, traces, family, runs, Path(folder)
                    )
    return found


def draw(out: Path) -> None:
    """Predicted over measured time of decodes against the batch, each model from the other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    measured = measured_profiles()
    for place, one in enumerate(measured):
        axes = figure.add_subplot(1, len(measured), place + 1)
        learned = learn([other for other in measured if other is not one], shipped().spread)
        ratio = evaluate(prior_of(one, learned)["step_time"]["terms"], one.features) / one.step_us
        kinds = steps.kinds(one.features)
        for kind in ("decode, active adapters", "decode, idle slots", "decode without LoRA"):
            mask = kinds[kind]
            axes.plot(one.features["tokens"][mask], ratio[mask], ".", markersize=3, label=kind)
        axes.axhline(1.0, color="black", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_ylim(0.6, 1.4)
        axes.set_xlabel("requests in the step")
        axes.set_title(f"{one.profile.model}, from the other", fontsize=9)
        if place == 0:
            axes.set_ylabel("prior / measured law")
            axes.legend(fontsize=7)
    figure.savefig(out / "steps.png", dpi=130)


def cell(value: Any) -> str:
    """A figure as a table shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def markdown(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(cell(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def summary(rows: list[dict[str, Any]]) -> str:
    """One line per model and metric of the simulations."""
    out = []
    for model in dict.fromkeys(row["predicted"] for row in rows):
        for metric in METRICS:
            some = [r for r in rows if r["predicted"] == model and r["metric"] == metric]
            error = np.array([row["error %"] for row in some])
            out.append(
                {
                    "predicted": model, "metric": metric, "workloads": len(some),
                    "mean error %": float(np.abs(error).mean()), "bias %": float(error.mean()),
                    "held by the 90 % interval": f"{sum(r['held'] for r in some)}/{len(some)}",
                }
            )  # fmt: skip
    return markdown(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("-o", "--out", type=Path, default=Path("out/priors"))
    parser.add_argument("--docs", type=Path, help="page whose tables to write anew")
    parser.add_argument("--traces", type=Path)
    parser.add_argument("--runs", type=int, default=12, help="real runs per model and family")
    given = parser.parse_args()
    found = tables(given.traces, given.runs)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "tables.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(Path(__file__).parent if given.docs else given.out)
    parts = {
        "steps": markdown(found["steps"]),
        "memory": markdown(found["memory"]),
        "loads": markdown(found["loads"]),
        "simulated": summary(found["simulated"]),
    }
    if found["real"]:
        parts["real"] = markdown(found["real"])
    for name, text in parts.items():
        print(f"\n{name}\n{text}")
    if given.docs:
        page = given.docs.read_text(encoding="utf-8")
        for name, text in parts.items():
            begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
            head, _, rest = page.partition(begin)
            page = f"{head}{begin}\n{text}\n{end}{rest.partition(end)[2]}"
        given.docs.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
