"""Plots of results: functions that take frames and return figures."""
