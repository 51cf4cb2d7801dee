"""From a question (rates, ranks, lengths, settings) to the numbers that models read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import cycle
from typing import TYPE_CHECKING, Any

from pytwin import _core
from pytwin.config import LORA_RANKS, EngineConfig
from pytwin.errors import WorkloadError
from pytwin.learn.lengths import LengthMoments, length_moments, mixed
from pytwin.simulation import Twin
from pytwin.workload import Adapters, GeneratedWorkload, Workload, adapters
from pytwin.workload.adapter_set import AdapterGroup
from pytwin.workload.lengths import LengthLaw, ShareGpt

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_CONNECTIONS = 25_000
"""Requests in flight beyond which a real server refused: see docs/background/cost-model.md."""


@dataclass(frozen=True)
class Setting:
    """One candidate: how many adapters to serve, in how many slots of which rank."""

    served_adapters: int
    max_loras: int
    max_lora_rank: int

    @property
    def max_cpu_loras(self) -> int:
        """Host memory holds every served adapter, so that none is read from disk twice."""
        return max(self.served_adapters, self.max_loras)

    def on(self, server: EngineConfig) -> EngineConfig:
        """A server with these slots; connections are refused as the measured one did."""
        changes: dict[str, Any] = {
            "max_loras": self.max_loras,
            "max_cpu_loras": self.max_cpu_loras,
            "max_lora_rank": self.max_lora_rank,
        }
        if server.max_connections is None:
            changes["max_connections"] = MAX_CONNECTIONS
        return server.model_copy(update=changes)


@dataclass(frozen=True)
class Traffic:
    """Adapters and lengths of a question.

    Attributes
    ----------
    rates_rps, ranks: cycled over the served adapters.
    lengths: the law of prompt and output tokens.
    base_rate_rps: requests per second for the base model.
    own_lengths: the law of each adapter, where it has one; empty, or as many as rates_rps.
    """

    rates_rps: tuple[float, ...]
    ranks: tuple[int, ...]
    lengths: LengthLaw = field(default_factory=ShareGpt)
    base_rate_rps: float = 0.0
    own_lengths: tuple[LengthLaw | None, ...] = ()

    def least_lora_rank(self, served: int) -> int:
        """The smallest max_lora_rank that vLLM accepts for the served adapters' ranks."""
        highest = max(self.ranks[: max(served, 1)])
        fitting = [rank for rank in LORA_RANKS if rank >= highest]
        if not fitting:
            raise WorkloadError(
                f"rank ({highest}) must be <= {LORA_RANKS[-1]}, the largest that vLLM serves"
            )
        return fitting[0]

    def workload(self, served: int, duration_s: float) -> GeneratedWorkload:
        """Poisson traffic of so many served adapters."""
        members = adapters(served, rates_rps=self.rates_rps, ranks=self.ranks)
        if any(self.own_lengths):
            groups = (
                AdapterGroup(1, (rate,), (rank,), law)
                for rate, rank, law in zip(
                    members.rates_rps, members.ranks, cycle(self.own_lengths), strict=False
                )
            )
            members = Adapters(tuple(groups))
        return Workload.poisson(
            adapters=members,
            rate_rps=self.base_rate_rps or None,
            lengths=self.lengths,
            duration_s=duration_s,
        )

    def rate_rps(self, served: int) -> float:
        """Requests per second of so many served adapters, the base model's included."""
        cycles, rest = divmod(served, len(self.rates_rps))
        whole = sum(self.rates_rps)
        return self.base_rate_rps + cycles * whole + sum(self.rates_rps[:rest])


class Describer:
    """Features of settings under one traffic on one server.

    Parameters
    ----------
    server: profile and settings that the candidates share; its max_loras, max_cpu_loras and
        max_lora_rank are replaced by theirs.
    """

    names: tuple[str, ...] = tuple(_core.surrogate_feature_names())

    def __init__(self, server: EngineConfig, twin: Twin | None = None) -> None:
        self.server = server
        self.profile = server.loaded_profile
        self._twin = twin or Twin()
        self._twin.hold_profile(self.profile)

    @cached_property
    def _engine(self) -> dict[str, Any]:
        return self.server.resolved() | {"max_loras": 1, "max_cpu_loras": 1}

    def moments(self, traffic: Traffic) -> LengthMoments:
        """Moments of the traffic's lengths on this profile; adapters weigh by their rates."""
        shared = length_moments(traffic.lengths, self.profile)
        if not any(traffic.own_lengths):
            return shared
        laws = [
            shared if law is None else length_moments(law, self.profile)
            for law in traffic.own_lengths
        ]
        return mixed([*laws, shared], [*traffic.rates_rps, traffic.base_rate_rps])

    def configured(self, setting: Setting) -> EngineConfig:
        """The server with a setting's slots; connections are refused as the measured one did."""
        return setting.on(self.server)

    def infeasible(self, setting: Setting) -> str | None:
        """The server's reason why it cannot start with a setting; None if it can."""
        server = self.configured(setting)
        spec = self._twin.spec_json(server, Workload.poisson(rate_rps=1.0, lengths=(1, 1)))
        reason = _core.memory(self._twin.library, spec)["error"]
        return None if reason is None else str(reason)

    def features(
        self, traffic: Traffic, settings: Sequence[Setting], duration_s: float = 3600.0
    ) -> NDArray[np.float64]:
        """Shape (settings, features); a row of NaN where the server cannot start.

        `duration_s` is the horizon over which throughput counts.
        """
        query = {
            "profile": self.profile.key,
            "engine": self._engine,
            "lengths": self.moments(traffic).document(),
            "rates_rps": traffic.rates_rps,
            "ranks": traffic.ranks,
            "base_rate_rps": traffic.base_rate_rps,
            "duration_s": duration_s,
            "candidates": [
                {
                    "served_adapters": item.served_adapters,
                    "max_loras": item.max_loras,
                    "max_lora_rank": item.max_lora_rank,
                }
                for item in settings
            ],
        }
        return _core.surrogate_features(self._twin.library, json.dumps(query))
