"""Servers of several prices: what is on offer, and what a plan of them costs at least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytwin.config import EngineConfig
from pytwin.errors import ConfigError
from pytwin.fleet.placement.bound import TOLERANCE
from pytwin.fleet.placement.prices import Pricer
from pytwin.fleet.placement.relaxation import Relaxation
from pytwin.workload.checks import positive

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pytwin.fleet.placement.solve import Solver

_MOST_OFFERS = 8
_NODES = 10_000


@dataclass(frozen=True)
class Offer:
    """A kind of server that replicas may be.

    Attributes
    ----------
    server: profile and the settings that all replicas of the kind share.
    price: of one replica, per any unit of time and in any currency, the same for all offers.
    """

    server: EngineConfig
    price: float

    def __post_init__(self) -> None:
        positive(f"price of {self.server.loaded_profile.key}", self.price)


def read_offers(offers: Mapping[str, float] | Sequence[Offer]) -> tuple[Offer, ...]:
    """Offers of {profile: price}, or as they are.

    Raises
    ------
    ConfigError: none, too many, one twice, or of different models; one line.
    """
    if isinstance(offers, Mapping):
        listed = [Offer(EngineConfig(profile=key), price) for key, price in offers.items()]
    else:
        listed = list(offers)
    if not 1 <= len(listed) <= _MOST_OFFERS:
        raise ConfigError(f"offers ({len(listed)}) must be 1 to {_MOST_OFFERS} profiles and prices")
    models = sorted({offer.server.loaded_profile.model for offer in listed})
    if len(models) > 1:
        raise ConfigError(f"profiles must be of one model, here {' and '.join(models)}")
    keys = [offer.server.loaded_profile.key for offer in listed]
    if len(set(keys)) < len(keys):
        raise ConfigError(f"profiles ({', '.join(keys)}) must differ: one price each")
    return tuple(listed)


@dataclass(frozen=True)
class CostBound:
    """A lower bound on cost, and what proves it.

    Attributes
    ----------
    cost: the bound; no sum of prices between it and `least` exists.
    least: the cheapest sum of prices that reaches the bound.
    seed: whose work it is of.
    prices: per item: no replica of an offer's relaxation holds items of more than its price.

    All are in units of the cheapest offer's price.
    """

    cost: float
    least: float
    seed: int
    prices: tuple[float, ...]


def cost_bound(solvers: Sequence[Solver], prices: Sequence[float]) -> CostBound:
    """The greatest bound over seeds (weak duality, as in `bound`, with a price for each offer).

    The items' prices tried are each offer's own, from its bound on replicas, and the least of
    them; each is scaled until no replica of any offer is worth more than it costs.
    """
    import numpy as np

    best: CostBound | None = None
    for number, seed in enumerate(solvers[0].problem.seeds):
        relaxations = [Relaxation(solver.grid, solver.verifier.work[seed]) for solver in solvers]
        own = [
            price * np.array(solver.bounds[number].prices)
            for solver, price in zip(solvers, prices, strict=True)
        ]
        for proposed in [np.min(own, axis=0), *own]:
            scale = worth(relaxations, prices, proposed)
            if scale <= 0.0:
                continue
            values = np.floor(proposed / scale * 1e9) / 1e9
            cost = float(values.sum())
            if best is None or cost > best.cost:
                least = cheapest_sum(cost, prices, solvers[0].problem.copies)
                best = CostBound(cost, least, seed, tuple(values.tolist()))
    if best is None:
        count = solvers[0].problem.count
        least = cheapest_sum(0.0, prices, solvers[0].problem.copies)
        return CostBound(0.0, least, solvers[0].problem.seeds[0], (0.0,) * count)
    return best


def in_currency(cost: float, unit: float) -> float:
    """A cost in units of the cheapest offer as money, without the digits that are rounding."""
    return float(f"{cost * unit:.12g}")


def worth(
    relaxations: Sequence[Relaxation], prices: Sequence[float], proposed: NDArray[np.float64]
) -> float:
    """The most that a replica is worth under items' prices, as a multiple of what it costs."""
    return max(
        Pricer(item).most(proposed)[0] / price
        for item, price in zip(relaxations, prices, strict=True)
    )


def cheapest_sum(cost: float, prices: Sequence[float], replicas: int = 1) -> float:
    """The least sum of at least so many of the prices, each as often as wanted, of at least cost.

    An integer program in as many numbers as there are prices; where it is not solved, `cost`
    itself. Prices are in units of the least of them.

    >>> round(cheapest_sum(4.2, [2.5, 1.0]), 9)
    4.5
    """
    import numpy as np
    from scipy.optimize import LinearConstraint, milp

    values = np.asarray(prices, dtype=float)
    wanted = cost - TOLERANCE * max(1.0, cost)
    solved = milp(
        values,
        integrality=np.ones(len(values), dtype=np.int64),
        constraints=[
            LinearConstraint(values[None, :], wanted, np.inf),
            LinearConstraint(np.ones((1, len(values))), replicas, np.inf),
        ],
        options={"node_limit": _NODES, "mip_rel_gap": 0.0},
    )
    if solved.status != 0:
        return cost
    return float(np.round(solved.x) @ values)
