"""How routers that look for an adapter degrade when what they see of the replicas is old.

    python experiments/stale-signals/run.py

Writes the tables of README.md between its markers.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from scipy import stats

import pytwin as pt
from pytwin.fleet.cluster.simulate import FleetTwin

PROFILE = "llama-3.1-8b-instruct@h100-64gb"
ADAPTERS, SLOTS, REPLICAS, DURATION_S, SEEDS = 128, 32, 4, 600.0, 10
TTFT_SLO_MS = 500.0
RATES = (0.01, 0.05, 0.2)  # requests/s of each adapter
DELAYS_MS = (0, 100, 1_000, 10_000, 60_000)
ROUTERS = {
    "affinity, activity": (pt.Router.adapter_affinity("activity"), DELAYS_MS),
    "affinity, residency": (pt.Router.adapter_affinity("residency"), DELAYS_MS),
    # These read nothing of the replicas' metrics: one delay stands for all.
    "rendezvous, 1 copy": (pt.Router.rendezvous(), (0,)),
    "least outstanding": (pt.Router.least_outstanding(), (0,)),
}
COLUMNS = ("loads per request", "mean TTFT ms", "p99 TTFT ms", "TTFT missed %", "imbalance")
MARK = "<!-- figures -->\n"


def figures(run: pt.FleetRun) -> list[float]:
    """The columns of one run."""
    metrics, requests = run.metrics, run.requests
    ttft = requests["ttft_ms"]
    waited = DURATION_S * 1000 - requests["arrival_s"] * 1000
    # Judged like slo_miss: what has no first token yet has missed once its time is over.
    none_yet = ttft.is_null() & (waited > TTFT_SLO_MS)
    late = (ttft > TTFT_SLO_MS).fill_null(value=False)
    judged = ttft.is_not_null() | none_yet
    return [
        run.adapters["loads"].sum() / metrics["arrived"],
        metrics["mean_ttft_ms"],
        metrics["p99_ttft_ms"],
        100 * float((late | none_yet).sum()) / float(judged.sum()),
        metrics["served_imbalance"],
    ]


def interval(values: np.ndarray) -> float:
    """Half of the 95 % t interval of a mean."""
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def table(rate: float) -> str:
    server = pt.EngineConfig(profile=PROFILE, max_loras=SLOTS, max_cpu_loras=ADAPTERS)
    traffic = pt.Workload.poisson(adapters=pt.adapters(ADAPTERS, rate, 16), duration_s=DURATION_S)
    rows, in_flight = [], 0.0
    for name, (router, delays) in ROUTERS.items():
        at: dict[int, np.ndarray] = {}
        for delay in delays:
            twin = FleetTwin()
            cases = [
                twin.case(
                    [pt.Replica(server)] * REPLICAS,
                    traffic,
                    router=router,
                    seed=seed,
                    signal_delay_ms=delay,
                )
                for seed in range(SEEDS)
            ]
            runs = twin.run(cases)
            at[delay] = np.array([figures(run) for run in runs])
            if delay == 0 and not in_flight:
                in_flight = float(np.mean([run.metrics["mean_running"] for run in runs]))
            means = at[delay].mean(axis=0)
            cells = [f"{mean:.4g}" for mean in means]
            if delay:
                change = at[delay] - at[0]  # the same requests under each seed
                cells = [
                    f"{mean} ({difference.mean():+.3g} ± {interval(difference):.2g})"
                    for mean, difference in zip(cells, change.T, strict=True)
                ]
            shown = f"{delay / 1000:g}" if len(delays) > 1 else "any"
            rows.append(f"| {name} | {shown} | " + " | ".join(cells) + " |")
    head = (
        f"### {rate:g} requests/s per adapter: {in_flight / ADAPTERS:.2g} requests of each adapter "
        "in flight\n\n"
        f"| router | delay s | {' | '.join(COLUMNS)} |\n|---|--:|{'--:|' * len(COLUMNS)}\n"
    )
    return head + "\n".join(rows) + "\n"


def main() -> None:
    begun = time.perf_counter()
    tables = "\n".join(table(rate) for rate in RATES)
    page = Path(__file__).with_name("README.md")
    before, _, rest = page.read_text(encoding="utf-8").partition(MARK)
    _, _, after = rest.partition(MARK)
    page.write_text(before + MARK + "\n" + tables + "\n" + MARK + after, encoding="utf-8")
    print(tables, f"{time.perf_counter() - begun:.0f} s", sep="\n")


if __name__ == "__main__":
    main()
