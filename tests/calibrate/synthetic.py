"""Recordings of a server that never was: decisions of the twin's scheduler, times by a known law.

Written as the recorder writes them (docs of pytwin.record.events), so that a fit can be held
against the coefficients that made the times.
"""

from __future__ import annotations

import json
import random
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from pytwin.conformance.cases import materialise, parse_case
from pytwin.conformance.twin import run_twin
from pytwin.conformance.versions import engine_version

CONFIG: dict[str, Any] = {
    "num_blocks": 160,
    "block_size": 16,
    "max_num_seqs": 24,
    "max_num_batched_tokens": 256,
    "max_model_len": 1024,
    "max_loras": 4,
    "max_cpu_loras": 6,
    "max_lora_rank": 32,
}
RANKS = (8, 16, 32)


@dataclass(frozen=True)
class Truth:
    """The law that makes the times; ms and ms per unit."""

    base: float = 9.0
    tokens: float = 0.05
    adapters: float = 0.6
    prompt: float = 2.0  # any prompt token in the step
    host: float = 0.20
    host_seqs: float = 0.01
    disk: float = 3.0
    disk_rank: float = 0.1
    memory: float = 0.8
    ingress: float = 4.0
    egress: float = 0.5
    egress_seqs: float = 0.05
    noise: float = 0.0  # standard deviation of log(execution)

    def execute(self, batch: dict[str, float]) -> float:
        prompt = self.prompt if batch["prefill_tokens"] else 0.0
        return (
            self.base + self.tokens * batch["tokens"] + self.adapters * batch["adapters"] + prompt
        )

    def overhead(self, batch: dict[str, float]) -> float:
        return self.host + self.host_seqs * batch["seqs"]

    def load(self, kind: str, rank: int) -> float:
        return self.disk + self.disk_rank * rank if kind == "load" else self.memory


@dataclass
class Clock:
    """Where the made-up machine is, in seconds."""

    now: float = 1000.0
    gpu_free: float = 0.0
    in_flight: deque[dict[str, Any]] = field(default_factory=deque)


def record(
    directory: Path,
    *,
    truth: Truth | None = None,
    seed: int = 0,
    requests: int = 160,
    asynchronous: bool = False,
    header: dict[str, Any] | None = None,
    client: str | None = "timed",
    gpu: bool = False,
    **config: Any,
) -> Path:
    """Write a recording into `directory` and return it."""
    truth = truth or Truth()
    draw = random.Random(seed)  # noqa: S311 - repeatable, not secret
    settings = {**CONFIG, "async_scheduling": asynchronous, **config}
    rank_of = settings.pop("max_lora_rank")
    case = {"config": settings, "requests": _arrivals(draw, requests, settings["max_loras"])}
    if client == "bench":
        for number, entry in enumerate(case["requests"]):
            entry["id"] = f"cmpl-bench-0efa6924-{number}-0-9b39f4a9"
    version = engine_version("0.32")
    lines = run_twin(materialise(parse_case(case), version), version)
    trace = [entry for entry in map(json.loads, lines) if entry["type"] == "step"]
    known = {entry["id"]: entry for entry in case["requests"]}
    made = _times(trace, known, truth, draw, asynchronous=asynchronous)
    arrivals = _seen(made, known, truth, draw)
    top = {"e": "header", "vllm": "0.32.0", "t": 1000.0, "unix": 5000.0, "format": 1, "run": "x"}
    top |= {"config": {**settings, "max_lora_rank": rank_of}, **(header or {})}
    steps = [{key: step[key] for key in _STEP} for step in made]
    end = [{"e": "end", "t": made[-1]["t3"]}]
    mark = [{"e": "file", "format": top["format"], "run": top["run"], "t": 1000.0}]
    engine = sorted(arrivals, key=lambda r: r["t"])
    directory.mkdir(parents=True)
    _write(directory / "steps.jsonl", [top, *steps, *end])
    _write(directory / "requests.jsonl", mark + [{**r, "e": "req"} for r in engine] + end)
    _write(directory / "worker.jsonl", mark + _worker(made, gpu) + end)
    if client is not None:
        document = _timed(made, arrivals, known, truth)
        if client == "bench":
            document = _bench(document, known)
        (directory / "client.json").write_text(json.dumps(document))
    return directory


