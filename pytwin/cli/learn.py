"""`pytwin learn` and `pytwin recommend`."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from pytwin.cli.flags import Format
from pytwin.cli.output import note, print_csv, print_json, print_table
from pytwin.config import EngineConfig
from pytwin.errors import ConfigError, DataError
from pytwin.learn.answer import Recommendation
from pytwin.learn.question import SERVED, SLOTS, Objective, ObjectiveName
from pytwin.simulation import TPOT_SLO_MS, TTFT_SLO_MS
from pytwin.workload.adapter_set import adapters_from_csv

app = App(name="learn", help="Train models on a sweep.")

Numbers = Annotated[list[str] | None, Parameter(negative=(), consume_multiple=False)]


def _list(
    name: str, given: list[str] | None, kind: type, default: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Numbers of a flag that takes commas."""
    if given is None:
        return default
    parts = [part.strip() for text in given for part in str(text).split(",") if part.strip()]
    try:
        return tuple(kind(part) for part in parts)
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise ConfigError(f"{name} ({','.join(parts)}) must be {what} with commas") from None


def recommend(
    *,
    profile: str,
    rates_rps: Numbers = None,
    ranks: Numbers = None,
    served: Numbers = None,
    slots: Numbers = None,
    adapters: Path | None = None,
    lengths: str = "sharegpt",
    base_rate_rps: float = 0.0,
    max_lora_rank: int | None = None,
    objective: ObjectiveName = "slo",
    ttft_slo_ms: float = TTFT_SLO_MS,
    tpot_slo_ms: float = TPOT_SLO_MS,
    risk: float = 0.1,
    duration_s: float = 3600.0,
    models: str = "best",
    verify: bool = True,
    workers: int | None = None,
    gpu_memory_utilization: float | None = None,
    max_num_seqs: int | None = None,
    max_model_len: int | None = None,
    format: Annotated[Format, Parameter(name="--format")] = "table",  # noqa: A002
) -> int:
    """Say how many adapters to serve on one server, in how many slots.

    The models shipped with pytwin look at every pair of `--served` and `--slots`, the twin
    simulates the promising ones, and the recommended one again under the profile's uncertainty.
    An objective that nothing holds is an answer: `feasible` false with the reason, exit code 0.

    Parameters
    ----------
    profile
        A shipped profile (see `pytwin profiles`), or the path of a profile JSON.
    rates_rps
        Requests per second, cycled over the served adapters: 0.4,0.05,0.0125.
    ranks
        Ranks, cycled over the served adapters: 8,16,16.
    served
        Numbers of adapters to consider.
    slots
        Values of max_loras to consider; those above the served adapters are skipped.
    adapters
        CSV file of a concrete fleet (adapter, rate_rps, rank, optional prompt_tokens and
        output_tokens) instead of rates and ranks: which of them fit on one server, and how.
    lengths
        "sharegpt", or prompt,output tokens.
    base_rate_rps
        Requests per second for the base model.
    max_lora_rank
        Rank of every slot; by default the smallest that holds the ranks.
    objective
        slo: not starved, and every adapter's mean TTFT and TPOT within the objectives.
        paper: throughput above 0.9 of nominal rate x mean lengths.
    ttft_slo_ms
        Objective for each adapter's mean time to first token.
    tpot_slo_ms
        Objective for each adapter's mean time per output token.
    risk
        Greatest probability of breaking the objective that is still recommended.
    duration_s
        Horizon in seconds.
    models
        best, readable, or a file of `pytwin learn fit`.
    verify
        Let the twin check the models' answer; --no-verify for their word alone.
    workers
        Threads; all cores if left out.
    """
    from pytwin.learn.ask import recommend as answer
    from pytwin.learn.ask import recommend_fleet

    server = EngineConfig(
        profile=profile,
        gpu_memory_utilization=gpu_memory_utilization,
        max_num_seqs=max_num_seqs,
        max_model_len=max_model_len,
    )
    aim = Objective(objective, ttft_slo_ms, tpot_slo_ms, risk)
    common: dict[str, Any] = {
        "slots": _list("slots", slots, int, SLOTS),
        "lengths": _lengths(lengths),
        "base_rate_rps": base_rate_rps,
        "max_lora_rank": max_lora_rank,
        "objective": aim,
        "duration_s": duration_s,
        "models": models,
        "verify": verify,
        "workers": workers,
    }
    if adapters is not None:
        if rates_rps is not None or ranks is not None or served is not None:
            raise ConfigError(
                "adapters brings rates and ranks: leave out --rates-rps, --ranks, --served"
            )
        fleet = recommend_fleet(server, adapters_from_csv(adapters), **common)
        _print(fleet.answer, format, fleet.to_dict())
        if format == "table" and fleet.left_out:
            print(f"left out ({len(fleet.left_out)}): {', '.join(fleet.left_out)}")
        return 0
    found = answer(
        server,
        rates_rps=_list("rates_rps", rates_rps, float, ()),
        ranks=_list("ranks", ranks, int, (16,)),
        served=_list("served", served, int, SERVED),
        **common,
    )
    _print(found, format, found.to_dict())
    return 0


