"""vLLM's own two LRU tiers of adapters (CPU cache and GPU slots), with the tensors taken out."""

# ruff: noqa: SLF001 -- the harness reaches into vLLM's internals by its nature

from __future__ import annotations

from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

from .release import Release


def adapter(release: Release, lora_id: int) -> Any:
    """vLLM's LoRARequest of adapter `lora_id`."""
    return release.LoRARequest(lora_name=f"lora{lora_id}", lora_int_id=lora_id, lora_path="/none")


class LoRAWorker:
    """LRUCacheWorkerLoRAManager over LRUCacheLoRAModelManager; loading gives empty objects.

    Args:
        release: vLLM's modules.
        max_loras: GPU slots.
        max_cpu_loras: adapters that the CPU cache holds.
    """

    def __init__(self, release: Release, max_loras: int, max_cpu_loras: int) -> None:
        events: list[list[Any]] = []
        manager_base: Any = release.lora_manager.LRUCacheLoRAModelManager
        worker_base: Any = release.worker_manager.LRUCacheWorkerLoRAManager

        class Manager(manager_base):  # type: ignore[misc]
            def __init__(self) -> None:  # vLLM's own would need a model
                self.lora_config = SimpleNamespace(max_loras=max_loras, max_cpu_loras=max_cpu_loras)
                release.init_lora_caches(self)
                self.lora_index_to_id: list[int | None] = [None] * self.lora_slots
                self.modules: dict[str, Any] = {}

            def _add_adapter(self, lora: Any) -> None:
                self._registered_adapters[lora.id] = lora

            def activate_adapter(self, lora_id: int) -> bool:
                done = bool(super().activate_adapter(lora_id))
                if done:
                    events.append(["activate", lora_id, self.lora_index_to_id.index(lora_id)])
                return done

            def _deactivate_adapter(self, lora_id: int) -> None:
                if lora_id in self.lora_index_to_id:
                    events.append(["deactivate", lora_id])
                super()._deactivate_adapter(lora_id)

            def remove_oldest_adapter(self) -> bool:
                events.append(["evict_cpu", next(iter(self._registered_adapters.order))])
                return bool(super().remove_oldest_adapter())

        class Worker(worker_base):  # type: ignore[misc]
            def __init__(self) -> None:
                self._adapter_manager = Manager()

            def _load_adapter(self, lora_request: Any) -> SimpleNamespace:
                events.append(["load", lora_request.lora_int_id])
                return SimpleNamespace(id=lora_request.lora_int_id, scaling_factor=None)

        self._release = release
        self._events = events
        self._worker = Worker()
        self._manager = self._worker._adapter_manager

    def preload(self, lora_id: int) -> None:
        """What `vllm serve --lora-modules` does at start-up for one adapter."""
        self._worker.add_adapter(adapter(self._release, lora_id))

    def apply(self, adapters: Collection[Any]) -> dict[str, Any]:
        """The start of a step: `adapters` is a set, or a list where the order is given."""
        self._events.clear()
        order = [request.lora_int_id for request in adapters]  # a set's own order
        self._worker._apply_adapters(adapters)
        return {
            "lora_order": order,
            "lora_events": [list(event) for event in self._events],
            "lora_slots": list(self._manager.lora_index_to_id),
            "lora_gpu_lru": list(self._manager._active_adapters.order),
            "lora_cpu_lru": list(self._manager._registered_adapters.order),
        }
