"""A process with classes shaped like vLLM 0.32's, followed by the plug-in; prints its outcome.

python fake_server.py FAULT: FAULT is a word that makes something go wrong (see `main`).
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

SCHEDULER = """
    from types import SimpleNamespace as Space

    class Scheduler:
        def __init__(self, config):
            self.vllm_config, self.cache_config = config, config.cache_config
            self.scheduler_config, self.lora_config = config.scheduler_config, config.lora_config
            self.block_size, self.max_model_len = 4, 64
            self.requests, self.running, self.waiting = {}, [], []
            self.kv_holding_waiting, self.deferred_waiting = [], set()
            pool = Space(get_num_free_blocks=lambda: 11)
            self.kv_cache_manager = Space(block_pool=pool)
            self.calls = []

        def add_request(self, request):
            self.requests[request.request_id] = request
            self.waiting.append(request)

        def schedule(self, throttle_prefills=False):
            self.calls.append("schedule")
            if self.vllm_config.fault == "raise":
                raise KeyError("vLLM's own")
            new, self.waiting = self.waiting, []
            old = list(self.running)
            for request in new:
                request.at = 0
            output = Space(
                scheduled_new_reqs=[Space(req_id=r.request_id, num_computed_tokens=0) for r in new],
                scheduled_cached_reqs=Space(
                    req_ids=[r.request_id for r in old], resumed_req_ids=set(),
                    num_computed_tokens=[r.at for r in old]),
                num_scheduled_tokens={r.request_id: 1 for r in old}
                | {r.request_id: r.num_prompt_tokens for r in new})
            output.total_num_scheduled_tokens = sum(output.num_scheduled_tokens.values())
            self.running = old + new
            for request in self.running:
                request.at += output.num_scheduled_tokens[request.request_id]
            if self.vllm_config.fault == "strange output":
                del output.scheduled_cached_reqs
            return output

        def update_from_output(self, output, sampled):
            for rid in output.num_scheduled_tokens:
                request = self.requests.get(rid)
                if request is not None:
                    request.num_output_tokens += 1
                    if request.num_output_tokens == request.max_tokens:
                        request.reason = "length"
                        self._free_request(request)
            return {"sampled": sampled}

        def finish_requests(self, rid):
            self.requests[rid].reason = "abort"
            self._free_request(self.requests[rid])

        def _preempt_request(self, request, timestamp):
            self.running.remove(request)

        def _free_request(self, request, delay_free_blocks=False):
            del self.requests[request.request_id]
            self.running = [r for r in self.running if r is not request]
            return None, None

        def shutdown(self):
            self.calls.append("shutdown")
"""
WORKER_BASE = """
    class WorkerWrapperBase:
        def __init__(self, config, rank):
            self.vllm_config, self.global_rank, self.model_runner = config, rank, None
        def initialize_from_config(self, configs):
            return "initialized"
        def execute_model(self, output):
            self.apply_adapters(output)
"""
GPU_WORKER = """
    class Worker:
        def sample_tokens(self, grammar_output):
            return "tokens"
"""
WORKER_MANAGER = """
    from types import SimpleNamespace as Space

    class WorkerLoRAManager:
        def _load_adapter(self, request):
            return Space(id=request.lora_int_id, rank=8)

    class LRUCacheWorkerLoRAManager(WorkerLoRAManager):
        def __init__(self, manager):
            self.manager = manager
        def _apply_adapters(self, requests):
            for request in requests:
                if request.lora_int_id not in self.manager.registered:
                    model = self._load_adapter(request)
                    if len(self.manager.registered) == 2:
                        self.manager.remove_oldest_adapter()
                    self.manager.registered[model.id] = model
                self.manager.activate_adapter(request.lora_int_id)
"""
MODEL_MANAGER = """
    class AdapterLRUCache:
        def __init__(self, deactivate):
            self.deactivate = deactivate
        def _on_remove(self, key, value):
            self.deactivate(key)

    class LoRAModelManager:
        def __init__(self):
            self.registered, self.lora_index_to_id = {}, [None, None]
            self.cache = AdapterLRUCache(self._deactivate_adapter)
        def _deactivate_adapter(self, lora_id):
            if lora_id in self.lora_index_to_id:
                self.lora_index_to_id[self.lora_index_to_id.index(lora_id)] = None

    class LRUCacheLoRAModelManager(LoRAModelManager):
        def activate_adapter(self, lora_id):
            if lora_id in self.lora_index_to_id:
                return False
            self.lora_index_to_id[self.lora_index_to_id.index(None)] = lora_id
            return True
        def remove_oldest_adapter(self):
            oldest = next(iter(self.registered))
            self.cache._on_remove(oldest, self.registered.pop(oldest))
            return True
"""
OUTPUT_PROCESSOR = """
    class OutputProcessor:
        def _update_stats_from_finished(self, req_state, finish_reason, iteration_stats):
            return None
