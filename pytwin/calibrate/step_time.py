"""The step-time law: its candidate components with their physical reasons, and the fit.

Why these forms (docs/background/cost-model.md has the derivation): a step reads the weights once,
multiplies every token, reads the KV cache of its context, and pays host work per request. LoRA
adds, in each of 4 x layers modules, a shrink and an expand kernel whose grid spans *all* max_loras
slots: idle slots exit at once but are launched, for every block of tokens; active ones do the work.
Below 128 tokens (121 with CUDA-graph padding to multiples of 8) the shrink kernel splits its sum
over 64 parts instead of 8 (vLLM 0.8.5 lora/ops/triton_ops/utils.py get_lora_op_configs), so that
small batches cost more per slot and per adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pytwin.calibrate.observations import LOADS, Observations
from pytwin.calibrate.solve import Problem, balance, cross_validate, relative_errors, solve
from pytwin.calibrate.terms import Component, Factor, Part, component, design, to_terms

FloatArray = npt.NDArray[np.float64]

# First number of tokens whose CUDA-graph size (a multiple of 8) reaches 128.
SPLIT_K_TOKENS = 121
_LARGE: Factor = {"of": "tokens", "at_least": SPLIT_K_TOKENS}
# A rank of 32 takes two blocks of 16 columns in the shrink kernel, 64 takes four.
_EXTRA_RANK_BLOCKS: Factor = {"of": "max_lora_rank", "above": 16}
# The largest captured CUDA graph: beyond it kernels are launched one by one.
_EAGER: Factor = {"of": "tokens", "at_least": 513}
_ABOVE_GRAPHS: Factor = {"of": "tokens", "above": 512}
# An H100 has 132 multiprocessors.
_BEYOND_SMS: Factor = {"of": "adapters", "above": 132}
_ACTIVE: Factor = {"of": "adapters", "at_most": 1}


def _small(name: str, why: str, *factors: Factor, scale: float = 1.0) -> Component:
    """A component that holds below SPLIT_K_TOKENS only."""
    return Component(name, (Part(scale, factors), Part(-scale, (*factors, _LARGE))), why)


def candidates(loads: bool = True) -> list[Component]:
    """All components from which a law may be chosen, with or without that of the loads."""
    blocks = tuple({"of": "tokens", "at_least": edge} for edge in (33, 65, 97))
    found = [
        component("base", "weights read once per step, fixed host work"),
        component("tokens", "matrix products, per token", "tokens"),
        component(
            "tokens>256", "matrix products limited by compute", {"of": "tokens", "above": 256}
        ),
        component("seqs", "host work per request: input, sampling, output", "seqs"),
        component("context", "KV cache read by attention", "context_tokens"),
        component("new", "host work per request that starts", "prefill_seqs"),
        component("lora", "LoRA metadata prepared in every step", "lora"),
        component("lora tokens", "LoRA kernels, per token", "lora", "tokens"),
        component(
            "lora tokens rank32",
            "LoRA kernels, per token and block of 16 ranks above the first",
            "lora",
            _EXTRA_RANK_BLOCKS,
            "tokens",
            scale=1 / 16,
        ),
        component("active", "first adapter of a batch", _ACTIVE),
        component("slots", "idle slots of the kernels' grid", "max_loras"),
        component("slots tokens", "idle slots, per block of tokens", "max_loras", "tokens"),
        component(
            "slots tokens>64",
            "idle slots, per block of 64 tokens (expand)",
            "max_loras",
            {"of": "tokens", "above": 64},
        ),
        component(
            "slots rank32",
            "idle slots, blocks of 16 ranks above the first",
            "max_loras",
            _EXTRA_RANK_BLOCKS,
            scale=1 / 16,
        ),
        _small("small slots", "idle slots under split-K 64", "max_loras"),
        _small(
            "small slots rank32",
            "idle slots under split-K 64, blocks of 16 ranks above the first",
            "max_loras",
            _EXTRA_RANK_BLOCKS,
            scale=1 / 16,
        ),
        Component(
            "small slots blocks",
            (
                *(Part(1.0, ("max_loras", block)) for block in blocks),
                Part(-3.0, ("max_loras", _LARGE)),
            ),
            "idle slots under split-K 64, per block of 32 tokens above the first",
        ),
        component("adapters", "kernels of an active adapter", "adapters"),
        component(
            "adapters>132",
            "more active adapters than multiprocessors: a second wave of blocks",
            _BEYOND_SMS,
        ),
        component(
            "adapters>132 tokens",
            "more active adapters than multiprocessors, per token",
            _BEYOND_SMS,
            "tokens",
        ),
        component(
            "adapters>132 seqs",
            "more active adapters than multiprocessors, per request",
            _BEYOND_SMS,
            "seqs",
        ),
        component(
            "adapters rank",
            "kernels of an active adapter, per 16 ranks",
            "max_lora_rank",
            "adapters",
            scale=1 / 16,
        ),
        _small("small adapters", "active adapters under split-K 64", "adapters"),
        _small(
            "small adapters rank32",
            "active adapters under split-K 64, per 16 ranks above 16",
            _EXTRA_RANK_BLOCKS,
            "adapters",
            scale=1 / 16,
        ),
        component("adapters tokens", "an active adapter's blocks of tokens", "adapters", "tokens"),
        component(
            "adapters tokens rank",
            "an active adapter's blocks of tokens, per 16 ranks",
            "max_lora_rank",
            "adapters",
            "tokens",
            scale=1 / 16,
        ),
        Component(
            "small adapters tokens",
            (
                Part(1.0, ("adapters", {"of": "tokens", "at_most": SPLIT_K_TOKENS - 1})),
                Part(-float(SPLIT_K_TOKENS - 1), ("adapters", _LARGE)),
            ),
            "active adapters under split-K 64, per token",
        ),
        component(
            "slots adapters", "slots walked for every active adapter", "max_loras", "adapters"
        ),
        component("eager", "launches without a CUDA graph", _EAGER),
        component("eager lora", "LoRA launches without a CUDA graph", "lora", _EAGER),
        component("eager adapters", "active adapters without a CUDA graph", "adapters", _EAGER),
        component(
            "lora tokens>512", "LoRA kernels, per token of a large batch", "lora", _ABOVE_GRAPHS
        ),
        component("lora seqs", "LoRA metadata and sampling, per request", "lora", "seqs"),
        component("adapters seqs", "LoRA metadata, per request and adapter", "adapters", "seqs"),
        component("prefill", "attention and input processing of prompts", "prefill_tokens"),
        component(
            "prefill>256", "attention of long prompt chunks", {"of": "prefill_tokens", "above": 256}
        ),
        component(
            "adapters prefill",
            "an active adapter's blocks of prompt tokens",
            "adapters",
            "prefill_tokens",
        ),
        component(
            "slots prefill", "idle slots, per block of prompt tokens", "max_loras", "prefill_tokens"
        ),
        component("waiting", "the scheduler's walk over the waiting queue", "waiting"),
        # Not a term of the profile: it scales the profile's load times.
        component(LOADS, "adapter loads under traffic, per ms that the host logs", LOADS),
    ]
    return [entry for entry in found if loads or entry.name != LOADS]


EMPHASIS = {"traffic": 3.0, "saturated": 3.0, "lora mixed": 0.25}
# Always kept: the skeleton of a step, each part seen alone in one of the micro-benchmarks, and the
# loads where they are fitted.
_CORE = ("base", "tokens", "context", "slots", "active", "adapters", LOADS)


@dataclass(frozen=True)
class Law:
    """A fitted law: its components with coefficients in ms, and its errors."""

    components: tuple[Component, ...]
    coefficients: FloatArray
    problem: Problem
    held_out: FloatArray

    def terms(self) -> list[dict[str, Any]]:
        """The law as terms of a profile, in microseconds."""
        return to_terms(self.components, self.coefficients, 1000.0)

    def errors(self) -> dict[str, dict[str, float]]:
        """Per family: number of rows, MAPE and bias of the fit, MAPE held out (percent)."""
        fitted = relative_errors(self.problem, self.coefficients)
        report = {}
        for name in sorted(set(self.problem.family.tolist())):
            rows = self.problem.family == name
            report[name] = {
                "rows": int(rows.sum()),
                "mape_percent": round(100 * float(np.abs(fitted[rows]).mean()), 2),
                "bias_percent": round(100 * float(fitted[rows].mean()), 2),
                "held_out_mape_percent": round(
                    100 * float(np.nanmean(np.abs(self.held_out[rows]))), 2
                ),
            }
        return report

    def spread(self) -> dict[str, dict[str, float]]:
        """Per family: quantiles of the held-out relative error (percent)."""
        report = {}
        for name in sorted(set(self.problem.family.tolist())):
            errors = 100 * self.held_out[self.problem.family == name]
            low, middle, high = np.nanquantile(errors, (0.05, 0.5, 0.95))
            report[name] = {
                "p05_percent": round(float(low), 2),
                "p50_percent": round(float(middle), 2),
                "p95_percent": round(float(high), 2),
            }
        return report


def problem_of(observations: Observations, components: Sequence[Component]) -> Problem:
    """Least-squares problem of these components on these observations."""
    family = observations.family
    return Problem(
        matrix=observations.average(design(components, observations.features)),
        target=observations.target_ms,
        weight=balance(family, EMPHASIS),
        group=observations.group,
        family=family,
    )


# Six workloads and the micro-benchmarks' runs are dealt out to these.
_FOLDS = 12


def _score(problem: Problem) -> float:
    """Root mean square relative error held out, every family weighing as in the fit."""
    held_out = cross_validate(problem, _FOLDS)
    weight = problem.weight**2
    return float(np.sqrt((weight * held_out**2).sum() / weight.sum()))


def join(first: Problem, second: Problem) -> Problem:
    """Two sets of observations of the same components as one, their families balanced anew."""
    family = np.concatenate([first.family, second.family])
    return Problem(
        matrix=np.concatenate([first.matrix, second.matrix]),
        target=np.concatenate([first.target, second.target]),
        weight=balance(family, EMPHASIS),
        group=np.concatenate([first.group, second.group]),
        family=family,
    )


def without(problem: Problem, family: str) -> Problem:
    """The observations that are not of this family."""
    keep = problem.family != family
    return Problem(
        matrix=problem.matrix[keep],
        target=problem.target[keep],
        weight=balance(problem.family[keep], EMPHASIS),
        group=problem.group[keep],
        family=problem.family[keep],
    )


def fit(whole: Problem, worth: float = 0.002) -> Law:
    """Choose components by out-of-sample error, dropping one at a time while that costs nothing.

    `whole` holds one column per entry of `candidates()`, with or without the loads. A component
    stays if leaving it out raises the held-out error (root mean square relative error, whole
    workloads and whole runs held out) by more than the share `worth`.
    """
    chosen = candidates()
    if whole.matrix.shape[1] != len(chosen):
        chosen = candidates(loads=False)
    kept = list(range(len(chosen)))
    best = _score(whole)
    while True:
        trials = []
        for index in kept:
            if chosen[index].name in _CORE:
                continue
            rest = [other for other in kept if other != index]
            trials.append((_score(whole.columns(rest)), index))
        if not trials:
            break
        score, drop = min(trials)
        if score > best * (1 + worth):
            break
        kept.remove(drop)
        best = min(best, score)
    problem = whole.columns(kept)
    coefficients = solve(problem)
    alive = [position for position in range(len(kept)) if coefficients[position] > 0]
    problem = problem.columns(alive)
    return Law(
        components=tuple(chosen[kept[position]] for position in alive),
        coefficients=solve(problem),
        problem=problem,
        held_out=cross_validate(problem, len(set(problem.group.tolist()))),
    )
