"""Puts a prior together: shapes x data sheet x learned efficiencies -> a profile of schema 1."""

from __future__ import annotations

import datetime as dt
from math import hypot
from typing import Any

from pytwin.calibrate.memory import kv_tokens
from pytwin.calibrate.prior import memory
from pytwin.calibrate.prior.architecture import Architecture
from pytwin.calibrate.prior.drivers import drivers
from pytwin.calibrate.prior.gpus import Gpu
from pytwin.calibrate.prior.learned import Learned, known_architecture, shipped
from pytwin.calibrate.terms import to_terms
from pytwin.config import engine_defaults

ENGINE_VERSION = "0.8.5"
BLOCK_TOKENS = 16
# What the measured profiles, all of one GPU, cannot show, so assumed: how much efficiencies and
# host differ on another GPU's server (the learned efficiency of reading is 14 % off its ceiling,
# and vLLM's kernels are tuned per architecture); how much more for experts, that no profile has.
TRANSFER_SD = 0.2
EXPERTS_SD = 0.2
# Reported capacities of one label differ by 0.3 % between driver versions and boards.
CAPACITY_SD = 0.004


def build(
    model: Architecture,
    gpu: Gpu,
    *,
    model_name: str,
    name: str | None = None,
    dtype: str = "bfloat16",
    max_model_len: int | None = None,
    max_num_seqs: int | None = None,
    max_num_batched_tokens: int | None = None,
    learned: Learned | None = None,
) -> dict[str, Any]:
    """A complete profile for a model and a GPU, marked as a prior.

    Parameters
    ----------
    model, gpu: what `read_config` and `load_gpu` give.
    model_name: for the profile's `model` and, with the GPU, its default name.
    max_model_len, max_num_seqs, max_num_batched_tokens: the server's settings where they are not
        vLLM's defaults: the profile's defaults then, and limits of the memory it sets aside.
    learned: efficiencies; the package's own if left out.

    Returns
    -------
    The profile's document (schema 1): what `EngineConfig(profile=PATH)` takes once written.
    """
    learned = shipped() if learned is None else learned
    defaults = engine_defaults(ENGINE_VERSION, gpu.memory_bytes)
    given = {
        "max_model_len": max_model_len or model.max_model_len,
        "max_num_seqs": max_num_seqs,
        "max_num_batched_tokens": max_num_batched_tokens,
    }
    server = {key: value for key, value in given.items() if value is not None}
    limits = {**defaults, **server}
    memory_section = memory.predict(
        model, gpu, learned.memory,
        max_num_seqs=limits["max_num_seqs"],
        max_num_batched_tokens=limits["max_num_batched_tokens"],
    )  # fmt: skip
    sources = [profile["name"] for profile in learned.profiles]
    return {
        "schema": 1,
        "name": name or f"{model_name}@{gpu.key}-prior",
        "model": model_name,
        "gpu": gpu.key,
        "dtype": dtype,
        "engine_version": ENGINE_VERSION,
        "provenance": {
            "kind": "prior",
            "source": "never measured: rooflines of the model's config.json on the GPU's data "
            f"sheet, efficiencies learned from {', '.join(sources)}",
            "date": dt.date.today().isoformat(),
            "command": "pytwin calibrate prior",
            "gpu": gpu.source,
            "architecture": model.name,
            "parameters": model.parameters,
            "learned_from": list(learned.profiles),
            "notes": _notes(model, gpu, learned),
        },
        "server": server,
        "lengths": {"sharegpt": _length_table(model_name)},
        "early_eos": learned.early_eos,
        "step_time": {"unit": "us", "terms": step_terms(model, gpu, learned)},
        "load_time": load_time(model, gpu, learned),
        "frontend": {"unit": "us", **learned.frontend},
        "host": {"unit": "us", "async_schedule": []},
        "memory": memory_section,
        "ranges": learned.ranges,
        "errors": {},
        "residual_spread": {},
        "uncertainty": uncertainty(model, gpu, learned, memory_section, limits),
    }


def step_terms(model: Architecture, gpu: Gpu, learned: Learned) -> list[dict[str, Any]]:
    """The step-time law in microseconds."""
    components = drivers(model, gpu)
    factors = [learned.step[entry.name] for entry in components]
    return [*to_terms(components, factors, 1.0), *learned.queue]


