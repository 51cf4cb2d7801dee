"""The twin against real runs of a vLLM server.

Reading (`read`), predicting (`predict`) and judging (`rows`, `errors`, `report`) are kept apart:
the prediction is given a run's configuration and its offered traffic, never what came out.
"""

from pytwin.validate.predict import (
    BENCHMARK,
    Case,
    Measurement,
    Progress,
    RunPrediction,
    case_of,
    predict,
)
from pytwin.validate.read import RealRuns, RunConfig, read_runs
from pytwin.validate.report import Report, build_report
from pytwin.validate.rows import METRICS, build_rows

__all__ = [
    "BENCHMARK",
    "METRICS",
    "Case",
    "Measurement",
    "Progress",
    "RealRuns",
    "Report",
    "RunConfig",
    "RunPrediction",
    "build_report",
    "build_rows",
    "case_of",
    "predict",
    "read_runs",
]
