"""vLLM's own scheduler and LoRA caches, without a model, followed by the plug-in.

python lite_engine.py SOURCES RUNNER < cases: one materialised case a line; each is recorded.
RUNNER 2 makes the scheduler label resumed requests as for vLLM's second model runner.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pytwin.record import plugin, worker_tap


def main(sources: Path, runner: str) -> None:
    from pytwin.conformance.reference import engine, lora, settings
    from pytwin.conformance.reference import release as releases
    from pytwin.conformance.reference.release import load_release

    taps: list[Any] = worker_tap._current
    stand_in = SimpleNamespace(
        vllm_config=SimpleNamespace(parallel_config=SimpleNamespace(data_parallel_index=0)),
        global_rank=0,
        model_runner=None,
    )

    class Worker(lora.LoRAWorker):
        """The harness's worker: loads nothing, so the tap of loading is called by hand."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            load = self._worker._load_adapter

            def loaded(request: Any) -> Any:
                model = load(request)
                taps[-1].loaded(request.lora_int_id, 8, time.monotonic(), 0.0)
                return model

            self._worker._load_adapter = loaded

    class Engine(engine.Engine):
        def _record_lora(self, record: Any, output: Any, worker: Any) -> None:
            """Its place in a step is execute_model()'s."""
            t = time.monotonic()
            if output.total_num_scheduled_tokens:
                taps[-1].begin()
            super()._record_lora(record, output, worker)
            if output.total_num_scheduled_tokens:
                taps[-1].executed(output, t, time.monotonic() - t, True)

    def vllm_config(config: Any) -> Any:
        made = settings.vllm_config(config)
        made.use_v2_model_runner = runner == "2"
        return made

    releases.vllm_config = vllm_config
    engine.LoRAWorker = Worker  # type: ignore[misc]
    release = load_release(sources)
    plugin.register()  # after the harness's own import hook
    place = plugin._PLACES[-1]
    for line in sys.stdin:
        taps.append(worker_tap.WorkerTap(place, stand_in))
        for record in Engine(json.loads(line), release).trace():
            last = record
        print(json.dumps(last), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