def load_time(model: Architecture, gpu: Gpu, learned: Learned) -> dict[str, Any]:
    """Adapter loads: copies are queued by the host while the link still moves earlier ones.

    So a load takes the host's time per tensor, and the link's where that is longer: from the rank
    on at which the adapter's bytes outlast the host.
    """
    loads = learned.loads
    count = 2 * model.layers * model.lora_slices
    host_us = loads.us_per_copy * count
    us_per_rank = model.lora_bytes_per_rank / (gpu.pcie * loads.pcie_efficiency) * 1e6
    hidden_rank = int(host_us / us_per_rank)
    terms = [
        _term(host_us, [], "zero a slot and copy the adapter's tensors into it"),
        _term(
            loads.padded_us_per_copy * count,
            [{"of": "rank_padding", "positive": True}],
            "strided copy into a slot wider than the adapter",
        ),
        _term(
            us_per_rank,
            [{"of": "rank", "above": hidden_rank}],
            "bytes over PCIe that take longer than the host",
        ),
    ]
    return {
        "unit": "us",
        "disk": [
            _term(loads.disk_us_per_copy * count, [], "open, parse and convert the file's tensors"),
            _term(
                loads.disk_us_per_byte * model.lora_bytes_per_rank,
                ["rank"],
                "bytes read and converted, per rank",
            ),
        ],
        "memory": terms,
    }


def uncertainty(
    model: Architecture,
    gpu: Gpu,
    learned: Learned,
    memory_section: dict[str, Any],
    limits: dict[str, Any],
) -> dict[str, Any]:
    """The profile's `uncertainty` section: relative standard deviations of groups of terms."""
    apart = ("kv_bytes", "throughput")
    factors = {name: value for name, value in learned.spread.items() if name not in apart}
    kv_sd = learned.spread.get("kv_bytes", 0.0)
    if gpu.key not in learned.gpus:
        factors["step_time"] = hypot(
            factors.get("step_time", 0.0), TRANSFER_SD, gpu.figures_sd, _reference_doubt(learned)
        )
        kv_sd = hypot(kv_sd, CAPACITY_SD * gpu.memory_bytes)
    if model.experts:
        factors["step_time"] = hypot(factors.get("step_time", 0.0), EXPERTS_SD)
    factors["step_time"] = hypot(factors.get("step_time", 0.0), _depth_doubt(model, gpu, learned))
    tokens = kv_tokens(memory_section, 0, 0, limits["max_num_seqs"])
    cache = max(tokens, BLOCK_TOKENS) * float(memory_section["kv_bytes_per_token"])
    factors["kv_memory"] = min(0.5, kv_sd / cache)
    ends = float(f"{learned.spread.get('throughput', 0.0):.3g}")
    return {
        "factors": {name: float(f"{value:.3g}") for name, value in factors.items()},
        "residual": {"total_throughput": {"calm": ends, "queued": ends}},
        "method": "each measured profile predicted from the others, widened for their small "
        "number; on a GPU never measured also for its kernels and host",
        "command": "python -m pytwin.calibrate.prior.learn",
    }


def _depth_doubt(model: Architecture, gpu: Gpu, learned: Learned) -> float:
    """Relative: whether host work grows with layers, which models of like depth do not tell.

    Half the difference between no growth and proportion, as a share of a step of one request.
    """
    depths = [known_architecture(profile["model"]).layers for profile in learned.profiles]
    apart = abs(model.layers * len(depths) / sum(depths) - 1)
    host = 1e3 * learned.step["host"]
    read = 1e6 * learned.step["read"] * model.dense_bytes_read / gpu.bandwidth
    return 0.5 * apart * host / (host + read)


def _reference_doubt(learned: Learned) -> float:
    """Doubt about the data sheet of the GPUs that the efficiencies were learned on."""
    from pytwin.calibrate.prior.gpus import load_gpu

    return max(load_gpu(key).figures_sd for key in learned.gpus)


def _term(microseconds: float, factors: list[Any], why: str) -> dict[str, Any]:
    return {"coefficient": float(f"{microseconds:.6g}"), "factors": factors, "why": why}


def _length_table(model_name: str) -> str:
    """The ShareGPT table of the nearest tokenizer that the package has."""
    return "sharegpt-qwen-2.5" if "qwen" in model_name.lower() else "sharegpt-llama-3"


def _notes(model: Architecture, gpu: Gpu, learned: Learned) -> list[str]:
    notes = [
        "early_eos is the measured models' mean: shapes do not tell how often a model ends early",
        "the sharegpt lengths are those of the nearest shipped tokenizer",
    ]
    if model.sliding_window:
        notes.append(
            "sliding windows are ignored: vLLM 0.8.5 keeps the whole context of mixed models, and "
            "reads of contexts beyond the window are overestimated"
        )
    if model.experts:
        notes.append("no measured profile has experts: their kernels' efficiency is assumed")
    if gpu.key not in learned.gpus:
        notes.append(
            f"efficiencies were measured on {', '.join(sorted(learned.gpus))}, not on {gpu.key}"
        )
    return notes
