"""Simulate a fleet."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pytwin import _core
from pytwin.errors import ConfigError, PytwinError, WorkloadError
from pytwin.fleet.cluster.nouns import AdapterEvent, Numbers, Replica
from pytwin.fleet.cluster.result import FleetRun
from pytwin.fleet.cluster.router import Router, as_router
from pytwin.simulation import TPOT_SLO_MS, TTFT_SLO_MS, Twin
from pytwin.workload import Workload
from pytwin.workload.checks import non_negative


@dataclass(frozen=True)
class FleetCase:
    """One fleet under one traffic: the arguments of `simulate_fleet`."""

    replicas: tuple[Replica, ...]
    traffic: Workload
    router: Router
    seed: int
    spec: str


class FleetTwin:
    """Simulates fleets, many at a time; holds no results."""

    def __init__(self) -> None:
        self.twin = Twin()

    def case(
        self,
        replicas: Sequence[Replica],
        traffic: Workload,
        *,
        router: Router | str = "least_outstanding",
        seed: int = 0,
        signal_delay_ms: float = 0.0,
        events: Iterable[AdapterEvent] = (),
        requests: bool = True,
        timeseries_s: float | None = None,
        steps: bool = False,
        ignore_memory: bool = False,
        ttft_slo_ms: float = TTFT_SLO_MS,
        tpot_slo_ms: float = TPOT_SLO_MS,
        exact_quantiles: bool = False,
    ) -> FleetCase:
        """A checked case; parameters as `simulate_fleet`.

        Raises
        ------
        PytwinError: bad input, one line.
        """
        servers = tuple(replicas)
        if not servers or not all(isinstance(replica, Replica) for replica in servers):
            raise ConfigError("replicas must hold at least one pt.Replica, and nothing else")
        if not isinstance(traffic, Workload):
            raise WorkloadError(f"traffic ({traffic!r}) must be a pt.Workload")
        rule = as_router(router)
        ranks = traffic.adapter_ranks
        numbers = Numbers(len(ranks), traffic.adapter_names)
        # One model is served: its tokenizer counts the tokens, its requests end as its do.
        base = self.twin.spec(
            servers[0].server.model_copy(update={"max_lora_rank": 512}),
            traffic,
            seed=seed,
            requests=requests,
            adapters=True,
            timeseries_s=timeseries_s,
            steps=steps,
            ignore_memory=ignore_memory,
            ttft_slo_ms=ttft_slo_ms,
            tpot_slo_ms=tpot_slo_ms,
            exact_quantiles=exact_quantiles,
        )
        document = {
            name: base[name]
            for name in ("seed", "ignore_memory", "workload", "collect", "objectives")
        }
        document["replicas"] = [
            self._replica(replica, numbers, has_adapters=bool(ranks)) for replica in servers
        ]
        document["router"] = rule.document(numbers)
        document["signal_delay_ms"] = non_negative("signal_delay_ms", signal_delay_ms)
        document["events"] = [
            _event(event, numbers, len(servers))
            for event in sorted(events, key=operator.attrgetter("at_s"))
        ]
        return FleetCase(servers, traffic, rule, seed, json.dumps(document, allow_nan=False))

    def run(self, cases: Sequence[FleetCase], workers: int = 1) -> list[FleetRun]:
        """Every case, in order; the results do not depend on `workers`.

        Raises
        ------
        PytwinError: a case that cannot be simulated, one line.
        """
        outcomes = _core.simulate_fleets(
            self.twin.library, [case.spec for case in cases], max(1, workers)
        )
        for outcome in outcomes:
            if outcome["status"] == "failed":
                raise PytwinError(str(outcome["error"]))
        return [
            FleetRun(outcome, replicas=case.replicas, traffic=case.traffic, seed=case.seed)
            for outcome, case in zip(outcomes, cases, strict=True)
        ]

    def _replica(self, replica: Replica, numbers: Numbers, *, has_adapters: bool) -> dict[str, Any]:
        self.twin.hold_profile(replica.server.loaded_profile)
        served = replica.adapters
        return {
            "profile": replica.server.loaded_profile.key,
            "engine": replica.server.resolved(has_adapters=has_adapters),
            "adapters": None if served is None else [numbers(adapter) for adapter in served],
            "start_s": replica.start_s,
            "startup_s": replica.startup_s,
            "stop_s": replica.stop_s,
        }


def simulate_fleet(
    replicas: Sequence[Replica],
    traffic: Workload,
    *,
    router: Router | str = "least_outstanding",
    seed: int = 0,
    signal_delay_ms: float = 0.0,
    events: Iterable[AdapterEvent] = (),
    requests: bool = True,
    timeseries_s: float | None = None,
    steps: bool = False,
    ignore_memory: bool = False,
    ttft_slo_ms: float = TTFT_SLO_MS,
    tpot_slo_ms: float = TPOT_SLO_MS,
    exact_quantiles: bool = False,
) -> FleetRun:
    """Simulate `traffic` on several servers behind a router.

    One replica behind any router gives what `pt.simulate` gives, to the bit.

    Parameters
    ----------
    replicas: the servers; profiles and settings may differ. Token lengths and early ends are those
        of the first one's model.
    traffic: of the whole fleet.
    router: a `pt.Router`, or the name of one.
    seed: the same seed, configuration and version give the same bits.
    signal_delay_ms: how old what the router reads from the replicas' metrics is (queues, KV cache,
        active and resident adapters). What it sent, and what came back, it knows at once.
    events: adapters loaded and unloaded on the way.
    requests, timeseries_s, steps: which frames to keep, as in `pt.simulate`.
    ignore_memory: simulate even where a memory model says that a server cannot start.
    ttft_slo_ms, tpot_slo_ms, exact_quantiles: as in `pt.simulate`.

    Raises
    ------
    PytwinError: bad input, in one line with the value, the rule and the way out.
    """
    twin = FleetTwin()
    case = twin.case(
        replicas,
        traffic,
        router=router,
        seed=seed,
        signal_delay_ms=signal_delay_ms,
        events=events,
        requests=requests,
        timeseries_s=timeseries_s,
        steps=steps,
        ignore_memory=ignore_memory,
        ttft_slo_ms=ttft_slo_ms,
        tpot_slo_ms=tpot_slo_ms,
        exact_quantiles=exact_quantiles,
    )
    return twin.run([case])[0]


def _event(event: AdapterEvent, numbers: Numbers, replicas: int) -> dict[str, Any]:
    if not isinstance(event, AdapterEvent):
        raise ConfigError(f"event ({event!r}) must be a pt.AdapterEvent")
    if not 0 <= event.replica < replicas:
        raise ConfigError(
            f"replica ({event.replica}) of the event at {event.at_s:g} s must be from 0 to "
            f"{replicas - 1}"
        )
    return {
        "at_s": float(event.at_s),
        "replica": event.replica,
        "adapter": numbers(event.adapter),
        "action": event.action,
    }
