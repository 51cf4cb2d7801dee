"""Placement: adapters on replicas, with a lower bound and a check (docs/background/placement.md)."""

from pytwin.fleet.placement.answer import Plan, Replica
from pytwin.fleet.placement.plan import plan
from pytwin.fleet.placement.solve import METHODS, Method

__all__ = ["METHODS", "Method", "Plan", "Replica", "plan"]
