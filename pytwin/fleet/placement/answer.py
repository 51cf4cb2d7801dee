"""A plan: replicas with their settings, what is left out, and the certificate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pytwin.config import EngineConfig
from pytwin.learn.answer import serve_line
from pytwin.learn.describe import Setting

Status = Literal["optimal", "verified", "partial", "infeasible"]


@dataclass(frozen=True)
class Replica:
    """One server of a plan.

    Attributes
    ----------
    setting: max_loras, max_lora_rank, adapters.
    adapters: names.
    verified: whether the twin found that it holds, under every seed.
    measured: what the twin measured, per seed.
    moved: adapters that are not on it today; None without a current placement.
    copies_of: which copy of each adapter it holds; None where there is one of each.
    server: profile and settings beside those of `setting`.
    price: what it costs, where servers have prices.
    extrapolated: why what was measured goes beyond what the profile was fitted on.
    """

    server: EngineConfig
    setting: Setting
    adapters: tuple[str, ...]
    verified: bool
    measured: tuple[dict[str, Any], ...]
    rate_rps: float
    moved: tuple[str, ...] | None = None
    copies_of: dict[str, int] | None = None
    price: float | None = None
    extrapolated: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Adapters on replicas.

    Attributes
    ----------
    status: "optimal" (no more than the lower bound), "verified", "partial" (some adapters on
        no replica), "infeasible".
    reason: of an infeasible or partial plan; one line.
    cost: sum of the replicas' prices; None where servers have none.
    lower_bound: no plan that the twin verifies has fewer replicas, or costs less where servers have
        prices; None where some are left out.
    gap: (replicas - lower_bound) / replicas, or of the cost; of a partial plan the share of the
        load that might be served beyond what is.
    moves: adapters that change their replica; None without a current placement.
    certificate: what proves the bound, and under which seeds replicas were verified.
    """

    status: Status
    method: str
    reason: str | None = None
    replicas: tuple[Replica, ...] = ()
    cost: float | None = None
    lower_bound: float | None = None
    gap: float | None = None
    unplaced: tuple[str, ...] = ()
    moves: int | None = None
    certificate: dict[str, Any] = field(default_factory=dict)
    question: dict[str, Any] = field(default_factory=dict)
    simulations: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it; the keys of the command line's `--format json`."""
        return {
            "status": self.status,
            "reason": self.reason,
            "method": self.method,
            "replicas_used": len(self.replicas),
            "cost": self.cost,
            "lower_bound": self.lower_bound,
            "gap": self.gap,
            "unplaced": list(self.unplaced),
            "moves": self.moves,
            "replicas": [self._replica(number, item) for number, item in enumerate(self.replicas)],
            "question": self.question,
            "certificate": self.certificate,
            "simulations": self.simulations,
        }

    def _replica(self, number: int, replica: Replica) -> dict[str, Any]:
        document: dict[str, Any] = {
            "name": f"replica-{number}",
            "profile": replica.server.loaded_profile.key,
            "settings": _settings(replica.setting),
            "adapters": list(replica.adapters),
            "rate_rps": replica.rate_rps,
            "verified": replica.verified,
            "vllm_serve": serve_line(replica.server, replica.setting),
            "measured": [dict(row) for row in replica.measured],
            "extrapolated": list(replica.extrapolated),
        }
        if replica.moved is not None:
            document["moved"] = list(replica.moved)
        if replica.copies_of is not None:
            document["copies_of"] = replica.copies_of
        if replica.price is not None:
            document["price"] = replica.price
        return document

    def to_yaml(self) -> str:
        """Replicas, their arguments and adapters, for whatever starts servers."""
        import yaml

        entries = [
            {
                "name": f"replica-{number}",
                "model": replica.server.loaded_profile.model,
                "profile": replica.server.loaded_profile.key,
                "args": serve_line(replica.server, replica.setting).split()[3:],
                "adapters": list(replica.adapters),
            }
            for number, replica in enumerate(self.replicas)
        ]
        document = {
            "status": self.status,
            "replicas": entries,
            "unplaced": list(self.unplaced),
        }
        return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=1000))


def _settings(setting: Setting) -> dict[str, int]:
    return {
        "max_loras": setting.max_loras,
        "max_cpu_loras": setting.max_cpu_loras,
        "max_lora_rank": setting.max_lora_rank,
    }
