"""`pytwin plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from pytwin.cli.flags import Ints, Words
from pytwin.cli.output import (
    check_writable,
    note,
    print_csv,
    print_json,
    print_table,
    write_text,
)
from pytwin.config import EngineConfig
from pytwin.errors import ConfigError
from pytwin.learn.question import Objective
from pytwin.simulation import TPOT_SLO_MS, TTFT_SLO_MS
from pytwin.workload.adapter_set import adapters_from_csv

PlanFormat = Literal["table", "json", "csv", "yaml"]


def plan(
    *,
    adapters: Path,
    profile: str | None = None,
    max_replicas: int | None = None,
    method: str = "auto",
    copies: int = 1,
    current: Path | None = None,
    max_moves: int | None = None,
    check: Path | None = None,
    lengths: Words = ("sharegpt",),
    ttft_slo_ms: float = TTFT_SLO_MS,
    tpot_slo_ms: float = TPOT_SLO_MS,
    seeds: int = 2,
    duration_s: float = 3600.0,
    slots: Ints = None,
    workers: int | None = None,
    gpu_memory_utilization: float | None = None,
    max_num_seqs: int | None = None,
    max_model_len: int | None = None,
    yaml: str | None = None,
    format: Annotated[PlanFormat, Parameter(name="--format")] = "table",  # noqa: A002
) -> int:
    """Place adapters on the fewest replicas on which none starves.

    Every replica of the plan is simulated under every seed. A lower bound on their number comes
    with it, and what proves it. A fleet that cannot be placed is an answer, exit code 0.

    Parameters
    ----------
    adapters
        CSV file: adapter, rate_rps, rank, optional prompt_tokens and output_tokens.
    profile
        A shipped profile (see `pytwin profiles`), or the path of a profile JSON. Several with
        prices, A=2.5,B=1.0, for the cheapest plan of servers of these kinds.
    max_replicas
        As many replicas at most; if too few, the most load is served and the rest is left out.
    method
        auto, random, first-fit-decreasing, greedy, rendezvous, local-search, milp, exact.
    copies
        Replicas that each adapter is on, its rate split evenly.
    current
        Today's plan (JSON), kept where that costs no replica.
    max_moves
        As many adapters may change their replica against today's plan.
    check
        Judge this plan (JSON) again instead of making one; exit code 1 if anything is wrong.
    lengths
        sharegpt, or PROMPT,OUTPUT tokens.
    ttft_slo_ms
        Objective for the mean time to first token of equal adapters.
    tpot_slo_ms
        Objective for the mean time per output token of equal adapters.
    seeds
        Replicas are simulated under so many seeds, and must hold under each.
    duration_s
        Simulated seconds.
    slots
        Values of max_loras to try, beside the number of adapters on a replica.
    workers
        Threads; all cores if left out. The plan does not depend on it.
    yaml
        Write replicas, arguments and adapters to this YAML file as well.
    """
    fleet = adapters_from_csv(adapters)
    if check is not None:
        return _checked(check, fleet, _lengths(lengths), workers, format)
    if profile is None:
        raise ConfigError("profile is missing: give a shipped name or the path of a profile JSON")
    check_writable(yaml, (".yaml", ".yml"))
    from pytwin.fleet.placement import Offer
    from pytwin.fleet.placement import plan as answer
    from pytwin.fleet.placement.problem import SLOTS

    def server(key: str) -> EngineConfig:
        return EngineConfig(
            profile=key,
            gpu_memory_utilization=gpu_memory_utilization,
            max_num_seqs=max_num_seqs,
            max_model_len=max_model_len,
        )

    found = answer(
        [Offer(server(key), price) for key, price in _prices(profile)] or server(profile),
        fleet,
        max_replicas=max_replicas,
        method=method,  # type: ignore[arg-type]  # checked there, with a line that lists them
        copies=copies,
        current=current,
        max_moves=max_moves,
        lengths=_lengths(lengths),
        objective=Objective("slo", ttft_slo_ms, tpot_slo_ms),
        seeds=seeds,
        duration_s=duration_s,
        slots=slots or SLOTS,
        workers=workers,
    )
    if yaml is not None:
        write_text(found.to_yaml(), yaml)
    document = found.to_dict()
    if format == "json":
        print_json(document)
    elif format == "yaml":
        print(found.to_yaml(), end="")
    elif format == "csv":
        print_csv(_rows(document))
    else:
        _print(document)
    return 0


def _checked(path: Path, fleet: Any, lengths: Any, workers: int | None, format: PlanFormat) -> int:  # noqa: A002
    from pytwin.fleet.placement import check

    wrong = check(path, fleet, lengths=None if lengths == "sharegpt" else lengths, workers=workers)
    if format == "json":
        print_json({"valid": not wrong, "complaints": wrong})
    else:
        for line in wrong:
            print(line)
        if not wrong:
            print("the plan holds: placement, simulations, lower bound and gap")
    return 1 if wrong else 0


def _prices(profile: str) -> list[tuple[str, float]]:
    """Profiles and prices of A=2.5,B=1.0; none where no price is given."""
    if "=" not in profile:
        return []
    found = []
    for part in profile.split(","):
        key, sign, price = part.rpartition("=")
        try:
            found.append((key, float(price)))
        except ValueError:
            sign = ""
        if not sign or not key:
            raise ConfigError(f"profile ({part}) must be PROFILE=PRICE where one has a price")
    return found


def _lengths(words: tuple[str, ...] | None) -> Any:
    text = ",".join(words or ("sharegpt",))
    if "," not in text:
        return text
    parts = text.split(",")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise ConfigError(f"lengths ({text}) must be sharegpt, or prompt,output tokens: 250,231")
    return int(parts[0]), int(parts[1])


def _rows(document: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per adapter and replica; those on none at the end."""
    rows = [
        {
            "adapter": name,
            "replica": replica["name"],
            **replica["settings"],
            "profile": replica["profile"],
        }
        for replica in document["replicas"]
        for name in replica["adapters"]
    ]
    empty = {
        "replica": None,
        "profile": None,
        "max_loras": None,
        "max_cpu_loras": None,
        "max_lora_rank": None,
    }
    return rows + [{"adapter": name, **empty} for name in document["unplaced"]]


