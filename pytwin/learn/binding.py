"""What limits a setting, and what one adapter more would cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytwin.learn.describe import Setting
from pytwin.learn.search import Candidate, Searcher

_FULL_KV = 0.97
_MUCH_LOADING = 0.05


def binding_constraint(
    searcher: Searcher,
    chosen: Candidate,
    known: Mapping[Setting, Candidate],
    stuck: Sequence[Setting],
) -> dict[str, Any]:
    """What breaks first when more adapters are served in the same slots.

    Returns
    -------
    dict: constraint ("slots", "KV memory", "adapter loading", "step time", "GPU memory" or
        "offered load"), at (adapters served where it shows), evidence (one line).
    """
    setting = chosen.setting
    beyond = _next(searcher, setting)
    if beyond is None:
        return {
            "constraint": "offered load",
            "at": setting.served_adapters,
            "evidence": "no setting asked about serves more adapters",
        }
    if beyond in stuck:
        return {
            "constraint": "GPU memory",
            "at": beyond.served_adapters,
            "evidence": searcher.describer.infeasible(beyond),
        }
    found = known.get(beyond) or searcher.simulate([beyond])[0]
    metrics = found.metrics or {}
    row = dict(
        zip(
            searcher.describer.names,
            searcher.describer.features(searcher.question.traffic, [beyond])[0].tolist(),
            strict=True,
        )
    )
    loading = metrics["lora_load_time_s"] / max(metrics["busy_s"], 1e-9)
    if row["slot_wait_s"] > 0:  # before loading: scarce slots are what makes the loads
        name = "slots"
        evidence = (
            f"{row['active_adapters']:.0f} adapters would have a request running, "
            f"in {beyond.max_loras} slots; {100 * loading:.0f} % of the time goes into loads"
        )
    elif loading >= _MUCH_LOADING:
        name, evidence = "adapter loading", f"{100 * loading:.0f} % of the time goes into loads"
    elif metrics["preemptions"] > 0 or metrics["max_kv_usage"] >= _FULL_KV:
        name = "KV memory"
        evidence = (
            f"{100 * metrics['max_kv_usage']:.0f} % of {metrics['kv_tokens']} KV tokens in use, "
            f"{metrics['preemptions']} preemptions"
        )
    else:
        name = "step time"
        evidence = (
            f"a step of {found.tpot_ms:.0f} ms with {metrics['mean_running']:.0f} requests running"
        )
    holds = "would still hold" if found.feasible else "would break"
    return {
        "constraint": name,
        "at": beyond.served_adapters,
        "evidence": f"at {beyond.served_adapters} adapters (the objective {holds}): {evidence}",
    }


def one_more_adapter(searcher: Searcher, chosen: Candidate) -> dict[str, Any]:
    """Change by one adapter more in the same slots, under the same arrivals of the others.

    Returns
    -------
    dict: rate_rps (of that adapter), total_throughput (tokens/s), mean_tpot_ms, mean_ttft_ms, and
        error: why the server could not start with it (then the changes are None), else None.
    """
    setting, traffic = chosen.setting, searcher.question.traffic
    served = setting.served_adapters
    more = Setting(served + 1, setting.max_loras, max(
        setting.max_lora_rank, traffic.least_lora_rank(served + 1)
    ))  # fmt: skip
    rate_rps = traffic.rate_rps(served + 1) - traffic.rate_rps(served)
    changes = dict.fromkeys(("total_throughput", "mean_tpot_ms", "mean_ttft_ms"))
    error = searcher.describer.infeasible(more)
    if error is not None:
        return {"rate_rps": rate_rps, **changes, "error": error}
    before, after = searcher.simulate([setting, more])
    return {
        "rate_rps": rate_rps,
        "total_throughput": after.throughput - before.throughput,
        "mean_tpot_ms": after.tpot_ms - before.tpot_ms,
        "mean_ttft_ms": after.ttft_ms - before.ttft_ms,
        "error": None,
    }


def _next(searcher: Searcher, setting: Setting) -> Setting | None:
    """The next larger number of adapters asked about, in the same slots."""
    larger = [
        item
        for item in searcher.question.settings
        if item.served_adapters > setting.served_adapters and item.max_loras == setting.max_loras
    ]
    return min(larger, key=lambda item: item.served_adapters, default=None)
