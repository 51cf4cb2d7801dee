"""The simulated server: vLLM's settings under vLLM's names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pytwin.catalog import Profile, load_profile
from pytwin.errors import ConfigError, one_line

ENGINE_VERSIONS = {"0.8.5": "0.8.5", "0.32": "0.32", "0.32.0": "0.32"}
"""Accepted spellings of an engine version -> the one the core knows."""

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM accepts as max_lora_rank."""

POLICIES: dict[str, Any] = {
    "lora_eviction": "lru",
    "lfu_half_life_s": 300.0,
    "pinned_loras": (),
    "lora_loading": "blocking",
    "admission_ageing_s": None,
}
"""What-if rules and their neutral values, which are vLLM's."""

_GIB = 1024**3

# Settings whose neutral value is the only one that 0.8.5 (V1) knows: vLLM 0.8.5 has no such
# option, or its V1 engine ignores it (vLLM 0.8.5, v1/core/sched/scheduler.py).
_ABSENT_IN_0_8_5: dict[str, Any] = {
    "async_scheduling": False,
    "scheduling_policy": "fcfs",
    "enable_chunked_prefill": True,
    "max_num_scheduled_tokens": None,
    "max_num_active_seqs": None,
    "long_prefill_token_threshold_adaptive": False,
    "watermark": 0.0,
}


def engine_defaults(engine_version: str, gpu_bytes: float) -> dict[str, Any]:
    """vLLM's own defaults for `vllm serve`, by engine version and GPU memory in bytes.

    Source: ``EngineArgs.get_batch_defaults`` (0.32) and ``_set_default_args_v1`` (0.8.5).
    Asynchronous scheduling is on by default in 0.32 on a GPU.
    """
    new = engine_version == "0.32"
    if new and gpu_bytes >= 160 * _GIB:
        tokens, seqs = 16384, 1024
    elif gpu_bytes >= 70 * _GIB:
        tokens, seqs = 8192, 1024
    else:
        tokens, seqs = 2048, 256
    return {
        "max_num_seqs": seqs,
        "max_num_batched_tokens": tokens,
        "max_num_scheduled_tokens": None,
        "max_num_active_seqs": None,
        "block_size": 16,
        "gpu_memory_utilization": 0.92 if new else 0.9,
        "enable_prefix_caching": True,
        "enable_chunked_prefill": True,
        "scheduling_policy": "fcfs",
        "async_scheduling": new,
        "long_prefill_token_threshold": 0,
        "long_prefill_token_threshold_adaptive": False,
        "scheduler_reserve_full_isl": new,
        "watermark": 0.0,
        "num_gpu_blocks_override": None,
        "max_connections": None,
        "lora_preload": True,
        "metrics_poll_s": None,
    }


