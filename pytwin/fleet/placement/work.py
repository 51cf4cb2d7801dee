"""The requests that each adapter brings under a seed, whichever replica serves it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytwin import _core
from pytwin.errors import PytwinError
from pytwin.fleet.placement.problem import Problem
from pytwin.simulation import Twin
from pytwin.workload import Workload

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_STEP_US = 20_000.0
_KEY = "no work at all"


@dataclass(frozen=True)
class Work:
    """What the items bring within the horizon under one seed.

    Attributes
    ----------
    requests, prompt, output: number of requests, their prompt and generated tokens; one value per
        item.
    context: KV entries that decoding them reads.
    held: KV tokens that they hold, summed over the steps that they run.
    arrivals, outputs: arrival times in seconds and generated tokens of each item's requests.
    """

    requests: NDArray[np.float64]
    prompt: NDArray[np.float64]
    output: NDArray[np.float64]
    context: NDArray[np.float64]
    held: NDArray[np.float64]
    arrivals: tuple[NDArray[np.float64], ...]
    outputs: tuple[NDArray[np.float64], ...]

    @property
    def tokens(self) -> NDArray[np.float64]:
        """Prompt and generated tokens of each item."""
        return self.prompt + self.output

    def tokens_of(self, items: Iterable[int]) -> float:
        """Tokens of some items together."""
        return float(sum(self.tokens[item] for item in sorted(items)))


def realised(problem: Problem, seed: int) -> Work:
    """The work of every item under a seed.

    Arrivals and lengths are drawn from a stream per adapter, so that any server sees the same
    ones: they are read off a server that takes no time over loads, keeps every request in memory
    and waits for the last of them.
    """
    import numpy as np

    twin = Twin()
    spec = _spec(problem, twin, seed)
    try:
        outcome = _core.simulate(twin.library, json.dumps(spec, allow_nan=False))
    except ValueError as error:
        raise PytwinError(str(error)) from None
    rows = outcome["requests"]
    adapter = rows["adapter"].astype(np.int64) - 1
    prompt, output = rows["prompt_tokens"].astype(float), rows["output_tokens"].astype(float)

    def summed(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(adapter, values, minlength=problem.count).astype(np.float64)

    order = np.lexsort((rows["arrival_s"], adapter))
    ends = np.searchsorted(adapter[order], np.arange(1, problem.count))
    decoded = np.maximum(output - 1.0, 0.0)
    return Work(
        requests=summed(np.ones_like(prompt)),
        prompt=summed(prompt),
        output=summed(output),
        context=summed(prompt * decoded + 0.5 * decoded * np.maximum(decoded - 1.0, 0.0)),
        held=summed(prompt * output + 0.5 * output * output),
        arrivals=tuple(np.split(rows["arrival_s"][order], ends)),
        outputs=tuple(np.split(output[order], ends)),
    )


def _spec(problem: Problem, twin: Twin, seed: int) -> dict[str, Any]:
    """One simulation of all items on a server without limits."""
    rank = problem.rank_of(range(problem.count))
    server = problem.server.model_copy(
        update={"max_loras": 1, "max_cpu_loras": problem.count, "max_lora_rank": rank}
    )
    traffic = Workload.poisson(
        adapters=problem.items, lengths=problem.lengths, duration_s=problem.duration_s, drain=True
    )
    spec = twin.spec(server, traffic, seed=seed, requests=True)
    data = dict(server.loaded_profile.data)
    data["step_time"] = {"unit": "us", "terms": [{"coefficient": _STEP_US, "factors": []}]}
    data["memory"] = dict(data["memory"]) | {"kv_bytes_per_token": 1.0}
    for part in ("load_time", "frontend", "host"):
        data.pop(part, None)
    twin.library.add_profile(_KEY, json.dumps(data))
    spec["profile"], spec["ignore_memory"] = _KEY, True
    spec["engine"] |= {
        "max_loras": min(problem.count, 65_536),
        "max_num_seqs": 1_000_000,
        "max_num_batched_tokens": 10_000_000,
        "num_gpu_blocks_override": 100_000_000,
        "max_connections": None,
        "metrics_poll_s": None,
    }
    return spec
