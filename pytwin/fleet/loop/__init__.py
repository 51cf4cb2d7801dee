"""Operating a fleet: forecast, plan, change what runs, and what came of it."""

from pytwin.fleet.loop.controller import Controller
from pytwin.fleet.loop.operate import Operation, operate
from pytwin.fleet.loop.replay import Outcome, replay
from pytwin.fleet.loop.schedule import Schedule

__all__ = ["Controller", "Operation", "Outcome", "Schedule", "operate", "replay"]
