"""The case: one input for both the twin and vLLM's own scheduler.

A case is a JSON object:

* `config`: the engine's settings (`CaseConfig`; keys left out take the defaults there);
* `requests`: what arrives, and in which engine iteration (`CaseRequest`);
* `aborts`: `[{"step": int, "id": str}]`, requests cancelled by their client. An id that is
  unknown, has finished or has not arrived yet is ignored, as vLLM does;
* `lora_preload`: adapter ids that the server loads before the first iteration, in order;
* `lora_order`: `{"<iteration>": [adapter ids]}`, the order in which the worker visits the
  adapters of an iteration. vLLM walks a Python set there, so it differs between processes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pytwin.errors import PytwinError

from .versions import EngineVersion

# The vocabulary of the made-up prompts. Ids below 10 are left to stop tokens. Token values matter
# by equality alone; they are fixed so that a case means the same tokens in every program.
FIRST_TOKEN, END_TOKEN = 10, 30_000

PositiveInt = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]


class CaseError(PytwinError):
    """A case that cannot be run; the message is one line: value, rule, way out."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class CaseConfig(_Strict):
    """The engine's settings; names are vLLM's. Token counts unless said otherwise."""

    num_blocks: Annotated[int, Field(ge=2)] = 257  # KV blocks, the null block among them
    block_size: PositiveInt = 16
    max_num_seqs: PositiveInt = 64
    max_num_batched_tokens: PositiveInt = 512
    max_model_len: PositiveInt = 2048
    max_loras: Count | None = 4  # 0 or None: LoRA off
    max_cpu_loras: Count | None = None  # 0 or None: as max_loras
    enable_prefix_caching: bool = False
    policy: Literal["fcfs", "priority"] = "fcfs"
    async_scheduling: bool = False
    long_prefill_token_threshold: Count = 0
    long_prefill_token_threshold_adaptive: bool = False
    enable_chunked_prefill: bool = True
    max_num_scheduled_tokens: PositiveInt | None = None
    max_num_active_seqs: PositiveInt | None = None
    watermark: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of num_blocks
    scheduler_reserve_full_isl: bool = True

    @model_validator(mode="after")
    def _limits_agree(self) -> CaseConfig:
        if self.max_loras and self.max_cpu_loras and self.max_cpu_loras < self.max_loras:
            raise ValueError(
                f"max_cpu_loras ({self.max_cpu_loras}) must be >= max_loras ({self.max_loras})"
            )
        return self


class CaseRequest(_Strict):
    """One request. The prompt is `prompt_token_ids`, or `prompt_len` made-up tokens."""

    id: str
    arrival_step: Count  # visible to the scheduler from this iteration on
    prompt_len: PositiveInt | None = None
    prompt_token_ids: Annotated[list[Count], Field(min_length=1)] | None = None
    max_tokens: PositiveInt
    stop_at: Count | None = None  # the stop_at-th output token is a stop token; 0: none is
    lora_id: Count | None = None  # 0 or None: the base model
    priority: int = 0
    arrival_time: float | None = None  # default: rank of arrival; only `priority` reads it
    prefix_group: int | str | None = None  # requests of a group share a prefix
    prefix_len: Count | None = None  # of this many tokens

    @model_validator(mode="after")
    def _has_a_prompt(self) -> CaseRequest:
        if self.prompt_len is None and self.prompt_token_ids is None:
            raise ValueError(f"request {self.id} has no prompt: give prompt_len (tokens)")
        if self.prefix_group is not None and self.prefix_len is None:
            raise ValueError(f"request {self.id} has a prefix_group: give prefix_len (tokens)")
        return self

    def prompt_tokens(self) -> list[int]:
        """The prompt's token ids: given, or made from the request's id (and prefix group)."""
        if self.prompt_token_ids is not None:
            return list(self.prompt_token_ids)
        length = self.prompt_len or 0
        tokens = _made_up(self.id, length)
        if self.prefix_group is not None and self.prefix_len is not None:
            shared = min(self.prefix_len, length)
            tokens[:shared] = _made_up(f"group{self.prefix_group}", shared)
        return tokens


