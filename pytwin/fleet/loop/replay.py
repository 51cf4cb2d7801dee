"""A log played on the fleets that controllers made, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pytwin.fleet.cluster import FleetTwin, Router
from pytwin.fleet.logs.log import RequestLog
from pytwin.fleet.loop.operate import Operation
from pytwin.fleet.loop.schedule import Schedule
from pytwin.workload import Workload


@dataclass(frozen=True)
class Outcome:
    """What a schedule came to.

    Attributes
    ----------
    gpu_hours: of all replicas, from their start until they had ended.
    missed: share of the judged requests that missed the objectives or that no replica took; only
        what is in flight at the end and not late yet is not judged.
    unrouted: requests that no replica took.
    requests: in the log.
    moves, started: adapters loaded on replicas after their start, replicas started on the way.
    loads: adapters copied to a GPU, whatever the reason.
    mean_ttft_ms: over completed requests.
    """

    gpu_hours: float
    missed: float
    unrouted: int
    requests: int
    moves: int
    started: int
    loads: int
    mean_ttft_ms: float

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def replay(
    operation: Operation,
    schedules: Sequence[Schedule],
    log: RequestLog,
    duration_s: float,
    *,
    router: Router | str = "least_outstanding",
    workers: int = 1,
    seed: int = 0,
) -> list[Outcome]:
    """Simulate the log's requests on each schedule's replicas, churn and load costs included.

    Parameters
    ----------
    log: of the operated time only, its times counted from the first decision.
    duration_s: length of that time; requests in flight at its end are not waited for.
    workers: schedules simulated at once; does not change the results.
    """
    traffic = Workload.replay(log.frame, duration_s=duration_s)
    known = frozenset(traffic.adapter_names or ())
    twin = FleetTwin()
    cases = [
        twin.case(
            schedule.replicas(known),
            traffic,
            router=router,
            seed=seed,
            events=schedule.events(known),
            requests=False,
            ttft_slo_ms=operation.objective.ttft_ms,
            tpot_slo_ms=operation.objective.tpot_ms,
        )
        for schedule in schedules
    ]
    outcomes = []
    for schedule, run in zip(schedules, twin.run(cases, workers), strict=True):
        metrics = run.metrics
        outcomes.append(
            Outcome(
                gpu_hours=metrics["gpu_s"] / 3600.0,
                missed=1.0 - metrics["slo_attainment"],
                unrouted=int(metrics["unrouted"]),
                requests=log.frame.height,
                moves=schedule.moves,
                started=schedule.started,
                loads=int(metrics["lora_loads_memory"] + metrics["lora_loads_disk"]),
                mean_ttft_ms=metrics["mean_ttft_ms"],
            )
        )
    return outcomes
