"""Routers: who gets which request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pytwin.errors import ConfigError
from pytwin.fleet.cluster.nouns import AdapterRef, Numbers
from pytwin.workload.checks import number, whole

KINDS = (
    "random",
    "round_robin",
    "least_outstanding",
    "power_of_two",
    "kv_aware",
    "adapter_affinity",
    "rendezvous",
    "fixed",
)

Shares = Mapping[AdapterRef, Mapping[int, float]]


@dataclass(frozen=True)
class Router:
    """A rule that gives each request a replica; made by one of the class methods.

    Only replicas that are ready and serve the adapter are asked. Ties are broken by chance, under
    the seed of the run.
    """

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def random() -> Router:
        """Any replica, by chance."""
        return Router("random")

    @staticmethod
    def round_robin() -> Router:
        """One after the other."""
        return Router("round_robin")

    @staticmethod
    def least_outstanding() -> Router:
        """The replica with the fewest requests sent and not come back."""
        return Router("least_outstanding")

    @staticmethod
    def power_of_two() -> Router:
        """The less loaded of two drawn by chance (Mitzenmacher 2001)."""
        return Router("power_of_two")

    @staticmethod
    def kv_aware() -> Router:
        """The fewest waiting requests, then the least KV cache in use."""
        return Router("kv_aware")

    @staticmethod
    def adapter_affinity(
        by: Literal["activity", "residency"] = "activity", *, spill: int | None = None
    ) -> Router:
        """The least loaded replica where the adapter is at home; else one with a free place.

        Parameters
        ----------
        by: "activity": it has a running or waiting request there (vLLM's
            `vllm:lora_requests_info`); "residency": it has a GPU slot there.
        spill: a home with so many more requests outstanding than the least loaded replica is
            passed over; None for never.
        """
        if by not in ("activity", "residency"):
            raise ConfigError(f"by ({by}) must be activity or residency")
        options: dict[str, Any] = {"by": by}
        if spill is not None:
            options["spill"] = whole("spill", spill, least=0)
        return Router("adapter_affinity", options)

    @staticmethod
    def rendezvous(copies: int = 1) -> Router:
        """Highest random weight: the less loaded of each adapter's `copies` best replicas."""
        return Router("rendezvous", {"copies": whole("copies", copies, least=1)})

    @staticmethod
    def fixed(shares: Shares) -> Router:
        """Given shares: adapter (number or name, 0 the base model) -> {replica: fraction}.

        Fractions are relative to one another. Requests of an adapter that has no share on a
        replica which takes them are refused.

        Raises
        ------
        ConfigError: an empty placement, or a share that is none.
        """
        if not isinstance(shares, Mapping) or not shares:
            raise ConfigError("shares ({}) must place at least one adapter on a replica")
        checked: dict[AdapterRef, dict[int, float]] = {}
        for adapter, of_adapter in shares.items():
            if not isinstance(of_adapter, Mapping) or not of_adapter:
                raise ConfigError(
                    f"shares of adapter {adapter} ({of_adapter!r}) must map replicas to fractions, "
                    "as in {0: 1.0}"
                )
            checked[adapter] = {
                whole("replica", replica, least=0): _fraction(adapter, fraction)
                for replica, fraction in of_adapter.items()
            }
        return Router("fixed", {"shares": checked})

    def document(self, numbers: Numbers) -> dict[str, Any]:
        """As the core reads it."""
        if self.kind != "fixed":
            return {"kind": self.kind, **self.options}
        rows = [
            {
                "adapter": 0 if adapter == 0 else numbers(adapter),
                "replica": replica,
                "fraction": fraction,
            }
            for adapter, of_adapter in self.options["shares"].items()
            for replica, fraction in of_adapter.items()
        ]
        return {"kind": self.kind, "shares": rows}


def as_router(given: Router | str) -> Router:
    """A router, or the name of one that needs no options; dash or underscore.

    Raises
    ------
    ConfigError: an unknown name.
    """
    if isinstance(given, Router):
        if given.kind not in KINDS:
            raise ConfigError(f"router ({given.kind}) must be one of {', '.join(KINDS)}")
        return given
    name = str(given).replace("-", "_")
    if name == "adapter_affinity":
        return Router.adapter_affinity()
    if name == "rendezvous":
        return Router.rendezvous()
    if name == "fixed":
        raise ConfigError("router (fixed) needs shares: give pt.Router.fixed({...})")
    if name not in KINDS:
        raise ConfigError(f"router ({given}) must be one of {', '.join(KINDS)}")
    return Router(name)


def _fraction(adapter: AdapterRef, value: object) -> float:
    share = number("fraction", value)
    if not share > 0:
        raise ConfigError(f"fraction ({value}) of adapter {adapter} must be > 0: leave it out")
    return share
