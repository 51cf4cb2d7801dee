"""The twin's side: the Rust core on a materialised case."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .cases import CaseError
from .versions import EngineVersion

# A twin takes a materialised case and the name of an engine version, and gives JSON lines.
Twin = Callable[[Mapping[str, Any], str], list[str]]


def core_twin(case: Mapping[str, Any], engine_version: str) -> list[str]:
    """The Rust core's trace of a materialised case.

    Raises:
        CaseError: the core refuses the case, or it never ends; one line.
    """
    from pytwin import _core

    try:
        return _core.conformance_trace(json.dumps(case), engine_version)
    except ValueError as error:
        raise CaseError(str(error)) from None


def with_recorded_order(case: Mapping[str, Any], trace: Iterable[str]) -> dict[str, Any]:
    """The case with the order in which a trace's worker visited the adapters.

    vLLM walks a Python set there, whose order is an accident of the process; a comparison is made
    under the order that the reference happened to take.
    """
    order: dict[str, list[int]] = {}
    for line in trace:
        if '"lora_order":' in line:
            record = json.loads(line)
            if len(record["lora_order"]) > 1:
                order[str(record["i"])] = record["lora_order"]
    return {**case, "lora_order": order} if order else dict(case)


def run_twin(case: Mapping[str, Any], version: EngineVersion, twin: Twin = core_twin) -> list[str]:
    """The twin's trace of a materialised case for `version`."""
    return twin(case, version.name)
