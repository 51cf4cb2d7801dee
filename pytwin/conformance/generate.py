"""Random cases: repeatable from (preset, seed), and always possible to finish."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .cases import DEFAULTS
from .presets import ANYTHING, PRESETS, Settings
from .versions import EngineVersion

Json = dict[str, Any]


@dataclass(frozen=True)
class _Traffic:
    """How one case's requests look; drawn once per case."""

    gap: Callable[[], int]  # iterations between arrivals
    prompt: Callable[[], int]
    output: Callable[[], int]
    adapters: int
    adapter_share: float
    stop_share: float
    abort_share: float
    tie_share: float  # of arrival times, under priority
    copies: bool  # under prefix caching: whole prompts are repeated, in full blocks


def random_case(
    seed: int, preset: str, version: EngineVersion, requests: int | None = None
) -> Json:
    """A random case (not yet materialised) of a preset.

    Args:
        seed: any integer; the same gives the same case.
        preset: a name in `PRESETS`.
        version: settings that it lacks are left alone.
        requests: how many; None draws 10 to 90.
    """
    rng = random.Random(f"{preset}/{seed}")  # noqa: S311 -- repeatable, not secret
    settings = _anything(rng, version) if preset == ANYTHING else dict(PRESETS[preset])
    config = {**DEFAULTS, **settings}
    count = requests if requests is not None else rng.randint(10, 90)
    traffic = _traffic(rng, config)
    made, step = [], 0
    for k in range(count):
        step += traffic.gap()
        made.append(_request(rng, config, traffic, k, step))
    case: Json = {"config": settings, "requests": made, "aborts": _aborts(rng, traffic, made)}
    if config["max_loras"] and rng.random() < 0.3:
        ids = list(range(1, traffic.adapters + 1))
        case["lora_preload"] = rng.sample(ids, rng.randint(1, len(ids)))
    return case


