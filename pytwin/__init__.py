"""A digital twin of a vLLM server with LoRA adapters.

    import pytwin as pt
    server = pt.EngineConfig(profile="llama-3.1-8b-instruct@h100-64gb", max_loras=32)
    traffic = pt.Workload.poisson(adapters=pt.adapters(64, rates_rps=0.05, ranks=16))
    run = pt.simulate(server, traffic)

Names are loaded when first used: importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytwin.config import EngineConfig as EngineConfig
    from pytwin.errors import ConfigError as ConfigError
    from pytwin.errors import DataError as DataError
    from pytwin.errors import PytwinError as PytwinError
    from pytwin.errors import WorkloadError as WorkloadError
    from pytwin.fleet.cluster import AdapterEvent as AdapterEvent
    from pytwin.fleet.cluster import FleetRun as FleetRun
    from pytwin.fleet.cluster import Replica as Replica
    from pytwin.fleet.cluster import Router as Router
    from pytwin.fleet.cluster import simulate_fleet as simulate_fleet
    from pytwin.fleet.logs import TrafficLaw as TrafficLaw
    from pytwin.fleet.logs import fleet_traffic as fleet_traffic
    from pytwin.fleet.logs import read_log as read_log
    from pytwin.fleet.placement import plan as plan
    from pytwin.learn.ask import recommend as recommend
    from pytwin.learn.ask import recommend_fleet as recommend_fleet
    from pytwin.learn.changes import busier as busier
    from pytwin.learn.changes import more_adapters as more_adapters
    from pytwin.learn.changes import new_rank as new_rank
    from pytwin.learn.changes import viral as viral
    from pytwin.learn.what_if import WhatIf as WhatIf
    from pytwin.learn.what_if import what_if as what_if
    from pytwin.results import Run as Run
    from pytwin.simulation import simulate as simulate
    from pytwin.uncertainty import Prediction as Prediction
    from pytwin.uncertainty import predict as predict
    from pytwin.workload import Adapters as Adapters
    from pytwin.workload import ConstantLengths as ConstantLengths
    from pytwin.workload import Empirical as Empirical
    from pytwin.workload import LogNormal as LogNormal
    from pytwin.workload import ShareGpt as ShareGpt
    from pytwin.workload import Workload as Workload
    from pytwin.workload import adapters as adapters
    from pytwin.workload import adapters_by_popularity as adapters_by_popularity
    from pytwin.workload import adapters_from_csv as adapters_from_csv
    from pytwin.workload import adapters_zipf as adapters_zipf

    __version__: str

_HOMES = {
    "EngineConfig": "pytwin.config",
    "ConfigError": "pytwin.errors",
    "DataError": "pytwin.errors",
    "PytwinError": "pytwin.errors",
    "WorkloadError": "pytwin.errors",
    "AdapterEvent": "pytwin.fleet.cluster",
    "FleetRun": "pytwin.fleet.cluster",
    "Replica": "pytwin.fleet.cluster",
    "Router": "pytwin.fleet.cluster",
    "simulate_fleet": "pytwin.fleet.cluster",
    "plan": "pytwin.fleet.placement",
    "TrafficLaw": "pytwin.fleet.logs",
    "fleet_traffic": "pytwin.fleet.logs",
    "read_log": "pytwin.fleet.logs",
    "recommend": "pytwin.learn.ask",
    "recommend_fleet": "pytwin.learn.ask",
    "busier": "pytwin.learn.changes",
    "more_adapters": "pytwin.learn.changes",
    "new_rank": "pytwin.learn.changes",
    "viral": "pytwin.learn.changes",
    "WhatIf": "pytwin.learn.what_if",
    "what_if": "pytwin.learn.what_if",
    "Run": "pytwin.results",
    "simulate": "pytwin.simulation",
    "Prediction": "pytwin.uncertainty",
    "predict": "pytwin.uncertainty",
    "Adapters": "pytwin.workload",
    "ConstantLengths": "pytwin.workload",
    "Empirical": "pytwin.workload",
    "LogNormal": "pytwin.workload",
    "ShareGpt": "pytwin.workload",
    "Workload": "pytwin.workload",
    "adapters": "pytwin.workload",
    "adapters_by_popularity": "pytwin.workload",
    "adapters_from_csv": "pytwin.workload",
    "adapters_zipf": "pytwin.workload",
}

__all__ = [*_HOMES, "__version__"]  # noqa: PLE0604 - all are strings


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("pytwin")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'pytwin' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