@app.command
def fit(
    directory: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    families: str = "tree,forest,boosted,rules,linear",
    seed: int = 0,
    plots: bool = True,
    format: Annotated[Format, Parameter(name="--format")] = "table",  # noqa: A002
) -> int:
    """Train models on a finished sweep; workloads are never split between folds.

    Writes readable.json (the tree), best.json.gz (per target the family that errs least on
    workloads that it did not see), rules.txt, predict_readable.py (no dependencies),
    report.json, importance.png, partial_dependence.png and reliability.png into the output
    directory.

    Parameters
    ----------
    directory
        A sweep with the columns of `pytwin.learn.design`: profile, rates_rps, ranks, lengths,
        served_adapters, max_loras, max_lora_rank.
    output
        Directory for the models.
    families
        Of tree, forest, boosted, rules, linear: those to try.
    seed
        Of the estimators.
    plots
        Draw the pictures; --no-plots for none.
    """
    from pytwin.learn.dataset import read_dataset
    from pytwin.learn.export import write_models
    from pytwin.learn.models import FAMILIES
    from pytwin.learn.plots import write_plots
    from pytwin.learn.train import fit_all

    wanted = [name.strip() for name in families.split(",")]
    known = {item.name: item for item in FAMILIES}
    for name in wanted:
        if name not in known:
            raise ConfigError(f"families ({name}) must be of {', '.join(known)}")
    if "tree" not in wanted:
        raise ConfigError("families must hold tree: it is the readable model")
    if output.exists() and not output.is_dir():
        raise DataError(f"output ({output}) must be a directory")
    data = read_dataset(directory)
    fitted = fit_all(data, tuple(known[name] for name in wanted), seed=seed, told=note)
    provenance = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": f"pytwin learn fit {directory} -o {output} --families {families} --seed {seed}",
        "python": platform.python_version(),
    }
    rows = write_models(fitted, data, provenance, output)
    if plots:
        write_plots(fitted, data, output, seed=seed)
    if format == "json":
        print_json(rows)
    elif format == "csv":
        print_csv(rows)
    else:
        print_table(rows, title=f"{len(data.groups)} rows, held out by workload")
    return 0


def _lengths(text: str) -> Any:
    if "," not in text:
        return text
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise ConfigError(f"lengths ({text}) must be sharegpt, or prompt,output tokens: 250,231")
    return int(parts[0]), int(parts[1])


def _print(found: Recommendation, format: Format, document: dict[str, Any]) -> None:  # noqa: A002
    if format == "json":
        print_json(document)
        return
    if format == "csv":
        print_csv([_flat(document)])
        return
    for reason in found.fallback:
        note(f"answered by the twin: {reason}")
    for reason in found.extrapolated:
        note(f"extrapolated: {reason}")
    if not found.feasible:
        print(f"nothing holds the objective: {found.reason}")
        return
    for line in _lines(document):
        print(line)
    shown = ("served_adapters", "max_loras", "total_throughput", "mean_tpot_ms", "mean_ttft_ms")
    rows = [
        {"": "equivalent", **{name: item[name] for name in shown}}
        for item in document["equivalent"]
    ]
    if document["runner_up"]:
        rows.append({"": "runner-up", **{name: document["runner_up"][name] for name in shown}})
    print_table(rows)


def _lines(document: dict[str, Any]) -> list[str]:
    """The answer in sentences."""

    def interval(name: str, digits: int = 0) -> str:
        pair = document["intervals"].get(name)
        return f" [{pair[0]:,.{digits}f}, {pair[1]:,.{digits}f}]" if pair else ""

    setting = (
        f"serve {document['served_adapters']} adapters with max_loras {document['max_loras']}, "
        f"max_cpu_loras {document['max_cpu_loras']}, max_lora_rank {document['max_lora_rank']}"
    )
    expected = (
        f"throughput {document['total_throughput']:,.0f} tokens/s{interval('total_throughput')}, "
        f"TPOT {document['mean_tpot_ms']:.1f} ms{interval('mean_tpot_ms', 1)}, "
        f"TTFT {document['mean_ttft_ms']:,.0f} ms{interval('mean_ttft_ms')}"
    )
    lines = [setting, expected]
    if document["risk"] is not None:
        lines.append(f"risk of breaking the objective: {document['risk']:.2f}")
    if document["binding"]:
        lines.append(
            f"limited by {document['binding']['constraint']}: {document['binding']['evidence']}"
        )
    more = document["one_more_adapter"]
    if more:
        lines.append(
            f"one more adapter ({more['rate_rps']:g} requests/s): "
            f"{more['total_throughput']:+,.0f} tokens/s, TPOT {more['mean_tpot_ms']:+.1f} ms, "
            f"TTFT {more['mean_ttft_ms']:+,.0f} ms"
            if more["error"] is None
            else f"one more adapter cannot be served: {more['error']}"
        )
    lines += [f"near-critical: {reason}" for reason in document["near_critical"]]
    lines.append(document["vllm_serve"])
    return lines


def _flat(document: dict[str, Any]) -> dict[str, Any]:
    """One row: what is no single value becomes JSON text."""
    return {
        name: value if isinstance(value, (int, float, str, type(None))) else json.dumps(value)
        for name, value in document.items()
    }
