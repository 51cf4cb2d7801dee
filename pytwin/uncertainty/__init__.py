"""How sure a prediction is: intervals, near-critical configurations, who misses an objective."""

from pytwin.uncertainty.critical import NUDGE, Sensitivity
from pytwin.uncertainty.ensemble import Member, Outlook, Plan, member_spec, members, outlook
from pytwin.uncertainty.factors import (
    FACTORS,
    INTERVAL_METRICS,
    REGIMES,
    Uncertainty,
    perturbed,
    read_uncertainty,
    uncertainty_of,
)
from pytwin.uncertainty.intervals import Law, checked_level, law_of
from pytwin.uncertainty.objectives import brier, reliability
from pytwin.uncertainty.prediction import Prediction, predict, rows_of, usable_cores

__all__ = [
    "FACTORS",
    "INTERVAL_METRICS",
    "NUDGE",
    "REGIMES",
    "Law",
    "Member",
    "Outlook",
    "Plan",
    "Prediction",
    "Sensitivity",
    "Uncertainty",
    "brier",
    "checked_level",
    "law_of",
    "member_spec",
    "members",
    "outlook",
    "perturbed",
    "predict",
    "read_uncertainty",
    "reliability",
    "rows_of",
    "uncertainty_of",
    "usable_cores",
]
