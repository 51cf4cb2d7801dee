"""Answers at once: interpretable models of what the twin simulated, and what to do with them.

    pt.recommend(...), pt.recommend_fleet(...), pt.what_if(...)

On the command line: ``pytwin recommend`` and ``pytwin learn fit``.
"""
