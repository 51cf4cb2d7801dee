"""Recordings of a vLLM server -> a profile.

`read_runs` reads them, `fit` makes a profile of them, with its error on what it was not fitted on.
"""

from pytwin.calibrate.recordings.columns import RecordedRun as RecordedRun
from pytwin.calibrate.recordings.fit import FitResult as FitResult
from pytwin.calibrate.recordings.fit import directories as directories
from pytwin.calibrate.recordings.fit import fit as fit
from pytwin.calibrate.recordings.fit import read_runs as read_runs
