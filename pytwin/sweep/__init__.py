"""Many configurations: from a specification to one frame.

    spec = pytwin.sweep.load_spec("spec.yaml")
    pytwin.sweep.run_sweep(spec, "out/first")
    frame = pytwin.sweep.open("out/first").collect()

On the command line: ``pytwin sweep spec.yaml -o out/first``, or ``python -m pytwin.sweep``.
"""

from __future__ import annotations

import importlib
from os import PathLike
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

    from pytwin.sweep.expand import Design as Design
    from pytwin.sweep.runner import SweepResult as SweepResult
    from pytwin.sweep.runner import run_sweep as run_sweep
    from pytwin.sweep.spec import SweepSpec as SweepSpec
    from pytwin.sweep.spec import load_spec as load_spec
    from pytwin.sweep.spec import parse_spec as parse_spec

_HOMES = {
    "Design": "pytwin.sweep.expand",
    "SweepResult": "pytwin.sweep.runner",
    "SweepSpec": "pytwin.sweep.spec",
    "load_spec": "pytwin.sweep.spec",
    "parse_spec": "pytwin.sweep.spec",
    "run_sweep": "pytwin.sweep.runner",
}

__all__ = [*_HOMES, "open"]  # noqa: PLE0604 - all are strings


def open(directory: str | PathLike[str]) -> pl.LazyFrame:  # noqa: A001 - pytwin.sweep.open(DIR)
    """The results of a sweep as one lazy frame, in row order.

    An unfinished sweep gives the parts that are there.

    Raises
    ------
    DataError: no sweep lies there, or none of its parts is finished.
    """
    from pathlib import Path

    import polars as pl

    from pytwin.errors import DataError
    from pytwin.sweep.manifest import read_manifest

    path = Path(directory)
    read_manifest(path)
    parts = sorted(path.glob("part-*.parquet"))
    if not parts:
        raise DataError(f"{path} holds no finished part: run its sweep with --resume")
    return pl.scan_parquet(parts)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'pytwin.sweep' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
