"""A recommendation: the setting, what else would do, what limits it, and how to start it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from pytwin.config import EngineConfig
from pytwin.learn.describe import Setting
from pytwin.learn.search import Candidate

_SERVE_SETTINGS = (
    "max_num_seqs", "max_num_batched_tokens", "gpu_memory_utilization", "max_model_len",
    "block_size",
)  # fmt: skip


@dataclass(frozen=True)
class Recommendation:
    """What to serve, in how many slots.

    Attributes
    ----------
    feasible: whether any setting holds the objective.
    reason: where none does, why; one line.
    best: the recommended setting and what is expected of it.
    equivalent: settings of the same throughput within 1 %, cheapest in GPU memory first, the
        recommended one among them.
    runner_up: the best of the others.
    binding: what keeps the server from serving more, with its evidence.
    one_more_adapter: change of throughput (tokens/s), TPOT and TTFT (ms) by one adapter more.
    intervals: metric -> (low, high) that a real server is expected in, at `level`.
    risk: probability that a real server breaks the objective's rule.
    fallback: why the twin answered instead of the models; empty if they could.
    simulations: how many the answer took.
    """

    feasible: bool
    server: EngineConfig
    objective: dict[str, Any]
    duration_s: float
    models: str | None
    verified: bool
    reason: str | None = None
    best: Candidate | None = None
    equivalent: tuple[Candidate, ...] = ()
    runner_up: Candidate | None = None
    binding: dict[str, Any] | None = None
    one_more_adapter: dict[str, Any] | None = None
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    level: float | None = None
    risk: float | None = None
    near_critical: tuple[str, ...] = ()
    fallback: tuple[str, ...] = ()
    extrapolated: tuple[str, ...] = ()
    simulations: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it; the keys of the command line's `--format json`."""
        document: dict[str, Any] = {
            "feasible": self.feasible,
            "reason": self.reason,
            "profile": self.server.loaded_profile.name,
            "objective": self.objective,
            "duration_s": self.duration_s,
        }
        if self.best is not None:
            document |= _setting(self.best.setting)
            document |= _expected(self.best)
            document["vllm_serve"] = serve_line(self.server, self.best.setting)
        return document | {
            "intervals": {name: list(pair) for name, pair in self.intervals.items()},
            "level": self.level,
            "risk": self.risk,
            "near_critical": list(self.near_critical),
            "equivalent": [_described(item) for item in self.equivalent],
            "runner_up": self.runner_up and _described(self.runner_up),
            "binding": self.binding,
            "one_more_adapter": self.one_more_adapter,
            "verified": self.verified,
            "models": self.models,
            "fallback": list(self.fallback),
            "extrapolated": list(self.extrapolated),
            "simulations": self.simulations,
        }  # fmt: skip


def serve_line(server: EngineConfig, setting: Setting) -> str:
    """The command that starts the recommended server."""
    profile = server.loaded_profile
    flags = [
        f"vllm serve {profile.model}",
        "--enable-lora",
        f"--max-loras {setting.max_loras}",
        f"--max-cpu-loras {setting.max_cpu_loras}",
        f"--max-lora-rank {setting.max_lora_rank}",
    ]
    engine = server.resolved()
    flags += [
        f"--{name.replace('_', '-')} {engine[name]}"
        for name in _SERVE_SETTINGS
        if engine.get(name) is not None
    ]
    if not engine["enable_prefix_caching"]:
        flags.append("--no-enable-prefix-caching")
    return " ".join(flags)


def _setting(setting: Setting) -> dict[str, Any]:
    return {
        "served_adapters": setting.served_adapters,
        "max_loras": setting.max_loras,
        "max_cpu_loras": setting.max_cpu_loras,
        "max_lora_rank": setting.max_lora_rank,
    }


def _described(candidate: Candidate) -> dict[str, Any]:
    return _setting(candidate.setting) | _expected(candidate)


def _expected(candidate: Candidate) -> dict[str, Any]:
    return {
        "total_throughput": _finite(candidate.throughput),
        "served_share": _finite(candidate.served_share),
        "mean_tpot_ms": _finite(candidate.tpot_ms),
        "mean_ttft_ms": _finite(candidate.ttft_ms),
        "source": candidate.source,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
