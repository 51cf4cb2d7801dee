"""Calibrated profiles, one JSON file each; `pytwin.catalog.load_profile` reads them.

`calibration/refit.py` makes the shipped ones; docs/background/cost-model.md says how and how well.
"""
