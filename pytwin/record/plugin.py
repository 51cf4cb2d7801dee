"""The plug-in that vLLM loads (entry point `vllm.general_plugins`): off unless asked for.

vLLM calls `register` in each of its processes: API server, engine core, workers. With
`PYTWIN_RECORD=DIR` it arranges that vLLM's own methods are followed as soon as their modules are
imported; nothing is imported for it, and nothing of vLLM's behaviour changes. Every fault of the
recorder ends the recording with one line in the log; none reaches the server.

* `PYTWIN_RECORD`: the directory; each server makes one of its own below it.
* `PYTWIN_RECORD_MAX_MB`: the recording ends when it has become this large (default 4096).
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .hooks import Place

DIRECTORY = "PYTWIN_RECORD"
MAX_MB = "PYTWIN_RECORD_MAX_MB"
DEFAULT_MAX_MB = 4096
_RUN = "PYTWIN_RECORD_RUN_ID"  # set by the first process, inherited by the others
_LOG = logging.getLogger("vllm.pytwin.record")
_registered = False
_PLACES: list[Place] = []  # where this process records: one, once registered


def register() -> None:
    """Starts following vLLM in this process; does nothing unless `PYTWIN_RECORD` is set."""
    global _registered  # noqa: PLW0603 -- vLLM may call more than once in a process
    if _registered or not os.environ.get(DIRECTORY):
        return
    _registered = True
    try:
        run = os.environ.setdefault(_RUN, time.strftime("%Y%m%dT%H%M%S-") + str(os.getpid()))
        _follow(os.environ[DIRECTORY], run, _max_mb())
    except Exception as error:
        _LOG.warning("pytwin record: not recording (%s)", error)


def _max_mb() -> int:
    text = os.environ.get(MAX_MB, "")
    if text and (not text.isdigit() or int(text) < 1):
        raise ValueError(f"{MAX_MB} ({text}) must be a whole number of MiB >= 1")
    return int(text or DEFAULT_MAX_MB)


def _follow(directory: str, run: str, max_mb: int) -> None:
    from pathlib import Path

    from . import engine_tap, frontend_tap, worker_tap
    from .hooks import Place, when_imported
    from .writer import Writer

    place = Place(Path(directory).absolute(), run, Writer(max_mb << 20))
    _PLACES.append(place)
    when_imported({
        "vllm.v1.core.sched.scheduler": engine_tap.follow(place),
        "vllm.v1.worker.worker_base": worker_tap.follow_steps(place),
        "vllm.v1.worker.gpu_worker": worker_tap.follow_sampling(place),
        "vllm.lora.worker_manager": worker_tap.follow_loads(place),
        "vllm.lora.model_manager": worker_tap.follow_slots(place),
        "vllm.v1.engine.output_processor": frontend_tap.follow(place),
    }, on_error=place.writer.fail)  # fmt: skip
