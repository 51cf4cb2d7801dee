"""Rows through the core: the same answers as one simulation, failures as rows."""

from __future__ import annotations

import math
from typing import Any

import polars as pl

import pytwin as pt
from pytwin.simulation import Twin
from pytwin.sweep import Design, parse_spec
from pytwin.sweep.rows import schema, simulate_rows


def simulated(document: dict[str, Any], workers: int = 1) -> pl.DataFrame:
    design = Design(parse_spec(document))
    return simulate_rows(Twin(), list(design.rows(0, design.n_rows)), design.columns, workers)


def test_a_row_is_what_simulate_gives(document: dict[str, Any]) -> None:
    frame = simulated(document)
    assert (frame["status"] == "ok").all()
    for row in frame.sample(4, seed=0).iter_rows(named=True):
        server = pt.EngineConfig(
            profile=row["profile"],
            max_loras=row["max_loras"],
            max_cpu_loras=row["max_cpu_loras"],
            max_lora_rank=row["max_lora_rank"],
        )
        served = pt.adapters(row["served_adapters"], row["rates_rps"], row["ranks"])
        traffic = pt.Workload.poisson(
            adapters=served, lengths=(40, 20), duration_s=row["duration_s"]
        )
        run = pt.simulate(server, traffic, seed=row["seed"])
        for name, value in run.metrics.items():
            wanted = None if math.isnan(value) else value
            assert row[name] == wanted, name


def test_inputs_come_first_then_status_then_metrics(document: dict[str, Any]) -> None:
    frame = simulated(document)
    names = frame.columns
    assert names[: names.index("status")] == [
        "profile", "max_loras", "max_cpu_loras", "max_lora_rank", "served_adapters",
        "rates_rps", "ranks", "lengths", "duration_s", "seed",
    ]  # fmt: skip
    after = names[names.index("status") :]
    assert after[:6] == [
        "status", "error", "extrapolated", "extrapolated_why", "stopped_at_s", "stop_reason",
    ]  # fmt: skip
    assert {"total_throughput", "mean_ttft_ms", "p99_itl_ms", "starved", "kv_blocks"} < set(after)
    assert not [name for name in names if "host" in name or "worker" in name or "wall" in name]


BAD = [
    ({"max_loras": 4, "max_cpu_loras": 2}, "max_cpu_loras (2) must be >= max_loras (4)"),
    ({"rates_rps": [-0.1]}, "rates_rps (-0.1) must be >= 0"),
    ({"rates_rps": [float("nan")]}, "must be finite"),
    ({"ranks": [64], "max_lora_rank": 8}, "max_lora_rank"),
    ({"max_lora_rank": 9}, "max_lora_rank (9) must be one of"),
    ({"profile": "no-such-model@gpu"}, "profile (no-such-model@gpu) is unknown"),
    ({"served_adapters": -3}, "served_adapters (-3)"),
    ({"duration_s": 0}, "duration_s (0"),
    ({"burstiness": -1}, "burstiness (-1"),
    ({"burstiness": 1e-9}, "burstiness (1e-09)"),
    ({"duration_s": 1e12}, "duration_s (1e+12)"),
    ({"rates_rps": [1e9]}, "lower the rates"),
    ({"lengths": "novels"}, "lengths (novels) is unknown"),
    ({"lengths": [1, 2, 3]}, "lengths"),
    ({"lengths": {"law": "lognormal", "median": 3}}, "lengths"),
    ({"arrivals": "never"}, "arrivals (never)"),
    ({"popularity": "zipf:x"}, "popularity"),
    ({"engine_version": "0.7"}, "engine_version (0.7)"),
    ({"max_num_seqs": 0}, "max_num_seqs (0)"),
    ({"scheduling_policy": "lifo"}, "scheduling_policy"),
    ({"max_loras": 0, "max_cpu_loras": 0}, "max_loras (0)"),
]


def test_a_bad_row_is_a_row_with_its_error_and_its_neighbours_run(profile: str) -> None:
    base = {
        "profile": profile, "duration_s": 5, "lengths": [10, 5], "max_loras": 2,
        "served_adapters": 4, "rates_rps": [0.5], "ranks": [8],
    }  # fmt: skip
    rows: list[dict[str, Any]] = [{}]
    for change, _ in BAD:
        rows += [change, {}]
    frame = simulated({"base": base, "list": rows})
    assert frame["status"].to_list() == ["ok", *["failed", "ok"] * len(BAD)]
    for error, (_, words) in zip(frame["error"][1::2], BAD, strict=True):
        assert words in error
        assert "\n" not in error
    failed = frame.filter(pl.col("status") == "failed")
    metrics = frame.columns[frame.columns.index("extrapolated_why") :]
    assert failed.select(metrics).null_count().sum_horizontal().sum() == len(BAD) * len(metrics)
    # Neighbours are all the same simulation.
    good = frame.filter(pl.col("status") == "ok").select(metrics)
    assert good.unique().height == 1


