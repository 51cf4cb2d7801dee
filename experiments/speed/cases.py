"""The cases of `make bench`: each a server and a traffic of so many requests."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

import pytwin as pt

PROFILE = "llama-3.1-8b-instruct@h100-64gb"
# The peers were measured with these lengths (tokens).
LENGTHS = (250, 231)


@dataclass(frozen=True)
class Case:
    """`requests` requests on average, at `rate_rps` in all, over `adapters` adapters.

    `kv_blocks` overrides the KV cache of the profile; `max_connections` bounds the queue. With
    `given` the requests are a trace that is there already, and only the core is timed.
    """

    name: str
    group: str
    requests: int
    rate_rps: float
    adapters: int = 0
    max_loras: int = 0
    kv_blocks: int | None = None
    max_connections: int = 25_000
    repeats: int = 15
    given: bool = False

    def server(self) -> pt.EngineConfig:
        return pt.EngineConfig(
            profile=PROFILE,
            max_loras=self.max_loras,
            max_cpu_loras=max(self.adapters, self.max_loras),
            max_model_len=8192,
            max_connections=self.max_connections,
            num_gpu_blocks_override=self.kv_blocks,
        )

    def traffic(self) -> pt.Workload:
        rate, served = self.rate_rps, None
        if self.adapters:
            rates = [self.rate_rps / self.adapters]
            rate, served = None, pt.adapters(self.adapters, rates_rps=rates, ranks=[8, 16])
        return pt.Workload.poisson(
            adapters=served,
            rate_rps=rate,
            lengths=LENGTHS,
            duration_s=self.requests / self.rate_rps,
        )

    def trace(self, seed: int) -> pl.DataFrame:
        """The requests of a base model as a trace: uniform times are Poisson given their number."""
        duration_s = self.requests / self.rate_rps
        times = np.sort(np.random.default_rng(seed).uniform(0.0, duration_s, self.requests))
        prompt, output = LENGTHS
        return pl.DataFrame({"arrival_s": times}).with_columns(
            adapter=pl.lit(None, dtype=pl.String),
            prompt_tokens=pl.lit(prompt),
            output_tokens=pl.lit(output),
        )


PEERS = Case("peers: 64 adapters, 32 slots, 10 req/s", "peers", 10_000, 10.0, 64, 32)
SATURATED = Case("", "queue", 360_000, 100.0, 64, 32, repeats=3)

CASES = (
    Case("peers: no adapters, 10 req/s", "peers", 10_000, 10.0),
    Case(
        "peers: no adapters, 10 req/s, traffic given, core alone", "peers", 10_000, 10.0, given=True
    ),
    PEERS,
    Case("peers: no adapters, 40 req/s (saturated)", "peers", 10_000, 40.0),
    Case("peers: 64 adapters, 32 slots, 40 req/s (saturated)", "peers", 10_000, 40.0, 64, 32),
    Case("near-critical: 64 adapters, 64 slots, 20 req/s", "peers", 10_000, 20.0, 64, 64),
    Case("preempting: 1,500 KV blocks, 15 req/s", "peers", 10_000, 15.0, 64, 64, kv_blocks=1500),
    Case("384 adapters, 160 slots, 10 req/s", "peers", 10_000, 10.0, 384, 160),
    *(
        replace(
            PEERS,
            name=f"{n:,} requests: 64 adapters, 32 slots",
            group="requests",
            requests=n,
            repeats=max(1, min(15, 3_000_000 // n)),
        )
        for n in (10_000, 100_000, 1_000_000, 10_000_000)
    ),
    *(
        replace(
            SATURATED, name=f"at most {n:,} in flight, 100 req/s for an hour", max_connections=n
        )
        for n in (1_500, 3_000, 6_000, 12_500, 25_000)
    ),
    *(
        replace(PEERS, name=f"{n:,} adapters, 32 slots, 10 req/s", group="adapters", adapters=n)
        for n in (32, 64, 125, 250, 500, 1000)
    ),
)

GROUPS = {
    "peers": "Cases",
    "requests": "Scaling: requests",
    "queue": "Scaling: queue length",
    "adapters": "Scaling: adapters",
}
