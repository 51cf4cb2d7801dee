"""How a fleet is operated: which forecast, which placement, how full replicas may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from pytwin.errors import ConfigError
from pytwin.fleet.forecast.methods import Method, as_method
from pytwin.workload.checks import positive, whole

PlacementRule = Literal["search", "first-fit"]
PlanOn = Literal["mean", "pooled", "upper"]


@dataclass(frozen=True, kw_only=True)
class Controller:
    """What is decided at the beginning of every bin.

    Attributes
    ----------
    forecast: a `Method`; "oracle" knows the rates to come.
    placement: "search" keeps today's sets where they hold, changes few adapters where they do
        not, and evens out load; "first-fit" packs by falling load from nothing.
    target_strain: how full a replica may be by the estimate, where 1 is its limit.
    copies: replicas that each adapter is on at least: a router that sees their queues sends a
        burst to both. An adapter that would fill more than half a replica has more.
    ahead_bins: the plan is for the busiest of so many bins to come: a replica takes time to
        start, so that what is not begun now is missing early in the bin after.
    level: share of outcomes that the forecast's band holds.
    plan_on: the forecast's mean; its upper end (over-cautious: adapters rarely all peak); or
        "pooled", the mean raised by one factor for all: a replica's upper end, were the adapters'
        misses independent.
    """

    forecast: str = Method.DAILY_SHAPE.value
    placement: PlacementRule = "search"
    target_strain: float = 0.9
    copies: int = 1
    ahead_bins: int = 2
    level: float = 0.9
    plan_on: PlanOn = "mean"

    def __post_init__(self) -> None:
        as_method(self.forecast)
        if self.placement not in get_args(PlacementRule):
            raise ConfigError(f"placement ({self.placement}) must be search or first-fit")
        positive("target_strain", self.target_strain)
        whole("copies", self.copies, least=1, most=64)
        whole("ahead_bins", self.ahead_bins, least=1)
        if self.plan_on not in get_args(PlanOn):
            raise ConfigError(f"plan_on ({self.plan_on}) must be mean, pooled or upper")
