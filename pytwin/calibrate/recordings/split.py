"""What is fitted on and what is held out: whole stretches of time, or whole runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pytwin.calibrate.recordings.columns import RecordedRun

BLOCKS = 10
# Of ten equal stretches of a run these are held out: two of ten, neither the first nor the last.
HELD_OUT_BLOCKS = (3, 7)

Rows = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Split:
    """Rows of several runs, one after the other.

    run: number of each row's run. block: 0 to 9, the tenth of its run that a row lies in.
    held_out: rows that no fit may see. names: what is held out, for people.
    """

    run: npt.NDArray[np.int64]
    block: npt.NDArray[np.int64]
    held_out: Rows
    names: tuple[str, ...]

    @property
    def fitted(self) -> Rows:
        """Rows that are fitted on."""
        return ~self.held_out

    def at(self, run: int, position: int) -> int:
        """The row of a run's step; the first one for what came before it."""
        first = int(np.argmax(self.run == run))
        return first + max(position, 0)


def split(runs: Sequence[RecordedRun], held_out_runs: Sequence[str]) -> Split:
    """Hold out the runs of these names, else two tenths of every run."""
    sizes = [len(run.steps["tokens"]) for run in runs]
    number = np.repeat(np.arange(len(runs)), sizes)
    block = np.concatenate([np.arange(size) * BLOCKS // size for size in sizes])
    if held_out_runs:
        out = np.isin(number, [i for i, run in enumerate(runs) if run.name in held_out_runs])
        return Split(number, block, out, tuple(f"{name} (whole run)" for name in held_out_runs))
    out = np.isin(block, HELD_OUT_BLOCKS)
    names = []
    for i, run in enumerate(runs):
        index = run.steps["index"]
        for held in HELD_OUT_BLOCKS:
            inside = index[block[number == i] == held]
            names.append(f"{run.name} steps {inside[0]:.0f}-{inside[-1]:.0f}")
    return Split(number, block, out, tuple(names))
