"""What the recorder costs the engine core per step, by batch size: the best of ten rounds.

    python experiments/cpu-campaign/recorder_cost.py

The recorder's own methods on stand-ins of vLLM's objects, batches of decodes with 32 adapters.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace as Space

from pytwin.record.engine_tap import EngineTap
from pytwin.record.hooks import Place
from pytwin.record.writer import Writer

ROUNDS, STEPS = 10, 100


def scheduler(running: int) -> Space:
    return Space(
        vllm_config=Space(
            scheduler_config=Space(), parallel_config=Space(), model_config=Space(),
            lora_config=None,
        ),
        cache_config=Space(num_gpu_blocks=1000, enable_prefix_caching=False),
        scheduler_config=Space(), lora_config=None, block_size=16, max_model_len=4096,
        running=[None] * running, waiting=[], kv_holding_waiting=[], deferred_waiting=set(),
        kv_cache_manager=Space(block_pool=Space(get_num_free_blocks=lambda: 3)),
    )  # fmt: skip


def request(name: str, adapter: int) -> Space:
    return Space(
        request_id=name, lora_request=Space(lora_int_id=adapter, lora_name=f"lora{adapter}"),
        arrival_time=0.0, num_prompt_tokens=100, max_tokens=100, priority=0,
    )  # fmt: skip


def cost(batch: int, directory: Path) -> tuple[float, float]:
    """Microseconds and bytes per step."""
    writer = Writer(1 << 40)
    tap = EngineTap(Place(directory, "run", writer), scheduler(batch))
    names = [f"cmpl-{k:032x}-0-0123abcd" for k in range(batch)]
    for k, name in enumerate(names):
        tap.arrived(request(name, k % 32 + 1))
    rounds = []
    for number in range(ROUNDS):
        writer.cost_s = 0.0
        for step in range(STEPS):
            first = 100 + number * STEPS + step
            cached = Space(
                req_ids=names, num_computed_tokens=[first] * batch, resumed_req_ids=set()
            )
            output = Space(
                num_scheduled_tokens=dict.fromkeys(names, 1), total_num_scheduled_tokens=batch,
                scheduled_new_reqs=[], scheduled_cached_reqs=cached,
            )  # fmt: skip
            tap.scheduled(output, 1.0, 2.0)
            tap.updating()
            tap.updated(output, 3.0, 4.0)
        rounds.append(writer.cost_s / STEPS)
        writer.flush()
    assert writer.active  # noqa: S101
    writer.close()
    size = (directory / "run" / "steps.jsonl").stat().st_size
    return 1e6 * min(rounds), size / (ROUNDS * STEPS)


def main() -> None:
    print("| batch | microseconds per step | bytes per step |\n| --: | --: | --: |")
    for batch in (1, 16, 64, 256, 1024):
        with tempfile.TemporaryDirectory() as directory:
            microseconds, size = cost(batch, Path(directory))
        print(f"| {batch} | {microseconds:.1f} | {size:,.0f} |")


if __name__ == "__main__":
    main()