def _anything(rng: random.Random, version: EngineVersion) -> Settings:
    """A configuration with every setting drawn; those that `version` lacks stay as they are."""
    block_size = rng.choice([1, 2, 4, 8, 16, 16, 32, 128])
    max_model_len = rng.choice([17, 33, 64, 100, 256, 512, 2000])
    # One request of max_model_len must fit, beside the null block.
    least = -(-max_model_len // block_size) + 1
    max_loras = rng.choice([0, 1, 2, 3, 5, 8, 32])
    settings: Settings = {
        "block_size": block_size,
        "max_model_len": max_model_len,
        "num_blocks": least + int(least * rng.choice([0, 0, 0.1, 0.5, 1, 3])),
        "max_num_seqs": rng.choice([1, 2, 8, 16, 64, 64]),
        "max_num_batched_tokens": rng.choice([1, 5, 16, 33, 64, 200, 512, 512, 2048]),
        "max_loras": max_loras,
        "max_cpu_loras": rng.choice([None, max_loras, max_loras + 1, 2 * max_loras]),
        "enable_prefix_caching": rng.random() < 0.5,
        "policy": rng.choice(["fcfs", "priority"]),
        "async_scheduling": rng.random() < 0.5,
        "long_prefill_token_threshold": rng.choice([0, 0, 0, 4, 16, 100]),
        "long_prefill_token_threshold_adaptive": rng.random() < 0.5,
        "enable_chunked_prefill": rng.random() < 0.8,
        "watermark": rng.choice([0.0, 0.0, 0.01, 0.1, 0.4, 0.9]),
        "scheduler_reserve_full_isl": rng.random() < 0.5,
    }
    if not settings["enable_chunked_prefill"]:  # vLLM asks for this: a prompt must fit in one step
        settings["max_num_batched_tokens"] = max(512, max_model_len)
    elif rng.random() < 0.3:
        limit = settings["max_num_batched_tokens"]
        settings["max_num_scheduled_tokens"] = rng.randint(max(1, limit // 2), 2 * limit)
    if rng.random() < 0.3:
        settings["max_num_active_seqs"] = rng.randint(1, settings["max_num_seqs"])
    return {key: value for key, value in settings.items() if key not in version.absent}


def _traffic(rng: random.Random, config: Settings) -> _Traffic:
    rate = rng.choice([0.15, 0.6, 0.6, 2.0])
    burst = rng.choice([1, 1, 1, 8])  # arrivals come in groups of about this size
    gaps: dict[str, Callable[[], int]] = {
        "poisson": lambda: int(rng.expovariate(rate)) if rng.random() < 1 / burst else 0,
        "at_once": lambda: 0,
        # The engine falls idle in between.
        "sparse": lambda: rng.choice([0, 0, 1, 5, 200]),
    }
    capacity = min(config["max_model_len"], (config["num_blocks"] - 1) * config["block_size"])
    middle = min(4.2, 0.6 * _log(capacity))
    lengths: dict[str, Callable[[], int]] = {
        "lognormal": lambda: int(rng.lognormvariate(middle, 0.9)),
        # Lengths at the borders of blocks are where rounding goes wrong.
        "blocks": lambda: rng.randint(0, 4) * config["block_size"] + rng.choice([-1, 0, 1]),
        "uniform": lambda: rng.randint(1, capacity),
    }
    max_loras = config["max_loras"] or 0
    return _Traffic(
        gap=gaps[rng.choice(["poisson", "poisson", "poisson", "at_once", "sparse", "sparse"])],
        prompt=lengths[rng.choice(["lognormal", "lognormal", "blocks", "uniform"])],
        output=lengths[rng.choice(["lognormal", "lognormal", "lognormal", "blocks"])],
        adapters=max_loras * rng.choice([1, 2, 3, 3, 6]),
        adapter_share=rng.choice([0.5, 0.85, 0.85, 1.0]),
        stop_share=rng.choice([0.0, 0.3, 0.3, 0.9]),
        abort_share=rng.choice([0.0, 0.05, 0.05, 0.3]),
        tie_share=rng.choice([0.0, 0.3, 1.0]),
        copies=config["enable_prefix_caching"] and rng.random() < 0.3,
    )


def _log(value: int) -> float:
    return float(max(value, 2).bit_length()) * 0.7


def _request(rng: random.Random, config: Settings, traffic: _Traffic, k: int, step: int) -> Json:
    room = (config["num_blocks"] - 1) * config["block_size"]
    longest = config["max_model_len"] - 1  # vLLM's front end refuses longer prompts
    whole = min(longest, room - 1)
    prompt = max(1, min(traffic.prompt(), whole - 1 if rng.random() < 0.2 else whole // 2))
    copied = traffic.copies and whole > config["block_size"]
    if copied:
        blocks = rng.randint(1, min(4, (whole - 1) // config["block_size"]))
        prompt = blocks * config["block_size"]
    output = max(1, traffic.output())
    if config["max_model_len"] > room:  # nothing else ends a request that outgrows the pool
        output = max(1, min(output, room - prompt))
    # Names sort differently from the order of arrival: the last tie-break of `priority`.
    request: Json = {
        "id": f"{rng.choice('abcr')}{k}",
        "arrival_step": step,
        "prompt_len": prompt,
        "max_tokens": output,
    }
    if rng.random() < traffic.stop_share:
        request["stop_at"] = rng.randint(1, output)
    if traffic.adapters and rng.random() < traffic.adapter_share:
        request["lora_id"] = rng.randint(1, traffic.adapters)
    if config["policy"] == "priority":
        request["priority"] = rng.randint(0, 3)
        if rng.random() < traffic.tie_share:
            request["arrival_time"] = float(k // 5)
    if copied:
        # The last block of such a prompt is computed anew each time: blocks of equal content.
        request["prefix_group"], request["prefix_len"] = rng.randint(0, 1), prompt
    elif config["enable_prefix_caching"] and rng.random() < 0.6:
        request["prefix_group"] = rng.randint(0, 3)
        request["prefix_len"] = prompt if rng.random() < 0.2 else rng.randint(0, prompt)
    return request


def _aborts(rng: random.Random, traffic: _Traffic, requests: list[Json]) -> list[Json]:
    aborts = []
    for request in requests:
        if rng.random() < traffic.abort_share:
            # Some before the arrival, some after the end: both must change nothing.
            step = max(0, request["arrival_step"] + rng.randint(-3, 30))
            aborts.append({"step": step, "id": request["id"]})
            if rng.random() < 0.1:
                aborts.append({"step": step + rng.randint(0, 5), "id": request["id"]})
    if aborts and rng.random() < 0.3:
        aborts.append({"step": rng.randint(0, 20), "id": "nobody"})
    return aborts
