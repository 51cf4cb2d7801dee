"""Placement: adapters on replicas, with a lower bound and a check.

The derivations are in docs/background/placement.md.
"""

from pytwin.fleet.placement.answer import Plan, Replica
from pytwin.fleet.placement.ask import plan
from pytwin.fleet.placement.checker import check
from pytwin.fleet.placement.offers import Offer
from pytwin.fleet.placement.solve import METHODS, Method

__all__ = ["METHODS", "Method", "Offer", "Plan", "Replica", "check", "plan"]
