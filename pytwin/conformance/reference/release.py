"""What the harness takes from a release of vLLM: one class per shape of its internals."""

# ruff: noqa: ARG005, SLF001 -- the harness reaches into vLLM's internals by its nature

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .settings import vllm_config
from .stubs import install

Config = Mapping[str, Any]


class Release:
    """vLLM 0.32 (and releases that still look like it)."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.scheduler_module = import_module("vllm.v1.core.sched.scheduler")
        self.request_module = import_module("vllm.v1.request")
        self.kv_interface = import_module("vllm.v1.kv_cache_interface")
        self.outputs = import_module("vllm.v1.outputs")
        self.LoRARequest: Any = import_module("vllm.lora.request").LoRARequest
        self.worker_manager = import_module("vllm.lora.worker_manager")
        self.RequestStatus: Any = self.request_module.RequestStatus
        self._load_own()

    def _load_own(self) -> None:
        self.lora_manager = import_module("vllm.lora.model_manager")
        self.async_scheduler = import_module("vllm.v1.core.sched.async_scheduler")
        self.kv_utils = import_module("vllm.v1.core.kv_cache_utils")
        self.hashing = import_module("vllm.utils.hashing")
        self.adapter_cache: Any = self.lora_manager.AdapterLRUCache

    def scheduler(self, config: Config, preempted: list[str]) -> Any:
        """A scheduler for `config` that appends the id of every victim to `preempted`."""
        base = (
            self.async_scheduler.AsyncScheduler
            if config["async_scheduling"]
            else self.scheduler_module.Scheduler
        )

        class Recording(base):  # type: ignore[misc, valid-type]
            def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
                preempted.append(request.request_id)
                return super()._preempt_request(request, *args, **kwargs)

        no_grammar = SimpleNamespace(
            accept_tokens=lambda *args: True, validate_tokens=lambda request, tokens: tokens
        )
        return Recording(
            vllm_config(config),
            self._kv_cache(config),
            no_grammar,
            block_size=config["block_size"],
            log_stats=False,
        )

    def _kv_cache(self, config: Config) -> Any:
        spec = self.kv_interface.FullAttentionSpec(
            block_size=config["block_size"], num_kv_heads=1, head_size=1, dtype="float32"
        )
        return self.kv_interface.KVCacheConfig(
            num_blocks=config["num_blocks"],
            kv_cache_tensors=[],
            kv_cache_groups=[self.kv_interface.KVCacheGroupSpec(["layer"], spec)],
        )

    def block_hasher(self, config: Config) -> Any:
        """What turns tokens into block hashes, or None."""
        if not config["enable_prefix_caching"]:
            return None
        function = self.hashing.get_hash_fn_by_name("sha256")
        self.kv_utils.init_none_hash(function)
        return self.kv_utils.get_request_block_hasher(config["block_size"], function)

    def request(
        self,
        case_request: Mapping[str, Any],
        prompt: list[int],
        sampling: Any,
        lora: Any,
        block_hasher: Any,
    ) -> Any:
        """vLLM's Request."""
        return self.request_module.Request(
            request_id=case_request["id"],
            prompt_token_ids=prompt,
            sampling_params=sampling,
            pooling_params=None,
            lora_request=lora,
            priority=case_request["priority"],
            arrival_time=case_request["arrival_time"],
            block_hasher=block_hasher,
        )

    def model_output(self, ids: Sequence[str], tokens: list[list[int]]) -> Any:
        """What a worker returns: sampled token ids per request of the batch."""
        return self.outputs.ModelRunnerOutput(
            req_ids=list(ids),
            req_id_to_index={rid: k for k, rid in enumerate(ids)},
            sampled_token_ids=tokens,
            prompt_logprobs_dict={},
            pooler_output=None,
        )

    def yields_token(self, request: Any) -> bool:
        """Whether the step that schedule() has just decided completes the request's prefill."""
        return not request.is_prefill_chunk

    def block_table(self, scheduler: Any, request_id: str) -> list[int]:
        """The block ids of a request, in order."""
        return list(scheduler.kv_cache_manager.get_block_ids(request_id)[0])

    def waiting(self, scheduler: Any) -> list[str]:
        """The ids of the waiting requests, in vLLM's order."""
        queues = (scheduler.kv_holding_waiting, scheduler.waiting)
        return [request.request_id for queue in queues for request in queue]

    def free_blocks_head(self, scheduler: Any, count: int) -> list[int]:
        """The ids of the next `count` blocks to be handed out."""
        block = scheduler.kv_cache_manager.block_pool.free_block_queue
        block = self._first_free(block)
        head: list[int] = []
        while block is not None and block.block_id >= 0 and len(head) < count:
            head.append(block.block_id)
            block = block.next_free_block
        return head

    def _first_free(self, queue: Any) -> Any:
        return queue.fake_free_list_head.next_free_block

    def init_lora_caches(self, manager: Any) -> None:
        """What LRUCacheLoRAModelManager.__init__ does, less the model."""
        manager._registered_adapters = self.adapter_cache(
            manager.capacity, manager.deactivate_adapter
        )
        manager._active_adapters = self.adapter_cache(
            manager.lora_slots, manager._deactivate_adapter
        )


