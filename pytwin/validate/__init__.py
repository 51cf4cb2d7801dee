"""The twin against real runs of a vLLM server.

Reading (`read`), predicting (`predict`) and judging (`report`) are kept apart: the prediction is
given a run's configuration and its offered traffic, never what came out.
"""

from pytwin.validate.predict import Prediction, Progress, predict
from pytwin.validate.read import RealRuns, RunConfig, read_runs
from pytwin.validate.report import METRICS, Report, build_report, build_rows

__all__ = [
    "METRICS",
    "Prediction",
    "Progress",
    "RealRuns",
    "Report",
    "RunConfig",
    "build_report",
    "build_rows",
    "predict",
    "read_runs",
]
