"""Random cases put to vLLM's own code and to the twin."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .cases import CaseError, materialise, parse_case
from .client import Reference, ReferenceRaisedError
from .compare import Difference, first_difference
from .generate import random_case
from .shrink import shrink
from .twin import Twin, core_twin, run_twin, with_recorded_order
from .versions import EngineVersion

Json = dict[str, Any]
_LOAD = re.compile(r'\["load",')


@dataclass(frozen=True)
class Failure:
    """A case on which the two differ."""

    seed: int
    case: Json  # as generated, not materialised
    difference: Difference


@dataclass
class PresetResult:
    """The outcome of one preset.

    Attributes:
        preset: its name.
        runs: cases put to both.
        steps: engine iterations compared.
        preemptions, loads: of requests, and of adapters from disk, in vLLM's runs.
        unjudged: cases on which vLLM's own code raised; no trace exists to compare with.
    raised: what it raised first.
        failures: cases that differ.
    """

    preset: str
    runs: int = 0
    steps: int = 0
    preemptions: int = 0
    loads: int = 0
    unjudged: int = 0
    raised: str | None = None
    failures: list[Failure] = field(default_factory=list)

    def row(self) -> Json:
        """As a row of the result table."""
        return {
            "preset": self.preset,
            "runs": self.runs,
            "steps": self.steps,
            "preemptions": self.preemptions,
            "adapter_loads": self.loads,
            "unjudged": self.unjudged,
            "differences": len(self.failures),
        }


def compare_case(
    reference: Sequence[str], case: Mapping[str, Any], version: EngineVersion, twin: Twin
) -> Difference | None:
    """The first difference of the twin from vLLM's trace of a materialised case.

    The twin is given the adapter order of that trace. A twin that refuses the case differs.
    """
    try:
        trace = run_twin(with_recorded_order(case, reference), version, twin)
    except ValueError as error:
        return Difference(0, None, "error", "runs", f"refuses: {error}")
    return first_difference(reference, trace)


def fuzz_preset(
    preset: str,
    version: EngineVersion,
    seeds: Sequence[int],
    reference: Reference,
    *,
    twin: Twin = core_twin,
    requests: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> PresetResult:
    """Runs the cases of one preset.

    Args:
        seeds: one case each.
        reference: vLLM's own code, of this version.
        twin: what is put to the test.
        requests: per case; None draws it.
        advance: called after each case.
    """
    result = PresetResult(preset)
    for seed, case, whole, trace in _reference_traces(preset, version, seeds, reference, requests):
        try:
            lines = trace.result()
        except ReferenceRaisedError as error:
            result.unjudged += 1
            result.raised = result.raised or str(error)
            advance()
            continue
        summary = json.loads(lines[-1])
        result.runs += 1
        result.steps += summary["steps"]
        result.preemptions += summary["preemptions"]
        result.loads += sum(len(_LOAD.findall(line)) for line in lines)
        difference = compare_case(lines, whole, version, twin)
        if difference is not None:
            result.failures.append(Failure(seed, case, difference))
        advance()
    return result


def _reference_traces(
    preset: str,
    version: EngineVersion,
    seeds: Sequence[int],
    reference: Reference,
    requests: int | None,
) -> Iterator[tuple[int, Json, Json, Future[list[str]]]]:
    """Traces in the order of the seeds; the next one is made while the caller compares."""
    with ThreadPoolExecutor(max_workers=1) as ahead:

        def start(seed: int) -> tuple[int, Json, Json, Future[list[str]]]:
            case = random_case(seed, preset, version, requests)
            whole = materialise(parse_case(case), version)
            return seed, case, whole, ahead.submit(reference.trace, whole)

        waiting: deque[tuple[int, Json, Json, Future[list[str]]]] = deque()
        for seed in seeds:
            waiting.append(start(seed))
            if len(waiting) > 1:
                yield waiting.popleft()
        yield from waiting


def shrink_failure(
    failure: Failure, version: EngineVersion, reference: Reference, twin: Twin = core_twin
) -> Failure:
    """The failure with its case shrunk, and the difference that the small case shows."""

    def difference_of(case: Json) -> Difference | None:
        try:
            whole = materialise(parse_case(case), version)
            return compare_case(reference.trace(whole), whole, version, twin)
        except (CaseError, ReferenceRaisedError):
            return None

    small = shrink(failure.case, lambda case: difference_of(case) is not None)
    difference = difference_of(small)
    return Failure(failure.seed, small, difference) if difference is not None else failure


def save_failure(
    failure: Failure, preset: str, version: EngineVersion, directory: Path, reference: Reference
) -> Path:
    """Writes the case as `pytwin conformance run` takes it, with the adapter order of vLLM's run.

    Returns:
        the file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    trace = reference.trace(materialise(parse_case(failure.case), version))
    case = with_recorded_order(failure.case, trace)
    path = directory / f"{version.name}-{preset}-{failure.seed}.json"
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(case, indent=1) + "\n")
    partial.rename(path)
    return path