class Release085(Release):
    """vLLM 0.8.5, V1 engine."""

    def _load_own(self) -> None:
        self.lora_manager = import_module("vllm.lora.models")
        self.adapter_cache = self.lora_manager.LoRALRUCache

    def scheduler(self, config: Config, preempted: list[str]) -> Any:
        no_grammar = SimpleNamespace(grammar_bitmask=lambda *args: None)
        scheduler = self.scheduler_module.Scheduler(
            vllm_config(config), self._kv_cache(config), no_grammar, log_stats=False
        )
        # Preemption is written out inside schedule(): its order is that in which the blocks of
        # requests that still run are freed.
        free = scheduler.kv_cache_manager.free

        def recording_free(request: Any) -> None:
            if request.status == self.RequestStatus.RUNNING:
                preempted.append(request.request_id)
            free(request)

        scheduler.kv_cache_manager.free = recording_free
        return scheduler

    def _kv_cache(self, config: Config) -> Any:
        spec = self.kv_interface.FullAttentionSpec(
            block_size=config["block_size"],
            num_kv_heads=1,
            head_size=1,
            dtype="float32",
            use_mla=False,
        )
        return self.kv_interface.KVCacheConfig(
            num_blocks=config["num_blocks"],
            tensors={},
            kv_cache_groups=[self.kv_interface.KVCacheGroupSpec(["layer"], spec)],
        )

    def block_hasher(self, config: Config) -> Any:
        return None  # the KV-cache manager hashes by itself

    def request(
        self,
        case_request: Mapping[str, Any],
        prompt: list[int],
        sampling: Any,
        lora: Any,
        block_hasher: Any,
    ) -> Any:
        return self.request_module.Request(
            request_id=case_request["id"],
            prompt_token_ids=prompt,
            multi_modal_inputs=None,
            multi_modal_hashes=None,
            multi_modal_placeholders=None,
            sampling_params=sampling,
            eos_token_id=None,
            arrival_time=case_request["arrival_time"],
            lora_request=lora,
        )

    def model_output(self, ids: Sequence[str], tokens: list[list[int]]) -> Any:
        return self.outputs.ModelRunnerOutput(
            req_ids=list(ids),
            req_id_to_index={rid: k for k, rid in enumerate(ids)},
            sampled_token_ids=tokens,
            spec_token_ids=None,
            logprobs=None,
            prompt_logprobs_dict={},
        )

    def yields_token(self, request: Any) -> bool:
        return bool(request.num_computed_tokens >= request.num_tokens)

    def block_table(self, scheduler: Any, request_id: str) -> list[int]:
        return [b.block_id for b in scheduler.kv_cache_manager.req_to_blocks[request_id]]

    def waiting(self, scheduler: Any) -> list[str]:
        return [request.request_id for request in scheduler.waiting]

    def _first_free(self, queue: Any) -> Any:
        return queue.free_list_head


def load_release(root: Path) -> Release:
    """vLLM's modules from the unpacked wheel under `root`, with the fitting glue.

    Raises:
        ImportError: the files are not there, or import something that the hook does not know.
    """
    core = root / "vllm" / "v1" / "core"
    if not (core / "sched" / "scheduler.py").exists():
        raise ImportError(f"no scheduler in {core}")
    install(root)
    has_old_manager = (core / "specialized_manager.py").exists()
    return Release085(root.name) if has_old_manager else Release(root.name)
