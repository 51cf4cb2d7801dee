"""What is asked: adapters, a server, which settings are open, and what counts as good."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from pytwin.config import LORA_RANKS, EngineConfig
from pytwin.errors import ConfigError, WorkloadError
from pytwin.learn.dataset import STARVED_BELOW
from pytwin.learn.describe import Setting, Traffic
from pytwin.simulation import TPOT_SLO_MS, TTFT_SLO_MS
from pytwin.workload.checks import positive, whole

ObjectiveName = Literal["slo", "paper"]

SERVED = (8, 16, 32, 48, 64, 96, 128, 160, 192, 256, 320, 384)
SLOTS = (8, 16, 32, 48, 64, 96, 128, 160, 192, 256, 320, 384)


@dataclass(frozen=True)
class Objective:
    """What a setting must hold.

    Attributes
    ----------
    name: "slo": not starved, and every adapter's mean TTFT and mean TPOT within the objectives;
        "paper": throughput above 0.9 of nominal rate x mean lengths, no latency (the authors'
        rule, arXiv:2508.08343).
    ttft_ms, tpot_ms: the objectives of "slo".
    risk: greatest probability that a real server breaks the rule, under the profile's
        uncertainty, with which a setting is still recommended.
    """

    name: ObjectiveName = "slo"
    ttft_ms: float = TTFT_SLO_MS
    tpot_ms: float = TPOT_SLO_MS
    risk: float = 0.1

    def __post_init__(self) -> None:
        if self.name not in get_args(ObjectiveName):
            raise ConfigError(f"objective ({self.name}) must be slo or paper")
        positive("ttft_slo_ms", self.ttft_ms)
        positive("tpot_slo_ms", self.tpot_ms)
        if not 0.0 < self.risk < 1.0:
            raise ConfigError(f"risk ({self.risk}) must be a probability above 0 and below 1")

    @property
    def trained(self) -> bool:
        """Whether the models' latency labels are of these objectives."""
        return self.name == "paper" or (self.ttft_ms, self.tpot_ms) == (TTFT_SLO_MS, TPOT_SLO_MS)


@dataclass(frozen=True)
class Question:
    """Which of `settings` serves `traffic` best on `server`.

    Attributes
    ----------
    server: profile and the settings that all candidates share.
    settings: candidates, at least one, slots <= served adapters.
    duration_s: the horizon of throughput and starvation.
    """

    server: EngineConfig
    traffic: Traffic
    settings: tuple[Setting, ...]
    objective: Objective = field(default_factory=Objective)
    duration_s: float = 3600.0

    @property
    def starved_below(self) -> float:
        """Share of the nominal load at or below which a server counts as starving."""
        return STARVED_BELOW


def grid(
    traffic: Traffic,
    served: Iterable[int] = SERVED,
    slots: Iterable[int] = SLOTS,
    max_lora_rank: int | None = None,
) -> tuple[Setting, ...]:
    """Every pair of served adapters and slots with slots <= served, in rising order.

    `max_lora_rank` left out is the smallest that holds the ranks of the served adapters.

    Raises
    ------
    WorkloadError, ConfigError: empty or wrong lists, a rank above max_lora_rank; one line.
    """
    counts = sorted({whole("served", value, least=1, most=100_000) for value in served})
    widths = sorted({whole("slots", value, least=1, most=100_000) for value in slots})
    if not counts or not widths:
        raise ConfigError("served and slots must each hold at least one number")
    settings = []
    for count in counts:
        least = traffic.least_lora_rank(count)
        rank = least if max_lora_rank is None else max_lora_rank
        if rank not in LORA_RANKS:
            allowed = ", ".join(map(str, LORA_RANKS))
            raise ConfigError(f"max_lora_rank ({rank}) must be one of {allowed}")
        if rank < least:
            raise ConfigError(
                f"max_lora_rank ({rank}) must be >= {least} for ranks up to "
                f"{max(traffic.ranks[:count])}: raise it"
            )
        settings += [Setting(count, width, rank) for width in widths if width <= count]
    if not settings:
        raise ConfigError(
            f"slots ({widths[0]} at least) must be <= served adapters ({counts[-1]} at most): "
            "more slots than adapters are never used"
        )
    return tuple(settings)


def check_rates(rates_rps: Sequence[float]) -> None:
    """A question about adapters that nobody asks for has no answer."""
    if not rates_rps:
        raise WorkloadError("rates_rps ([]) must hold at least one rate: give --rates-rps")
    if not any(rate > 0 for rate in rates_rps):
        raise WorkloadError(
            "rates_rps (all 0) must hold a rate above 0: no traffic needs no server"
        )
