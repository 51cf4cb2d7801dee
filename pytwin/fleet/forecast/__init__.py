"""Forecasts of each adapter's rate, with bands; how good they are; and bursts."""

from pytwin.fleet.forecast.auto import forecast_selected, selected_scores
from pytwin.fleet.forecast.bins import History, bin_counts
from pytwin.fleet.forecast.bursts import Burst, detect_bursts
from pytwin.fleet.forecast.decisions import DecisionScores, score_decisions
from pytwin.fleet.forecast.judge import RollingScores, rolling_scores
from pytwin.fleet.forecast.methods import PLAIN, Method
from pytwin.fleet.forecast.rates import RateForecast, forecast, forecast_rates
from pytwin.fleet.forecast.selection import Selection, select

__all__ = [
    "PLAIN",
    "Burst",
    "DecisionScores",
    "History",
    "Method",
    "RateForecast",
    "RollingScores",
    "Selection",
    "bin_counts",
    "detect_bursts",
    "forecast",
    "forecast_rates",
    "forecast_selected",
    "rolling_scores",
    "score_decisions",
    "select",
    "selected_scores",
]
