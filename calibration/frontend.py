"""Fit the front end: what the API server and the client add to the engine's steps.

Four mechanisms, each seen in the measured runs:

* a fixed way in (HTTP, tokens, queue between processes) and a way out that grows with the requests
  whose tokens a step delivers;
* serial work at an adapter's first request (the server looks for a tokenizer of its own): p99 TTFT
  of the lightest runs is one such piece of work, and every run with many adapters starts with a
  minute of stalls. The benchmark sent no request per adapter before its clock started;
* rendering /metrics, which blocks the server: vLLM 0.8.5's gauge `vllm:lora_requests_info` keeps a
  label set for every distinct set of running and waiting adapters ever seen, and the benchmark
  polled every 2 s. The interval between polls grows linearly with time in every run, and mean ITL
  exceeds mean TPOT by the share of time blocked: tokens that wait are delivered as one chunk.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration import replay
from pytwin import _core
from pytwin.simulation import Twin
from pytwin.validate import RunConfig

FloatArray = npt.NDArray[np.float64]

# Start and lower limits: ingress ms, egress ms per request of a step, first request ms, us per
# label set. Fitted in logarithms, so that each stays positive.
_NAMES = ("ingress", "egress_per_seq", "first_request", "poll_per_label_set")
_START = (6.0, 0.03, 260.0, 18.0)
_MOST_RUNS = 48


def document(parameters: Sequence[float]) -> dict[str, Any]:
    """The profile's `frontend` for these parameters (microseconds)."""
    ingress, egress, first, poll = (float(f"{value:.4g}") for value in parameters)
    return {
        "unit": "us",
        "ingress": [_term(ingress * 1e3, [], "HTTP, tokenizer, way to the engine and back")],
        "egress": [_term(egress * 1e3, ["seqs"], "detokenizer and streaming, per request")],
        "first_request": [_term(first * 1e3, ["lora"], "search for the adapter's own tokenizer")],
        "poll": [_term(poll, ["label_sets"], "rendering of one label set of lora_requests_info")],
    }


def _term(microseconds: float, factors: list[str], why: str) -> dict[str, Any]:
    return {"coefficient": float(f"{microseconds:.6g}"), "factors": factors, "why": why}


def fit(
    profile: dict[str, Any], runs: Sequence[tuple[RunConfig, dict[str, Any]]], seed: int = 11
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The front end that brings unqueued runs' TTFT and ITL nearest, and its errors (percent)."""
    from scipy.optimize import least_squares

    calm = [run for run in runs if run[1]["ts_waiting_mean"] < 1]
    calm = calm[:: max(1, math.ceil(len(calm) / _MOST_RUNS))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "profile.json"

        def residuals(logarithms: FloatArray) -> FloatArray:
            path.write_text(
                json.dumps({**profile, "frontend": document(np.exp(logarithms).tolist())})
            )
            return np.concatenate([_compare(*pair) for pair in simulate(calm, path, seed)])

        solution = least_squares(
            residuals,
            np.log(_START),
            loss="soft_l1",
            f_scale=0.05,
            diff_step=[0.02] * 4,
            max_nfev=8,
        )
        frontend = document(np.exp(solution.x).tolist())
        path.write_text(json.dumps({**profile, "frontend": frontend}))
        return frontend, _errors(simulate(calm, path, seed + 1))


def simulate(
    runs: Sequence[tuple[RunConfig, dict[str, Any]]], path: Path, seed: int
) -> list[tuple[dict[str, Any], dict[str, float]]]:
    """(measured, simulated) metrics of each run."""
    twin = Twin()
    pairs = []
    for config, real in runs:
        server, traffic = replay.server_and_traffic(config, path)
        spec = {**twin.spec(server, traffic, ignore_memory=True), "seed": seed}
        spec["engine"] = {**spec["engine"], "metrics_poll_s": replay.METRICS_POLL_S}
        spec["collect"] = {"requests": False, "timeseries_s": None, "steps": False}
        result = _core.simulate(twin.library, json.dumps(spec, allow_nan=False))
        pairs.append((real, result["metrics"]))
    return pairs


def _compare(real: dict[str, Any], twin: dict[str, float]) -> FloatArray:
    """Differences of logarithms: median and mean TTFT, and (weighted up) ITL over TPOT."""
    chunks = math.log(twin["mean_itl_ms"] / twin["mean_tpot_ms"])
    measured = math.log(real["mean_itl_ms"] / real["mean_tpot_ms"])
    return np.array(
        [
            math.log(twin["median_ttft_ms"] / real["median_ttft_ms"]),
            0.5 * math.log(twin["mean_ttft_ms"] / real["mean_ttft_ms"]),
            2.0 * (chunks - measured),
        ]
    )


def _errors(pairs: Sequence[tuple[dict[str, Any], dict[str, float]]]) -> dict[str, Any]:
    report: dict[str, Any] = {"runs": len(pairs)}
    for name in ("mean_ttft_ms", "median_ttft_ms", "mean_itl_ms"):
        errors = np.array([twin[name] / real[name] - 1 for real, twin in pairs])
        report[f"{name}_mape_percent"] = round(100 * float(np.abs(errors).mean()), 2)
        report[f"{name}_median_error_percent"] = round(100 * float(np.median(np.abs(errors))), 2)
    return report
