"""Answers at once: interpretable models of what the twin simulated, and what to do with them.

    answer = pytwin.learn.recommend(...)

On the command line: ``pytwin recommend`` and ``pytwin learn fit``.
"""
