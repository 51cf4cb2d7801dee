"""Calibration: measured runs -> a profile of step time, load time, front end and memory."""