def _print(document: dict[str, Any]) -> None:
    if document["reason"]:
        note(document["reason"])
    if document["status"] == "infeasible":
        print(f"infeasible: {document['reason']}")
        return
    gap = "-" if document["gap"] is None else f"{100 * document['gap']:.1f} %"
    least = "" if document["lower_bound"] is None else f", at least {document['lower_bound']:g}"
    cost = "" if document["cost"] is None else f" for {document['cost']:g}"
    print(f"{document['status']}: {document['replicas_used']} replicas{cost}{least}, gap {gap}")
    if document["moves"] is not None:
        print(f"moves: {document['moves']} adapters")
    rows = []
    for replica in document["replicas"]:
        worst = replica["measured"]
        rows.append(
            {
                "replica": replica["name"],
                **({} if document["cost"] is None else {"profile": replica["profile"]}),
                "adapters": len(replica["adapters"]),
                "requests/s": replica["rate_rps"],
                "max_loras": replica["settings"]["max_loras"],
                "max_lora_rank": replica["settings"]["max_lora_rank"],
                "served": min(row["served_ratio"] or 0.0 for row in worst),
                "worst TTFT ms": max(row["worst_group_mean_ttft_ms"] or 0.0 for row in worst),
                "worst TPOT ms": max(row["worst_group_mean_tpot_ms"] or 0.0 for row in worst),
            }
        )
    print_table(rows)
    for replica in document["replicas"]:
        print(f"{replica['name']}: {replica['vllm_serve']}")
    beyond = dict.fromkeys(r for replica in document["replicas"] for r in replica["extrapolated"])
    for reason in beyond:
        note(f"extrapolated: {reason}")
    if document["unplaced"]:
        print(f"unplaced ({len(document['unplaced'])}): {', '.join(document['unplaced'])}")
