"""The lines of a recording, one JSON object each; the key `e` says which.

A recording is a directory of JSON-lines files:

* `steps.jsonl`, engine core: `header`, then a `step` per iteration that held anything;
* `requests.jsonl`, engine core: `file`, then `req`, `abort`, `adapter`;
* `worker.jsonl`, the first worker: `file`, `worker`, then `exec`, `sample`, `gpu`, `lora_*`;
* `frontend-PID.jsonl`, an API server that answered something: `file`, `served`.

Any of them may hold `mark` and end in `end`.

Times `t...` are seconds of the machine's monotonic clock, one clock for all its processes; `unix`
and `arrival` are seconds since 1970. `dt` are seconds, counts are tokens, blocks or requests.

Format 0 is what earlier recorders wrote: no `file`, `worker`, `mark` and `end`. Format 1
is this one.
"""

from __future__ import annotations

from typing import Any

import msgspec

FORMAT = 1
READABLE = (0, 1)

# id, tokens in this step, first position, N (new) | R (resumed after preemption) | C (continued)
Scheduled = tuple[str, int, int, str]


class Header(msgspec.Struct, tag_field="e", tag="header"):
    """What the server was: settings, model, device. First line of steps.jsonl."""

    vllm: str
    config: dict[str, Any]  # the keys of a conformance case
    t: float = 0.0
    unix: float = 0.0
    scheduler: str = "Scheduler"
    format: int = 0
    run: str = ""  # every file of a recording names the same run
    pytwin: str = ""  # version of the recorder
    server: dict[str, Any] = {}  # every other setting, by vLLM's names
    model: dict[str, Any] = {}  # name, dtype, quantization and the shapes of config.json
    lora: dict[str, Any] = {}
    kv: dict[str, Any] = {}  # blocks, capacity in tokens, bytes
    unmodelled: list[str] = []  # features in use that pytwin does not model


class File(msgspec.Struct, tag_field="e", tag="file"):
    """First line of the other files."""

    format: int
    run: str
    t: float = 0.0


class Step(msgspec.Struct, tag_field="e", tag="step"):
    """One schedule() with its update_from_output()."""

    i: int  # the engine's iteration; those without a batch count, and leave no line
    t0: float  # schedule(): start, end
    t1: float
    added: list[str]  # requests that arrived since the last schedule()
    sched: list[Scheduled]  # the batch, in its order
    tokens: int
    preempted: list[str]  # in the order of preemption
    nrun: int
    nwait: int
    free: int  # KV blocks, after schedule()
    loras: list[int]  # adapters of the batch, ascending
    nskip: int = 0  # of these, passed over at least once, mostly for max_loras
    t2: float | None = None  # update_from_output(): start, end; null: the server ended before
    t3: float | None = None
    fin: dict[str, tuple[str, int]] = {}  # id -> reason, output tokens


class Req(msgspec.Struct, tag_field="e", tag="req"):
    """A request reached the scheduler."""

    t: float
    id: str
    step: int  # the next schedule()
    arrival: float  # at the API server
    prompt: int
    max_tokens: int
    priority: int = 0
    lora: int | None = None
    blocks: list[str] | None = None  # hash per full block of the prompt, chained; prefix caching


class Abort(msgspec.Struct, tag_field="e", tag="abort"):
    """A request was cancelled before it ended: the client left, or a stop string was found."""

    t: float
    id: str
    step: int  # the next schedule()
    reason: str = "abort"
    out: int = 0  # tokens made by then


class Adapter(msgspec.Struct, tag_field="e", tag="adapter"):
    """An adapter's name, when its first request arrives."""

    id: int
    name: str


class Worker(msgspec.Struct, tag_field="e", tag="worker"):
    """What the worker runs on; bytes. Unknown values are absent."""

    rank: int = 0
    device: str = ""
    device_memory: int | None = None
    weights: int | None = None  # of the model, LoRA slots left out
    lora: int | None = None  # all slots together
    kv: int | None = None  # KV cache
    torch: str = ""
    threads: int | None = None
    started: int = 0  # forward passes made before recording began


class Exec(msgspec.Struct, tag_field="e", tag="exec"):
    """One execute_model() of the worker; host time."""

    k: int
    t: float
    dt: float
    tokens: int
    reqs: int = 0
    lora_order: list[int] = []  # the order in which the adapters of the batch were visited
    step: int | None = None  # the step's `i`; format 0: by order


class Sample(msgspec.Struct, tag_field="e", tag="sample"):
    """sample_tokens() of the step executed last; host time."""

    t: float
    dt: float


class Gpu(msgspec.Struct, tag_field="e", tag="gpu"):
    """Time between two CUDA events around execution k, read once both have passed."""

    k: int
    dt: float


class LoraLoad(msgspec.Struct, tag_field="e", tag="lora_load"):
    """An adapter was read from disk."""

    t: float
    id: int
    dt: float = 0.0
    rank: int | None = None


class LoraActivate(msgspec.Struct, tag_field="e", tag="lora_activate"):
    """An adapter was copied into a slot."""

    t: float
    id: int
    slot: int
    dt: float = 0.0


class LoraEvict(msgspec.Struct, tag_field="e", tag="lora_evict_cpu"):
    """The least recently used adapter left the CPU cache."""

    t: float
    id: int


class LoraDeactivate(msgspec.Struct, tag_field="e", tag="lora_deactivate"):
    """An adapter left its slot."""

    t: float
    id: int


class Served(msgspec.Struct, tag_field="e", tag="served"):
    """A request's end as the API server saw it; latencies from its arrival there."""

    t: float
    id: str
    e2e: float
    ttft: float | None = None
    out: int = 0
    reason: str = ""


class Mark(msgspec.Struct, tag_field="e", tag="mark"):
    """Everything until `t` is in the file; written once the server falls silent."""

    t: float
    cost: float = 0.0  # as in End


class End(msgspec.Struct, tag_field="e", tag="end"):
    """The recorder closed the file, or gave up."""

    t: float
    reason: str = "closed"
    lines: int = 0
    cost: float = 0.0  # seconds that the recorder itself took in this process


Event = (
    Header | File | Step | Req | Abort | Adapter | Worker | Exec | Sample | Gpu | LoraLoad
    | LoraActivate | LoraEvict | LoraDeactivate | Served | Mark | End
)  # fmt: skip