def test_a_server_without_memory_is_an_answer(document: dict[str, Any]) -> None:
    change = {"max_loras": [8, 500], "served_adapters": [512], "rates_rps": [[0.01]]}
    frame = simulated(document | {"grid": document["grid"] | change})
    short = frame.filter(pl.col("max_loras") == 500)
    assert (short["status"] == "infeasible").all()
    assert (short["error"].str.len_chars() > 0).all()
    assert short["total_throughput"].null_count() == short.height
    assert (frame.filter(pl.col("max_loras") == 8)["status"] == "ok").all()


def test_extrapolation_is_told(document: dict[str, Any]) -> None:
    """The toy profile was measured up to 16 slots."""
    change = {"max_loras": [4, 32], "served_adapters": [64], "rates_rps": [[0.01]]}
    frame = simulated(document | {"grid": document["grid"] | change})
    for row in frame.iter_rows(named=True):
        assert row["extrapolated"] == (row["max_loras"] == 32)
        assert ("max_loras" in (row["extrapolated_why"] or "")) == row["extrapolated"]


def test_objectives_and_early_stops_are_row_keys(document: dict[str, Any]) -> None:
    base = document["base"] | {"duration_s": 600, "max_loras": 1, "lengths": [60, 200]}
    rows = [
        {},
        {"stop_starving": True},
        {"ttft_slo_ms": 1e-3},
        {"tpot_slo_ms": 1e9, "ttft_slo_ms": 1e9},
        {"stop_tolerance": 1.5},
        {"ttft_slo_ms": -1},
        {"rates_rps": 0.001, "stop_starving": True},
    ]
    grid = {"served_adapters": [8]}
    every = [{"rates_rps": 4} | row for row in rows]
    frame = simulated({"base": base, "list": every, "grid": grid})
    status = ["ok", "ok", "ok", "ok", "failed", "failed", "ok"]
    assert frame["status"].to_list() == status, frame["error"].to_list()
    stopped = ["starving" if place == 1 else None for place in range(len(rows))]
    assert frame["stop_reason"].to_list() == stopped
    assert 0 < frame["stopped_at_s"][1] < 600
    assert frame["stopped_at_s"].null_count() == len(rows) - 1
    assert frame["duration"][1] == frame["stopped_at_s"][1]
    attained = frame["slo_attainment"].to_list()
    assert attained[2] == 0 < attained[0] < attained[3] == 1
    assert frame["error"][4] == "stop_tolerance (1.5) must be > 0 and < 1, or None"
    assert frame["error"][5].startswith("ttft_slo_ms (-1.0) must be > 0")


def test_types_do_not_depend_on_what_happened(document: dict[str, Any]) -> None:
    base = document["base"]
    nothing = simulated({"base": base | {"rates_rps": -1, "served_adapters": 1, "max_loras": 1}})
    something = simulated({"base": base | {"rates_rps": 1, "served_adapters": 1, "max_loras": 1}})
    assert nothing["status"].to_list() == ["failed"]
    assert something["status"].to_list() == ["ok"]
    assert nothing.schema == something.schema
    design = Design(parse_spec(document))
    assert simulated(document).schema == schema(design.columns)


def test_traffic_does_not_change_with_the_server(document: dict[str, Any]) -> None:
    """Common random numbers: engine knobs leave the arrivals alone, seeds do not."""
    frame = simulated(document)
    traffic = ["served_adapters", "rates_rps", "seed"]
    arrivals = frame.group_by(traffic).agg(pl.col("arrived").n_unique(), slots=pl.len())
    assert (arrivals["arrived"] == 1).all()
    assert (arrivals["slots"] > 1).any()
    assert frame["arrived"].n_unique() > 4


def test_what_does_not_exist_is_null(document: dict[str, Any]) -> None:
    """No request can finish within a millisecond: there is no time to first token to average."""
    frame = simulated(document | {"base": document["base"] | {"duration_s": 0.001}})
    assert (frame["status"] == "ok").all()
    assert frame["mean_ttft_ms"].null_count() == frame.height
    assert (frame["completed"] == 0).all()


def test_progress_counts_every_row(document: dict[str, Any]) -> None:
    design = Design(parse_spec(document | {"base": document["base"] | {"duration_s": 600}}))
    rows = list(design.rows(0, design.n_rows))
    ticks: list[int] = []
    simulate_rows(Twin(), rows, design.columns, 2, ticks.append)
    assert ticks == sorted(ticks)
    assert all(0 <= tick <= len(rows) for tick in ticks)
