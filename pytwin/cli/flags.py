"""Flags that several verbs share, as dataclasses that cyclopts reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from cyclopts import Parameter, Token

from pytwin.config import EngineConfig
from pytwin.errors import WorkloadError
from pytwin.workload import Adapters, Workload, adapters_from_csv, workload_from_values

Format = Literal["table", "json", "csv"]


def _numbers(number: type[int | float], tokens: Sequence[Token]) -> tuple[Any, ...]:
    """`8,16`, `8 16` or a YAML list, as numbers."""
    parts = [part for token in tokens for part in token.value.split(",")]
    try:
        return tuple(number(part) for part in parts)
    except ValueError:
        kind = "whole numbers" if number is int else "numbers"
        raise ValueError(f"{','.join(parts)!r} must be {kind} with commas, as in 8,16") from None


def _floats(_type: Any, tokens: Sequence[Token]) -> tuple[float, ...]:
    return _numbers(float, tokens)


def _ints(_type: Any, tokens: Sequence[Token]) -> tuple[int, ...]:
    return _numbers(int, tokens)


def _words(_type: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    """`a,b`, `a b` or a YAML list, as words."""
    parts = [part.strip() for token in tokens for part in token.value.split(",")]
    return tuple(part for part in parts if part)


Floats = Annotated[tuple[float, ...] | None, Parameter(converter=_floats, n_tokens=1, negative="")]
Ints = Annotated[tuple[int, ...] | None, Parameter(converter=_ints, n_tokens=1, negative="")]
Words = Annotated[
    tuple[str, ...] | None,
    Parameter(converter=_words, n_tokens=1, negative="", show_default=",".join),
]


@Parameter(name="*", group="Server (vLLM's settings)")
@dataclass(kw_only=True)
class EngineFlags:
    """Settings of the simulated server; those left out come from the profile, else from vLLM."""

    engine_version: str | None = None
    """vLLM's version: 0.8.5, 0.32 or 0.32.0."""
    max_loras: int | None = None
    """Adapter slots on the GPU; 0 turns LoRA off."""
    max_cpu_loras: int | None = None
    """Adapters kept in host memory, at least max_loras, which is the default."""
    max_lora_rank: int = 16
    """Rank of every slot: 1, 8, 16, 32, 64, 128, 256, 320 or 512."""
    max_num_seqs: int | None = None
    """Sequences that run at once."""
    max_num_batched_tokens: int | None = None
    """Token budget of a step."""
    max_num_scheduled_tokens: int | None = None
    """Another token budget for the scheduler alone (0.32)."""
    max_num_active_seqs: int | None = None
    """Cap on admission below max_num_seqs (0.32)."""
    block_size: int | None = None
    """Tokens per KV block."""
    gpu_memory_utilization: float | None = None
    """Share of the GPU's memory that vLLM may use, above 0 and at most 1."""
    enable_prefix_caching: bool | None = None
    """Reuse KV blocks of equal prefixes."""
    enable_chunked_prefill: bool | None = None
    """Cut prompts to the token budget."""
    scheduling_policy: Literal["fcfs", "priority"] | None = None
    """Order of the waiting queue."""
    async_scheduling: bool | None = None
    """Schedule a step before the one before it has ended (0.32)."""
    long_prefill_token_threshold: int | None = None
    """Longest prefill chunk; 0 for no such limit."""
    long_prefill_token_threshold_adaptive: bool | None = None
    """Raise that limit when few requests are there (0.32)."""
    scheduler_reserve_full_isl: bool | None = None
    """Admit a request only when its whole prompt fits (0.32)."""
    watermark: float | None = None
    """Share of KV blocks kept free at admission (0.32)."""
    max_model_len: int | None = None
    """Longest sequence in tokens."""
    num_gpu_blocks_override: int | None = None
    """KV blocks, instead of what the memory model says."""
    max_connections: int | None = None
    """Requests that the front end holds; further ones are refused."""
    lora_preload: bool | None = None
    """Load every adapter once before the traffic starts."""
    metrics_poll_s: float | None = None
    """Pause of a client that polls /metrics, which keeps the API server busy; none if left out."""
    lora_eviction: Literal["lru", "lfu", "cost_aware", "clairvoyant"] | None = None
    """What-if: who gives up a slot; vLLM's rule is lru."""
    lfu_half_life_s: float | None = None
    """What-if: half-life of the uses that lfu and cost_aware count (300)."""
    pinned_loras: Ints = None
    """What-if: adapters, by number, that keep their slots: 1,2."""
    lora_loading: Literal["blocking", "overlapped"] | None = None
    """What-if: loads beside the step's compute; vLLM's are blocking."""
    admission_ageing_s: float | None = None
    """What-if: a request that has waited so long makes another adapter give up its slot."""

    def engine_config(self, profile: str) -> EngineConfig:
        """The settings, checked."""
        return EngineConfig(
            profile=profile,
            **{name: value for name, value in asdict(self).items() if value is not None},
        )