_STEP = ("e", "i", "t0", "t1", "t2", "t3", "added", "sched", "tokens", "preempted", "nrun",
         "nwait", "free", "loras", "fin")  # fmt: skip


def _arrivals(draw: random.Random, count: int, max_loras: int | None) -> list[dict[str, Any]]:
    """Bursts and lulls, so that batches of all sizes occur."""
    step, made = 0, []
    for number in range(count):
        step += int(draw.expovariate(1 / 9)) if number % 40 < 30 else draw.randrange(2)
        lora = draw.randrange(0, 9) if max_loras else 0
        made.append({
            "id": f"q{number}", "arrival_step": step, "prompt_len": draw.randrange(4, 200),
            "max_tokens": draw.randrange(1, 60), "lora_id": lora or None,
        })  # fmt: skip
    return made


def batch_of(sched: list[list[Any]], known: dict[str, dict[str, Any]]) -> dict[str, float]:
    """A step's counts, by the plain reading of docs/reference/profile.md."""
    decode = [s for s in sched if s[1] == 1 and s[2] >= known[s[0]]["prompt_len"]]
    tokens = sum(s[1] for s in sched)
    return {
        "tokens": tokens,
        "seqs": len(sched),
        "decode_seqs": len(decode),
        "prefill_seqs": len(sched) - len(decode),
        "prefill_tokens": tokens - len(decode),
        "context_tokens": sum(s[2] for s in sched),
        "adapters": len({known[s[0]]["lora_id"] for s in sched} - {None}),
    }


def _times(
    trace: list[dict[str, Any]], known: dict[str, dict[str, Any]], truth: Truth,
    draw: random.Random, *, asynchronous: bool,
) -> list[dict[str, Any]]:  # fmt: skip
    """The steps with their times, as twin_core/src/timed.rs gives them."""
    clock, made = Clock(), []
    seen = -1
    for entry in trace:
        if entry["i"] > seen + 1:
            clock.now += 0.5  # nothing to do for a while
        seen = entry["i"]
        if entry.get("scheduled"):
            batch = batch_of(entry["scheduled"], known)
            batch["waiting"] = len(entry["waiting"])
            host = 1e-3 * truth.overhead(batch)
            loads = [
                (kind, who, RANKS[who % 3], 1e-3 * truth.load(kind, RANKS[who % 3]), slot)
                for kind, who, *slot in entry.get("lora_events", ())
                if kind in ("load", "activate")
            ]
            work = 1e-3 * truth.execute(batch) * draw.lognormvariate(0, truth.noise)
            work += sum(load[3] for load in loads)
            t0 = clock.now
            # Synchronous: half of the host's work before the execution, half after it.
            t1 = t0 + (host if asynchronous else host / 2)
            start = max(t1, clock.gpu_free)
            clock.gpu_free = start + work
            clock.now = t1
            clock.in_flight.append({
                "e": "step", "i": entry["i"], "t0": t0, "t1": t1, "end": start + work,
                "host": host, "loads": loads, "work": work, "batch": batch, "added": entry["added"],
                "sched": entry["scheduled"], "tokens": entry["total_tokens"],
                "preempted": entry["preempted"], "nrun": len(entry["running"]),
                "nwait": len(entry["waiting"]), "free": entry["free_blocks"],
                "loras": entry.get("loras", []), "lora_order": entry.get("lora_order", []),
            })  # fmt: skip
        if "finished" in entry and clock.in_flight:
            step = clock.in_flight.popleft()
            step["t2"] = max(clock.now, step["end"])
            step["t3"] = step["t2"] + (0.0 if asynchronous else step["host"] / 2)
            clock.now = step["t3"]
            step["finished"] = entry["finished"]
            made.append(step)
    counts: dict[str, int] = {}
    for step in made:
        for rid, tokens, first, _ in step["sched"]:
            if first + tokens >= known[rid]["prompt_len"] + counts.get(rid, 0):
                counts[rid] = counts.get(rid, 0) + 1
        step["fin"] = {rid: [why, counts[rid]] for rid, why in step["finished"].items()}
    return made