class CaseAbort(_Strict):
    """The client of request `id` goes away in iteration `step`."""

    step: Count
    id: str


class Case(BaseModel):
    """A whole case; see the module's text."""

    # A case may carry notes of its own (a seed, a preset's name); settings must all be known.
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    config: CaseConfig = CaseConfig()
    requests: list[CaseRequest]
    aborts: list[CaseAbort] = []
    lora_preload: list[PositiveInt] = []
    lora_order: dict[str, list[PositiveInt]] = {}

    @model_validator(mode="after")
    def _ids_differ(self) -> Case:
        seen: set[str] = set()
        for request in self.requests:
            if request.id in seen:
                raise ValueError(f"request id ({request.id}) occurs twice: ids must differ")
            seen.add(request.id)
        return self


DEFAULTS: dict[str, Any] = CaseConfig().model_dump()


def _made_up(seed: str, count: int) -> list[int]:
    stream = random.Random(seed)  # noqa: S311 -- repeatable, not secret
    return [stream.randrange(FIRST_TOKEN, END_TOKEN) for _ in range(count)]


def parse_case(source: str | bytes | Mapping[str, Any]) -> Case:
    """A case from JSON text or from the object it holds.

    Raises:
        CaseError: not JSON, an unknown key, a value out of range; one line.
    """
    try:
        data = json.loads(source) if isinstance(source, str | bytes) else dict(source)
    except ValueError as error:
        raise CaseError(f"the case is not JSON ({error}): give an object with requests") from None
    try:
        return Case.model_validate(data)
    except ValidationError as error:
        raise CaseError(_one_line(error)) from None


def _one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = CaseConfig.model_fields if where.startswith("config.") else None
        hint = f": known are {', '.join(known)}" if known else ": remove it"
        return f"unknown key ({where}) in the case{hint}"
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    value = "" if first["type"] == "missing" else f" ({first['input']!r:.60})"
    return f"{where}{value}: {first['msg']}" if where else f"the case{value}: {first['msg']}"


def check_version(case: Case, version: EngineVersion) -> None:
    """Refuses a case with settings that `version` lacks.

    Raises:
        CaseError: names the setting and the version.
    """
    config = case.config.model_dump()
    for name, unused in version.absent.items():
        if config[name] != unused:
            raise CaseError(
                f"{name} ({config[name]}) does not exist in engine version {version.name}: "
                f"leave it at {unused}"
            )


def materialise(case: Case, version: EngineVersion) -> dict[str, Any]:
    """The case with every default written out, as the twin and the reference take it.

    Prompts become token ids where prefix caching reads them, else only their length is passed on.

    Raises:
        CaseError: the case holds a setting that `version` lacks.
    """
    check_version(case, version)
    rank = {
        request.id: float(k)
        for k, request in enumerate(sorted(case.requests, key=lambda r: r.arrival_step))
    }
    return {
        "config": case.config.model_dump(),
        "requests": [
            _materialised(request, rank[request.id], case.config.enable_prefix_caching)
            for request in case.requests
        ],
        "aborts": [abort.model_dump() for abort in case.aborts],
        "lora_preload": list(case.lora_preload),
        "lora_order": dict(case.lora_order),
    }


def _materialised(request: CaseRequest, rank: float, tokens_matter: bool) -> dict[str, Any]:
    out: dict[str, Any] = {"id": request.id, "arrival_step": request.arrival_step}
    if tokens_matter:
        out["prompt_token_ids"] = request.prompt_tokens()
    elif request.prompt_token_ids is not None:
        out["prompt_len"] = len(request.prompt_token_ids)
    else:
        out["prompt_len"] = request.prompt_len
    out["max_tokens"] = request.max_tokens
    out["stop_at"] = request.stop_at
    out["lora_id"] = request.lora_id or None
    out["priority"] = request.priority
    out["arrival_time"] = rank if request.arrival_time is None else request.arrival_time
    return out