"""
MODULES = {
    "vllm.v1.core.sched.scheduler": SCHEDULER,
    "vllm.v1.worker.worker_base": WORKER_BASE,
    "vllm.v1.worker.gpu_worker": GPU_WORKER,
    "vllm.lora.worker_manager": WORKER_MANAGER,
    "vllm.lora.model_manager": MODEL_MANAGER,
    "vllm.v1.engine.output_processor": OUTPUT_PROCESSOR,
}


def make_package(root: Path, fault: str) -> None:
    for name, source in MODULES.items():
        path = root / Path(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        text = dedent(source)
        if fault == "another vLLM":
            text = text.replace("def shutdown", "def halt")
        path.write_text(text)
        for package in path.relative_to(root).parents:
            (root / package / "__init__.py").touch()
    (root / "vllm" / "__init__.py").write_text('__version__ = "0.32.0"\n')


def config(fault: str) -> Any:
    return SimpleNamespace(
        fault=fault,
        cache_config=SimpleNamespace(num_gpu_blocks=21, enable_prefix_caching=True, block_size=4),
        scheduler_config=SimpleNamespace(max_num_seqs=8, policy="fcfs", async_scheduling=None),
        lora_config=SimpleNamespace(max_loras=2, max_cpu_loras=2, max_lora_rank=8),
        parallel_config=SimpleNamespace(data_parallel_index=0),
        model_config=SimpleNamespace(model="tiny", dtype="float32"),
    )


def request(rid: str, lora: int | None, prompt: int, max_tokens: int) -> Any:
    made = SimpleNamespace(
        request_id=rid, num_prompt_tokens=prompt, max_tokens=max_tokens, priority=0,
        arrival_time=1000.0, num_output_tokens=0, reason="",
        block_hashes=[bytes([k]) * 32 for k in range(prompt // 4)],
        lora_request=SimpleNamespace(lora_int_id=lora, lora_name=f"l{lora}") if lora else None,
    )  # fmt: skip
    made.get_finished_reason = lambda: made.reason
    return made


def module(name: str) -> Any:
    return importlib.import_module(name)


def serve(fault: str) -> str:
    """Three requests, one of which is cancelled and one preempted; returns what vLLM returned."""
    settings = config(fault)
    worker = module("vllm.v1.worker.worker_base").WorkerWrapperBase(settings, 0)
    told = [worker.initialize_from_config([])]
    sampler = module("vllm.v1.worker.gpu_worker").Worker()
    slots = module("vllm.lora.model_manager").LRUCacheLoRAModelManager()
    loras = module("vllm.lora.worker_manager").LRUCacheWorkerLoRAManager(slots)
    processor = module("vllm.v1.engine.output_processor").OutputProcessor()
    scheduler = module("vllm.v1.core.sched.scheduler").Scheduler(settings)

    def apply_adapters(output: Any) -> None:
        batch = [scheduler.requests[rid] for rid in output.num_scheduled_tokens]
        loras._apply_adapters([r.lora_request for r in batch if r.lora_request])

    worker.apply_adapters = apply_adapters
    slots.activate_adapter(1)  # vLLM's warm-up activates dummies
    slots._deactivate_adapter(1)
    arrivals = {
        0: [request("a", 1, 9, 3)],
        1: [request("b", 2, 4, 9), request("c", None, 5, 4)],
        3: [request("d", 3, 4, 1)],
    }
    for iteration in range(6):
        for arrival in arrivals.get(iteration, ()):
            scheduler.add_request(arrival)
        if iteration == 3:
            scheduler.finish_requests("b")
        if iteration == 4:
            scheduler._preempt_request(scheduler.requests["c"], 0.0)
            scheduler.waiting.append(scheduler.requests["c"])
        output = scheduler.schedule()
        told.append(str(worker.execute_model(output)))
        told.append(sampler.sample_tokens(None))
        told.append(str(scheduler.update_from_output(output, iteration)))
    stats = SimpleNamespace(arrival_time=1.0, first_token_latency=0.5, num_generation_tokens=3)
    state = SimpleNamespace(request_id="a", stats=stats)
    processor._update_stats_from_finished(state, "length", None)
    getattr(scheduler, "shutdown", scheduler.schedule)()
    return " ".join([*told, *scheduler.calls])


def main(fault: str) -> None:
    from pytwin.record import plugin

    with tempfile.TemporaryDirectory() as root:
        make_package(Path(root), fault)
        sys.path.insert(0, root)
        if fault == "imported before":
            module("vllm.v1.core.sched.scheduler")
        plugin.register()
        plugin.register()
        heavy = sorted({"polars", "numpy", "pydantic", "pytwin._core"} & set(sys.modules))
        print("heavy", heavy)
        print("vllm", sorted(name for name in sys.modules if name.startswith("vllm")))
        try:
            print(serve(fault))
        except KeyError as error:
            print("raised", error)


if __name__ == "__main__":
    main(sys.argv[1])