class EngineConfig(BaseModel):
    """A vLLM server with LoRA adapters: a profile and vLLM's settings.

    A field left out takes the profile's server setting, else vLLM's default for the engine
    version. Counts are numbers of things, lengths are tokens.

    Parameters
    ----------
    profile: name of a shipped profile, or the path of a profile JSON.
    engine_version: "0.8.5" or "0.32" ("0.32.0"); the profile's own if left out. Another
        version than the profile's is allowed and marks results as extrapolated.
    max_loras: adapter slots on the GPU (`--max-loras`); 0 turns LoRA off. Left out: vLLM's
        default 1 when the workload holds adapters, else 0.
    max_cpu_loras: adapters kept in host memory, >= max_loras; left out: max_loras.
    max_lora_rank: rank of every slot, one of 1, 8, 16, 32, 64, 128, 256, 320, 512.
    max_connections: requests the front end holds at once; further ones are refused.
    lora_preload: adapters are loaded once, in order, before the traffic starts, as
        `vllm serve --lora-modules` does.
    metrics_poll_s: pause in seconds between a client's polls of /metrics, whose answers keep the
        API server busy; None for no polls.
    lora_eviction: a what-if, not vLLM's: who gives up a slot or a place in host memory. "lru"
        (vLLM), "lfu" (fewest uses, which count half after lfu_half_life_s), "cost_aware"
        (GreedyDual: uses times reload time), "clairvoyant" (Belady: a bound, it knows the future).
    lfu_half_life_s: half-life of the uses that "lfu" and "cost_aware" count, in seconds.
    pinned_loras: a what-if: adapters, by number, that keep their slots for as long as batches leave
        others to evict.
    lora_loading: "blocking" (vLLM), or the what-if "overlapped": loads beside the step's compute.
    admission_ageing_s: a what-if: after so many seconds a request that waits for a slot makes
        another adapter give one up; None (vLLM) for never.

    Raises
    ------
    ConfigError: one line with the value, the rule and the way out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    profile: str
    engine_version: str | None = None
    max_loras: int | None = Field(default=None, ge=0, le=65_536)
    max_cpu_loras: int | None = Field(default=None, ge=0, le=1_000_000)
    max_lora_rank: int = 16
    max_num_seqs: int | None = Field(default=None, ge=1, le=1_000_000)
    max_num_batched_tokens: int | None = Field(default=None, ge=1, le=10_000_000)
    max_num_scheduled_tokens: int | None = Field(default=None, ge=1)
    max_num_active_seqs: int | None = Field(default=None, ge=1)
    block_size: int | None = Field(default=None, ge=1, le=1024)
    gpu_memory_utilization: float | None = Field(default=None, gt=0.0, le=1.0)
    enable_prefix_caching: bool | None = None
    enable_chunked_prefill: bool | None = None
    scheduling_policy: Literal["fcfs", "priority"] | None = None
    async_scheduling: bool | None = None
    long_prefill_token_threshold: int | None = Field(default=None, ge=0)
    long_prefill_token_threshold_adaptive: bool | None = None
    scheduler_reserve_full_isl: bool | None = None
    watermark: float | None = Field(default=None, ge=0.0, lt=1.0)
    max_model_len: int | None = Field(default=None, ge=2, le=100_000_000)
    num_gpu_blocks_override: int | None = Field(default=None, ge=2)
    max_connections: int | None = Field(default=None, ge=1)
    lora_preload: bool | None = None
    metrics_poll_s: float | None = Field(default=None, gt=0.0)
    lora_eviction: Literal["lru", "lfu", "cost_aware", "clairvoyant"] | None = None
    lfu_half_life_s: float | None = Field(default=None, gt=0.0)
    pinned_loras: tuple[int, ...] | None = None
    lora_loading: Literal["blocking", "overlapped"] | None = None
    admission_ageing_s: float | None = Field(default=None, ge=0.0, le=1e6)

    if not TYPE_CHECKING:  # the checker keeps the fields' types; pydantic's error becomes one line

        def __init__(self, **settings: Any) -> None:
            try:
                super().__init__(**settings)
            except ValidationError as error:
                raise ConfigError(one_line(error)) from None

    @field_validator("engine_version", mode="before")
    @classmethod
    def _known_version(cls, version: object) -> object:
        if version is None:
            return None
        known = ENGINE_VERSIONS.get(str(version))
        if known is None:
            raise ValueError(
                f"engine_version ({version}) must be one of {', '.join(ENGINE_VERSIONS)}"
            )
        return known

    @field_validator("max_lora_rank")
    @classmethod
    def _allowed_rank(cls, rank: int) -> int:
        if rank not in LORA_RANKS:
            allowed = ", ".join(map(str, LORA_RANKS))
            raise ValueError(f"max_lora_rank ({rank}) must be one of {allowed}, as in vLLM")
        return rank

    @field_validator("pinned_loras")
    @classmethod
    def _pinned(cls, pinned: tuple[int, ...] | None) -> tuple[int, ...] | None:
        for adapter in pinned or ():
            if adapter < 1:
                raise ValueError(f"pinned_loras ({adapter}) must be adapters, from 1 on")
        return None if pinned is None else tuple(sorted(set(pinned)))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        profile = load_profile(self.profile)
        version = self.engine_version or profile.engine_version
        if version not in ENGINE_VERSIONS.values():
            raise ValueError(
                f"engine_version ({version}) of profile {profile.name} is unknown: "
                f"set engine_version to one of {', '.join(ENGINE_VERSIONS)}"
            )
        if self.max_cpu_loras is not None and self.max_cpu_loras < (self.max_loras or 0):
            raise ValueError(
                f"max_cpu_loras ({self.max_cpu_loras}) must be >= max_loras ({self.max_loras})"
            )
        if version == "0.8.5":
            self._refuse_what_0_8_5_lacks()
        settings = self.resolved()
        seqs, tokens = settings["max_num_seqs"], settings["max_num_batched_tokens"]
        if tokens < seqs:
            raise ValueError(
                f"max_num_batched_tokens ({tokens}) must be >= max_num_seqs ({seqs}), as in vLLM"
            )
        if settings["max_model_len"] is None:
            raise ValueError(
                f"max_model_len is unknown: profile {profile.name} states none, so set it"
            )
        longest = settings["max_model_len"]
        if not settings["enable_chunked_prefill"] and tokens < longest:
            raise ValueError(
                f"max_num_batched_tokens ({tokens}) must be >= max_model_len ({longest}) "
                "without chunked prefill"
            )
        return self

    def _refuse_what_0_8_5_lacks(self) -> None:
        for name, neutral in _ABSENT_IN_0_8_5.items():
            value = getattr(self, name)
            if value is not None and value != neutral:
                raise ValueError(
                    f"{name} ({value}) does not exist in engine_version 0.8.5 (V1): "
                    "leave it out, or set engine_version to 0.32"
                )

    @property
    def loaded_profile(self) -> Profile:
        """The profile, read."""
        return load_profile(self.profile)

    def replace(self, **changes: Any) -> EngineConfig:
        """A copy with some settings changed, checked anew."""
        return EngineConfig(**{**self.model_dump(exclude_unset=True), **changes})

    def resolved(self, *, has_adapters: bool = True) -> dict[str, Any]:
        """Every setting with its value, as the core reads it.

        `has_adapters` decides what `max_loras` left out means: 1, or 0 (LoRA off).
        """
        profile = self.loaded_profile
        version = self.engine_version or profile.engine_version
        settings = engine_defaults(version, profile.gpu_bytes)
        settings["max_model_len"] = None
        measured = profile.server
        settings.update((key, value) for key, value in measured.items() if key in settings)
        own = {"profile", "engine_version", "max_loras", "max_cpu_loras", *POLICIES}
        given = self.model_dump(exclude=own, exclude_none=True)
        settings.update(given)
        if version == "0.8.5":
            settings.update(scheduler_reserve_full_isl=False, async_scheduling=False)
        max_loras = (1 if has_adapters else 0) if self.max_loras is None else self.max_loras
        max_cpu_loras = max_loras if self.max_cpu_loras is None else self.max_cpu_loras
        policies = POLICIES | self.what_ifs
        return {
            "engine_version": version,
            "max_loras": max_loras,
            "max_cpu_loras": max_cpu_loras,
            **settings,
            "policies": policies | {"pinned_loras": list(policies["pinned_loras"])},
        }

    @property
    def what_ifs(self) -> dict[str, Any]:
        """The what-if rules that are set, by name; empty on a server that vLLM could be."""
        given = {name: getattr(self, name) for name in POLICIES}
        return {
            name: value
            for name, value in given.items()
            if value is not None and value != POLICIES[name]
        }
