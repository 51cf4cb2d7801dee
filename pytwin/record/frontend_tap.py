"""What the API server sees of each request's end (vLLM 0.32, v1/engine/output_processor)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from . import events as ev
from .hooks import Patch, Place, guarded, wrap
from .writer import Channel


class FrontendTap:
    """Follows one process that answers clients; its file appears with the first answer."""

    def __init__(self, place: Place) -> None:
        self.writer = place.writer
        self._place = place
        self._channel: Channel | None = None

    @guarded
    def finished(self, state: Any, reason: Any) -> None:
        """After _update_stats_from_finished()."""
        stats = state.stats
        if stats is None:
            return
        if self._channel is None:
            name = f"frontend-{os.getpid()}.jsonl"
            self._channel, run = self.writer.open(self._place.base, self._place.run, name)
            self._channel.put(ev.File(format=ev.FORMAT, run=run, t=time.monotonic()))
        self._channel.put(
            ev.Served(
                t=time.monotonic(),
                id=state.request_id,
                e2e=time.time() - stats.arrival_time,
                ttft=stats.first_token_latency or None,
                out=stats.num_generation_tokens,
                reason=str(reason),
            )
        )


def follow(place: Place) -> Patch:
    """Follows the OutputProcessor; it runs in the process that holds the clients."""
    tap = FrontendTap(place)

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def _update_stats_from_finished(
            self: Any, state: Any, reason: Any, *args: Any, **kwargs: Any
        ) -> Any:
            result = original(self, state, reason, *args, **kwargs)
            tap.finished(state, reason)
            return result

        return _update_stats_from_finished

    def patch(module: ModuleType) -> None:
        wrap(module.OutputProcessor, "_update_stats_from_finished", make)

    return patch
