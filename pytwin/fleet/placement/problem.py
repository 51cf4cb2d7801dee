"""What is asked: adapters to place, the servers that may hold them, and what each must hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from pytwin.config import LORA_RANKS, EngineConfig
from pytwin.errors import ConfigError, WorkloadError
from pytwin.learn.describe import Setting
from pytwin.learn.lengths import length_moments
from pytwin.learn.question import Objective
from pytwin.workload import Adapters
from pytwin.workload.adapter_set import AdapterGroup
from pytwin.workload.checks import positive, whole
from pytwin.workload.lengths import LengthLaw, ShareGpt

Items = frozenset[int]
"""The copies of adapters on a replica: numbers into `Problem.items`."""

SLOTS = (
    1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192,
    224, 256, 320, 384,
)  # fmt: skip
"""Values of max_loras that replicas are tried with, beside the number of their adapters."""

DEFAULT_SEEDS = (0, 1)
MOST_ADAPTERS = 5_000


@dataclass(frozen=True)
class Problem:
    """Adapters, servers and rules of a placement.

    Attributes
    ----------
    server: profile and the settings that all replicas share.
    adapters: with their rates (requests/s) and ranks, named or numbered from 1.
    lengths: law of the adapters that bring none.
    objective: TTFT and TPOT of "slo"; "paper" leaves latency out.
    copies: replicas that each adapter is on; its rate is split evenly.
    seeds: under each of them every replica is simulated, and must hold.
    duration_s: simulated seconds.
    slots: values of max_loras to try.
    max_replicas: as many replicas at most; None: as many as it takes.
    """

    server: EngineConfig
    adapters: Adapters
    lengths: LengthLaw = field(default_factory=ShareGpt)
    objective: Objective = field(default_factory=Objective)
    copies: int = 1
    seeds: tuple[int, ...] = DEFAULT_SEEDS
    duration_s: float = 3600.0
    slots: tuple[int, ...] = SLOTS
    max_replicas: int | None = None

    def __post_init__(self) -> None:
        count = self.adapters.count
        if count == 0:
            raise WorkloadError("adapters ([]) must hold at least one adapter")
        if count > MOST_ADAPTERS:
            raise WorkloadError(f"adapters ({count}) must be <= {MOST_ADAPTERS}: split the fleet")
        whole("copies", self.copies, least=1, most=64)
        if self.max_replicas is not None:
            whole("max_replicas", self.max_replicas, least=1, most=100_000)
            if self.copies > self.max_replicas:
                raise ConfigError(
                    f"copies ({self.copies}) must be <= max_replicas ({self.max_replicas}): "
                    "copies of an adapter are on distinct replicas"
                )
        positive("duration_s", self.duration_s)
        if not self.seeds:
            raise ConfigError("seeds ([]) must hold at least one seed")
        if len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"seeds ({', '.join(map(str, self.seeds))}) must differ")
        if not self.slots:
            raise ConfigError("slots ([]) must hold at least one number")
        for value in self.slots:
            whole("slots", value, least=1, most=65_536)
        for name, rank in zip(self.names, self.adapters.ranks, strict=True):
            if rank > LORA_RANKS[-1]:
                raise WorkloadError(
                    f"adapter {name} fits on no replica: its rank ({rank}) must be <= "
                    f"{LORA_RANKS[-1]}, the largest that vLLM serves"
                )
        if not self.adapters.total_rate_rps > 0:
            raise WorkloadError(
                "rates_rps (all 0) must hold a rate above 0: no traffic needs no server"
            )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the adapters; numbers from 1 where the source had none."""
        given = self.adapters.names
        return given or tuple(str(number) for number in range(1, self.adapters.count + 1))

    @cached_property
    def items(self) -> Adapters:
        """Every copy of every adapter, each with a random stream of its own.

        Copy c of adapter a is item c x adapters + a. Poisson traffic split evenly at random is
        Poisson traffic of the split rate, so that a copy is an adapter with its share of the rate.
        """
        if self.copies == 1:
            return self.adapters.subset(range(self.adapters.count))
        count = self.adapters.count
        single = [self.adapters.subset([position]).groups[0] for position in range(count)]
        groups = tuple(
            AdapterGroup(
                1,
                (group.rates_rps[0] / self.copies,),
                group.ranks,
                group.lengths,
                (copy * count + position + 1,),
            )
            for copy in range(self.copies)
            for position, group in enumerate(single)
        )
        return Adapters(groups)

    @cached_property
    def rates_rps(self) -> tuple[float, ...]:
        """Requests per second of each item."""
        return tuple(self.items.rates_rps)

    @cached_property
    def ranks(self) -> tuple[int, ...]:
        """Rank of each item."""
        return tuple(self.items.ranks)

    @cached_property
    def laws(self) -> tuple[LengthLaw | None, ...]:
        """Length law of each item, None for the shared one."""
        return tuple(group.lengths for group in self.items.groups for _ in range(group.count))

    @cached_property
    def loads(self) -> tuple[float, ...]:
        """Offered tokens per second of each item: rate x mean tokens of a request."""
        profile = self.server.loaded_profile
        shared = length_moments(self.lengths, profile).requested
        return tuple(
            rate * (shared if law is None else length_moments(law, profile).requested)
            for rate, law in zip(self.rates_rps, self.laws, strict=True)
        )

    @property
    def count(self) -> int:
        """Number of items: adapters x copies."""
        return self.adapters.count * self.copies

    def adapter_of(self, item: int) -> int:
        """The adapter that an item is a copy of."""
        return item % self.adapters.count

    def clash(self, items: Iterable[int]) -> bool:
        """Whether two of the items are copies of one adapter."""
        adapters = [self.adapter_of(item) for item in items]
        return len(set(adapters)) < len(adapters)

    def rank_of(self, items: Iterable[int]) -> int:
        """The smallest max_lora_rank that vLLM accepts for the items."""
        return least_lora_rank(max(self.ranks[item] for item in items))

    def settings(self, items: Items) -> tuple[Setting, ...]:
        """Every setting that a replica with these items may have, fewest slots first."""
        count, rank = len(items), self.rank_of(items)
        slots = sorted({width for width in self.slots if width <= count} | self._full(count))
        return tuple(Setting(count, width, rank) for width in slots)

    def _full(self, count: int) -> set[int]:
        """A slot for every adapter, unless that is more than the most that was asked for."""
        return {min(count, max(self.slots))}

    def configured(self, setting: Setting) -> EngineConfig:
        """The server of a replica."""
        return setting.on(self.server)


def least_lora_rank(rank: int) -> int:
    """The smallest max_lora_rank that vLLM accepts for adapters up to `rank`."""
    return next(allowed for allowed in LORA_RANKS if allowed >= rank)
