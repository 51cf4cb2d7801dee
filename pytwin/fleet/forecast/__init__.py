"""Forecasts of each adapter's rate, with bands; how good they are; and bursts."""

from pytwin.fleet.forecast.bins import History, bin_counts
from pytwin.fleet.forecast.methods import PLAIN, Method
from pytwin.fleet.forecast.rates import RateForecast, forecast, forecast_rates

__all__ = [
    "PLAIN",
    "History",
    "Method",
    "RateForecast",
    "bin_counts",
    "forecast",
    "forecast_rates",
]