def _seen(
    made: list[dict[str, Any]], known: dict[str, dict[str, Any]], truth: Truth, draw: random.Random
) -> list[dict[str, Any]]:
    """When requests came: in time for their step, too late for the one before."""
    begin = {step["i"]: step["t0"] for step in made}
    rows = []
    for step in made:
        added = step["added"]
        before = begin.get(step["i"] - 1)
        # An idle engine starts with the first one to come: the others came with it.
        came = [step["t0"] - 1e-9] * len(added)
        if before is not None:
            came = sorted(draw.uniform(before + 1e-5, step["t0"] - 1e-6) for _ in added)
        for rid, ready in zip(added, came, strict=True):
            sent = ready - 1e-3 * truth.ingress
            entry = known[rid]
            rows.append({
                "id": rid, "t": step["t0"], "step": step["i"], "sent": sent,
                "arrival": sent + 4000.0, "prompt": entry["prompt_len"],
                "max_tokens": entry["max_tokens"], "lora": entry["lora_id"],
            })  # fmt: skip
    return rows


def _worker(made: list[dict[str, Any]], gpu: bool) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    for number, step in enumerate(made):
        for kind, who, rank, took, slot in step["loads"]:
            row = {"e": f"lora_{kind}", "t": step["t1"] + 1e-4, "dt": took, "id": who}
            events.append({**row, "rank": rank} if kind == "load" else {**row, "slot": slot[0]})
        events.append({
            "e": "exec", "k": number, "t": step["t1"], "dt": 0.0, "tokens": step["tokens"],
            "reqs": len(step["sched"]), "lora_order": step["lora_order"], "step": step["i"],
        })  # fmt: skip
        if gpu:
            events.append({"e": "gpu", "k": number, "dt": step["work"]})
    return events


def _timed(
    made: list[dict[str, Any]], arrivals: list[dict[str, Any]],
    known: dict[str, dict[str, Any]], truth: Truth,
) -> dict[str, Any]:  # fmt: skip
    times: dict[str, list[float]] = {entry["id"]: [] for entry in arrivals}
    for step in made:
        out = 1e-3 * (truth.egress + truth.egress_seqs * step["batch"]["seqs"])
        for rid, tokens, first, _ in step["sched"]:
            if first + tokens >= known[rid]["prompt_len"] + len(times[rid]):
                times[rid].append(step["t3"] + out)
    rows = [{"id": r["id"], "sent": r["sent"], "token_times": times[r["id"]]} for r in arrivals]
    return {"requests": rows}


def _bench(document: dict[str, Any], known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The same as `vllm bench serve --save-detailed` writes it."""
    rows = sorted(document["requests"], key=lambda row: int(row["id"].split("-")[3]))
    times = [row["token_times"] for row in rows]
    starts = [row["sent"] for row in rows]
    ttfts = [values[0] - start for values, start in zip(times, starts, strict=True)]
    itls = [[b - a for a, b in pairwise(values)] for values in times]
    prompts = [known[row["id"]]["prompt_len"] for row in rows]
    duration = max(v[-1] for v in times) - min(starts)
    gaps = [gap for values in itls for gap in values]
    return {
        "backend": "openai", "num_prompts": len(rows), "request_rate": len(rows) / duration,
        "burstiness": 1.0, "max_concurrency": None, "duration": duration, "completed": len(rows),
        "total_input_tokens": sum(prompts), "total_output_tokens": sum(map(len, times)),
        "input_lens": prompts, "output_lens": [len(v) for v in times], "ttfts": ttfts,
        "itls": itls, "start_times": starts, "errors": [""] * len(rows),
        "mean_ttft_ms": 1e3 * sum(ttfts) / len(ttfts),
        "mean_itl_ms": 1e3 * sum(gaps) / max(len(gaps), 1),
    }  # fmt: skip


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    names = {"sent"}  # known to the client alone
    text = [json.dumps({k: v for k, v in row.items() if k not in names}) for row in rows]
    path.write_text("\n".join(text) + "\n")
