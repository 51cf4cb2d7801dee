"""Several servers behind a router, simulated on one clock."""

from pytwin.fleet.cluster.nouns import AdapterEvent, Replica
from pytwin.fleet.cluster.result import FleetRun
from pytwin.fleet.cluster.router import Router
from pytwin.fleet.cluster.simulate import FleetTwin, simulate_fleet

__all__ = ["AdapterEvent", "FleetRun", "FleetTwin", "Replica", "Router", "simulate_fleet"]
