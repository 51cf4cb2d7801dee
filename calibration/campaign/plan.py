"""The measurement plan: which servers, which load on each, and what each run tells.

A profile's terms are told apart by load that moves one thing at a time: bursts of equal requests
give decode batches of a known size, single prompts give prefills of a known length, and the same
bursts over few or many adapters, slots and ranks give the rest. Poisson traffic then shows whether
the sum is right; the runs marked `held_out` are never fitted on.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .client import Sent

# A server's start: loading the weights, capturing graphs, warming up. For the plan's total alone.
GPU_START_S, CPU_START_S = 120.0, 40.0


@dataclass(frozen=True)
class Burst:
    """Equal requests at once, then a pause in which they end.

    Attributes:
        sizes: requests per burst, one burst after the other.
        prompt, output: tokens of each request.
        adapters: the requests cycle over this many; 0: the base model.
        gap_s: from one burst to the next.
    """

    sizes: Sequence[int]
    prompt: int
    output: int
    adapters: int
    gap_s: float

    @property
    def duration_s(self) -> float:
        """Seconds."""
        return self.gap_s * len(self.sizes)

    def arrivals(self, stream: random.Random) -> Iterator[tuple[float, int, int, int]]:
        """(seconds, prompt, output, adapter or 0)."""
        del stream
        for number, size in enumerate(self.sizes):
            for k in range(size):
                adapter = k % self.adapters + 1 if self.adapters else 0
                yield number * self.gap_s, self.prompt, self.output, adapter


@dataclass(frozen=True)
class Poisson:
    """Poisson arrivals with log-normal lengths, adapters drawn evenly.

    Attributes:
        rate_rps: arrivals per second, all adapters together.
        duration_s: seconds.
        prompt, output: medians, in tokens; the logarithm's standard deviation is 0.8.
        longest: of prompt and of output, in tokens.
        adapters: how many; 0: the base model.
        base_share: of the requests that ask for the base model.
    """

    rate_rps: float
    duration_s: float
    prompt: int
    output: int
    longest: int
    adapters: int
    base_share: float = 0.1

    def arrivals(self, stream: random.Random) -> Iterator[tuple[float, int, int, int]]:
        """(seconds, prompt, output, adapter or 0)."""
        at = stream.expovariate(self.rate_rps)
        while at < self.duration_s:
            prompt, output = (
                min(self.longest, max(low, round(median * stream.lognormvariate(0.0, 0.8))))
                for low, median in ((4, self.prompt), (1, self.output))
            )
            none = not self.adapters or stream.random() < self.base_share
            yield at, prompt, output, 0 if none else stream.randint(1, self.adapters)
            at += stream.expovariate(self.rate_rps)


@dataclass(frozen=True)
class Run:
    """One server and the load on it.

    Attributes:
        name: also its directory's.
        tells: what it identifies.
        max_loras: adapter slots; 0: LoRA off.
        max_cpu_loras: adapters kept in CPU memory.
        max_lora_rank: rank of the slots, and of the adapters unless `ranks` says otherwise.
        ranks: the adapters cycle over these.
        kv_blocks: instead of what the memory gives; 0: that.
        phases: the load, one after the other.
        held_out: not fitted on; what the profile is judged by.
        recorded: False: the same without the recorder, to see what it costs.
        seed: of the traffic.
    """

    name: str
    tells: str
    phases: Sequence[Burst | Poisson]
    max_loras: int = 0
    max_cpu_loras: int = 0
    max_lora_rank: int = 16
    ranks: Sequence[int] = ()
    kv_blocks: int = 0
    held_out: bool = False
    recorded: bool = True
    seed: int = 0

    @property
    def adapters(self) -> int:
        """How many adapters its load asks for."""
        return max((phase.adapters for phase in self.phases), default=0)

    @property
    def load_s(self) -> float:
        """Seconds of load."""
        return sum(phase.duration_s for phase in self.phases)

    def requests(self) -> list[Sent]:
        """The whole load, in the order of time; the same for the same seed."""
        stream = random.Random(self.seed)  # noqa: S311 -- repeatable, not secret
        sent: list[Sent] = []
        begins = 0.0
        for phase in self.phases:
            for at, prompt, output, adapter in phase.arrivals(stream):
                name = self.adapter_name(adapter) if adapter else None
                number = len(sent)
                sent.append(Sent(f"q{number}", begins + at, prompt, output, name))
            begins += phase.duration_s
        return sent

    def adapter_rank(self, adapter: int) -> int:
        """The rank of adapter 1, 2, ..."""
        ranks = self.ranks or (self.max_lora_rank,)
        return ranks[(adapter - 1) % len(ranks)]

    def adapter_name(self, adapter: int) -> str:
        """The name under which the server offers it."""
        return f"r{self.adapter_rank(adapter)}-{adapter}"


def gpu_plan() -> list[Run]:
    """One GPU of 40 to 80 GB and a model of 7 to 9 B parameters; see `total_s` for the time."""
    prefills = [Burst([1] * 3, prompt, 2, adapters, 1.5)
                for adapters in (0, 1) for prompt in (32, 128, 512, 1024, 2048, 3500)]  # fmt: skip
    ladder = [1, 2, 4, 8, 16, 32, 64, 128, 256]

    def decodes(adapters: int) -> Burst:
        return Burst(ladder, 64, 128, adapters, 8.0)

    contexts = [Burst([8, 32, 64], prompt, 64, 0, 12.0) for prompt in (512, 1024, 2048)]

    def traffic(rate: float, seconds: float, adapters: int) -> Poisson:
        return Poisson(rate, seconds, 200, 150, 1500, adapters)

    return [
        Run("base", "prefill and decode without LoRA; context; padding to CUDA-graph sizes",
            [*prefills[:6], decodes(0), *contexts]),
        Run("slots8", "the price of LoRA being on; few slots",
            [*prefills, decodes(1), decodes(8)], 8, 8, 16),
        Run("slots64", "slots; adapters in the batch",
            [decodes(1), decodes(8), decodes(64), *prefills[6:]], 64, 64, 16),
        Run("slots192", "slots; many adapters in the batch; memory per slot",
            [decodes(1), decodes(64), decodes(192)], 192, 192, 16),
        Run("rank8", "rank", [decodes(1), decodes(64)], 64, 64, 8),
        Run("rank64", "rank", [decodes(1), decodes(64)], 64, 64, 64),
        Run("loads", "adapter loads from disk and from CPU memory",
            [traffic(4.0, 300.0, 96)], 16, 48, 32, (8, 16, 32)),
        Run("mixed", "the sum of the terms; requests that wait; the front end",
            [traffic(2.0, 120.0, 64), traffic(8.0, 240.0, 64)], 64, 64, 32, (8, 16, 32), seed=1),
        Run("overload", "host work with long queues; preemption",
            [traffic(40.0, 120.0, 96), traffic(0.5, 120.0, 96)], 32, 96, 16, seed=2),
        Run("held-out", "nothing: it judges (moderate load, mixed ranks, fewer slots)",
            [traffic(5.0, 420.0, 80)], 48, 80, 32, (8, 16, 32), held_out=True, seed=3),
        Run("held-out-off", "nothing: the same load without the recorder, for its cost",
            [traffic(5.0, 420.0, 80)], 48, 80, 32, (8, 16, 32), recorded=False, seed=3),
    ]  # fmt: skip


def cpu_plan() -> list[Run]:
    """CPU vLLM on two cores and a model of 2 M parameters; rates stay at or below 3 per second.

    Every request asks for an adapter: vLLM's LoRA on a CPU costs per token of a request with one
    (a 250-token prompt takes 7 ms without and 70 ms with), which no GPU kernel does and the step
    law has no term for.
    """
    prefills = [Burst([1] * 8, prompt, 2, 1, 0.4) for prompt in (16, 64, 128, 250, 500, 900)]
    ladder = [1, 2, 4, 8, 12, 16]
    both = (8, 16, 32)

    def traffic(adapters: int) -> Poisson:
        return Poisson(3.0, 80.0, 90, 100, 400, adapters, base_share=0.0)

    def few_slots(name: str, tells: str, seed: int, held_out: bool) -> Run:
        return Run(name, tells, [traffic(12)], 3, 5, 32, both, 40, held_out, seed=seed)

    def many_slots(name: str, tells: str, seed: int, held_out: bool, recorded: bool = True) -> Run:
        return Run(name, tells, [traffic(8)], 8, 8, 32, both, 0, held_out, recorded, seed)

    return [
        Run("ladder", "prefill, decode, context, adapters in the batch",
            [*prefills, Burst(ladder, 32, 60, 1, 2.5), Burst(ladder, 32, 60, 8, 3.0),
             Burst([4, 8], 128, 40, 8, 3.0), Burst([4, 8], 500, 40, 8, 4.0)], 8, 8, 32, both),
        many_slots("mixed", "the sum of the terms; the front end", 1, False),
        few_slots("loads", "adapter loads, waiting for a slot, preemption", 2, False),
        many_slots("held-out", "nothing: it judges", 3, True),
        few_slots("held-out-loads", "nothing: it judges, with loads and waiting", 4, True),
        many_slots("held-out-off", "nothing: held-out's load without the recorder, for its cost",
                   3, False, recorded=False),
    ]  # fmt: skip


def total_s(plan: Sequence[Run], start_s: float) -> float:
    """How long a plan takes, starts included."""
    return sum(run.load_s + start_s for run in plan)