@Parameter(name="*", group="Traffic")
@dataclass(kw_only=True)
class TrafficFlags:
    """The workload."""

    adapters: str | None = None
    """Number of served adapters, or a CSV file: adapter, rate_rps, rank, optional lengths."""
    rates_rps: Floats = None
    """Requests per second of the adapters, cycled over them: 0.1,0.05."""
    ranks: Ints = None
    """Ranks of the adapters, cycled over them: 8,16 (default 16)."""
    total_rate_rps: float | None = None
    """All adapters together, instead of rates_rps."""
    popularity: str | None = None
    """How total_rate_rps is shared: uniform (default) or zipf:EXPONENT."""
    rate_rps: float = 0.0
    """Requests per second for the base model, without adapter."""
    lengths: Words = ("sharegpt",)
    """Lengths: sharegpt, or PROMPT,OUTPUT tokens."""
    duration_s: float | None = None
    """Seconds until the client stops; default 3600, of a trace its last arrival."""
    arrivals: Literal["poisson", "gamma", "constant"] | None = None
    """Law of the arrivals; poisson, or gamma when burstiness is given."""
    burstiness: float | None = None
    """Shape of gamma arrivals, as in vllm bench serve: 1 is Poisson, below 1 comes in bursts."""
    total_requests: int | None = None
    """Fixes the number of arrivals."""
    early_eos: float | None = None
    """Probability that a request stops early; default: the profile's."""
    drain: bool = False
    """Wait for the requests in flight at the end."""
    trace: str | None = None
    """Replay this CSV or Parquet file: arrival_s, adapter, prompt_tokens, output_tokens."""

    def workload(self) -> Workload:
        """The workload, checked."""
        if self.trace is not None:
            return self._replay(self.trace)
        served, file = self._served()
        duration_s = 3600.0 if self.duration_s is None else self.duration_s
        if file is None:
            return workload_from_values(
                served_adapters=served,
                rates_rps=self.rates_rps,
                ranks=self.ranks or (16,),
                total_rate_rps=self.total_rate_rps,
                popularity=self.popularity,
                base_rate_rps=self.rate_rps,
                arrivals=self.arrivals,
                burstiness=self.burstiness,
                lengths=self._lengths(),
                duration_s=duration_s,
                total_requests=self.total_requests,
                early_eos=self.early_eos,
                drain=self.drain,
            )
        self._refuse(("rates_rps", "ranks", "total_rate_rps", "popularity"), "adapters FILE.csv")
        return workload_from_values(
            served_adapters=file,
            base_rate_rps=self.rate_rps,
            arrivals=self.arrivals,
            burstiness=self.burstiness,
            lengths=self._lengths(),
            duration_s=duration_s,
            total_requests=self.total_requests,
            early_eos=self.early_eos,
            drain=self.drain,
        )

    def _replay(self, trace: str) -> Workload:
        self._refuse(
            (
                "adapters", "rates_rps", "total_rate_rps", "popularity", "arrivals", "burstiness",
                "total_requests", "early_eos",
            ),
            "trace",
        )  # fmt: skip
        if self.rate_rps or self.lengths != ("sharegpt",):
            raise WorkloadError("rate_rps and lengths come from the trace: leave them out")
        return Workload.replay(
            trace, ranks=self.ranks, duration_s=self.duration_s, drain=self.drain or None
        )

    def _refuse(self, names: Sequence[str], beside: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None:
                raise WorkloadError(f"{name} ({value}) has no meaning with {beside}: leave it out")

    def _served(self) -> tuple[int, Adapters | None]:
        if self.adapters is None:
            return 0, None
        try:
            return int(self.adapters), None
        except ValueError:
            return 0, adapters_from_csv(self.adapters)

    def _lengths(self) -> str | tuple[int, ...]:
        words = self.lengths or ()
        if len(words) == 1:
            return words[0]
        try:
            return tuple(int(word) for word in words)
        except ValueError:
            raise WorkloadError(
                f"lengths ({','.join(words)}) must be sharegpt or PROMPT,OUTPUT tokens, "
                "as in 250,231"
            ) from None
