"""Which workloads and settings the twin simulates, so that models can learn from them.

Workloads are drawn from wide continuous laws. Of each, some settings are kept, more of them near
the edge of what the server can serve, as the mean-field estimate sees it: far below the edge and
far beyond it every answer is easy. The estimate decides what is simulated, never a label.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytwin.config import EngineConfig
from pytwin.learn.describe import MAX_CONNECTIONS, Describer, Setting, Traffic
from pytwin.sweep.spec import SweepSpec, parse_spec
from pytwin.workload.plain import workload_from_values

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEAST_RATE_RPS, MOST_RATE_RPS = 0.001, 4.0
MOST_SERVED, MOST_SLOTS = 400, 384
MOST_UTILISATION = 2.0
MOST_SLOT_PRESSURE = 6.0
RANKS = (8, 16, 32)
_SHAREGPT_SHARE = 0.7
_SETTINGS_TRIED = 64


@dataclass(frozen=True)
class Plan:
    """What to draw.

    Attributes
    ----------
    profiles: each gets an equal share of the workloads.
    workloads: how many to draw.
    settings: settings kept of each.
    seed: of the design, not of the simulations.
    at_the_edge: gather settings near the edge; else they are log-uniform within the range.
    """

    profiles: tuple[str, ...]
    workloads: int
    settings: int = 8
    seed: int = 0
    at_the_edge: bool = True


def draw_spec(plan: Plan, *, duration_s: float = 3600.0, seeds: int = 1) -> SweepSpec:
    """The sweep of a plan: explicit rows; `label` numbers the workload."""
    rows: list[dict[str, Any]] = []
    describers = [Describer(EngineConfig(profile=name)) for name in plan.profiles]
    for number in range(plan.workloads):
        describer = describers[number % len(describers)]
        rows += _rows(describer, number, plan)
    return parse_spec(
        {
            "name": f"training-set-{plan.seed}",
            "base": {"duration_s": duration_s, "max_connections": MAX_CONNECTIONS},
            "list": rows,
            "seeds": seeds,
        },
        "training set",
    )


def _rows(describer: Describer, number: int, plan: Plan) -> Iterator[dict[str, Any]]:
    import numpy as np

    rng = np.random.Generator(np.random.PCG64([plan.seed, number]))
    rates, ranks, lengths = _workload(rng)
    law = workload_from_values(served_adapters=1, rates_rps=rates, lengths=lengths).lengths
    traffic = Traffic(tuple(rates), tuple(ranks), law)
    settings = _settings(rng, traffic)
    features = dict(zip(describer.names, describer.features(traffic, settings).T, strict=True))
    weights = _weights(features) if plan.at_the_edge else within(features).astype(float)
    if not weights.any():
        return
    count = min(plan.settings, int((weights > 0).sum()))
    for index in rng.choice(len(settings), size=count, replace=False, p=weights / weights.sum()):
        setting = settings[index]
        yield {
            "label": f"{plan.seed}-{number}",
            "profile": describer.server.profile,
            "rates_rps": rates,
            "ranks": ranks,
            "lengths": lengths,
            "served_adapters": setting.served_adapters,
            "max_loras": setting.max_loras,
            "max_cpu_loras": setting.max_cpu_loras,
            "max_lora_rank": setting.max_lora_rank,
        }


def _workload(rng: np.random.Generator) -> tuple[list[float], list[int], Any]:
    """Rates in requests/s (one to four, or a long tail), ranks, and a length law."""

    def log_uniform(low: float, high: float) -> float:
        return math.exp(rng.uniform(math.log(low), math.log(high)))

    if rng.random() < 0.2:
        # A long tail: Zipf rates of 16 to 64 adapters, cycled.
        count, exponent = int(rng.integers(16, 65)), rng.uniform(0.4, 1.4)
        highest = log_uniform(0.02, MOST_RATE_RPS)
        rates = [highest / (k + 1) ** exponent for k in range(count)]
    else:
        rates = [log_uniform(0.003, MOST_RATE_RPS) for _ in range(int(rng.integers(1, 5)))]
    rates = [round(min(max(rate, LEAST_RATE_RPS), MOST_RATE_RPS), 6) for rate in rates]
    ranks = [int(rank) for rank in rng.choice(RANKS, size=int(rng.integers(1, 4)))]
    if rng.random() < _SHAREGPT_SHARE:
        return rates, ranks, "sharegpt"
    lengths = {
        "law": "lognormal",
        "prompt_median": round(log_uniform(60, 500), 1),
        "prompt_sigma": round(rng.uniform(0.2, 1.1), 3),
        "output_median": round(log_uniform(40, 400), 1),
        "output_sigma": round(rng.uniform(0.2, 1.0), 3),
        "max_total_tokens": 2048,
    }
    return rates, ranks, lengths


def _settings(rng: np.random.Generator, traffic: Traffic) -> list[Setting]:
    """Distinct settings, log-uniform in served adapters and in slots."""
    drawn = set()
    for _ in range(_SETTINGS_TRIED):
        served = round(math.exp(rng.uniform(math.log(2), math.log(MOST_SERVED))))
        most = min(served, MOST_SLOTS)
        slots = round(math.exp(rng.uniform(math.log(min(4, most)), math.log(most))))
        drawn.add(Setting(served, slots, traffic.least_lora_rank(served)))
    return sorted(drawn, key=lambda item: (item.served_adapters, item.max_loras))


def _weights(features: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    import numpy as np

    utilisation = features["utilisation"]
    scarce = features["slot_wait_s"] > 0
    weights = np.select(
        [utilisation < 0.3, utilisation < 0.7, utilisation < 1.2], [0.15, 0.5, 1.0], 0.3
    )
    weights = np.maximum(weights, np.where(scarce & (utilisation < 1.2), 0.5, 0.0))
    return np.where(within(features), weights, 0.0)


def within(features: dict[str, NDArray[np.float64]]) -> NDArray[np.bool_]:
    """Rows inside the range that is sampled; False where the server cannot start."""
    import numpy as np

    with np.errstate(invalid="ignore"):
        return (features["utilisation"] <= MOST_UTILISATION) & (
            features["slot_pressure"] <= MOST_SLOT_PRESSURE
        )
