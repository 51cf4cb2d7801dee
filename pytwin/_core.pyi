"""Stub of the binding; the code is in twin_core/py."""

from collections.abc import Callable
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

__version__: str

@final
class Library:
    """Profiles, length tables and traces that simulations refer to by name."""

    def __init__(self) -> None: ...
    def add_profile(self, name: str, profile_json: str) -> None: ...
    def add_lengths(
        self,
        name: str,
        prompt_tokens: NDArray[np.uint32],
        output_tokens: NDArray[np.uint32],
        weights: NDArray[np.float64],
    ) -> None: ...
    def add_trace(
        self,
        name: str,
        arrival_s: NDArray[np.float64],
        adapter: NDArray[np.uint32],
        prompt_tokens: NDArray[np.uint32],
        output_tokens: NDArray[np.uint32],
    ) -> None: ...

def simulate(library: Library, spec_json: str) -> dict[str, Any]: ...
def simulate_many(
    library: Library,
    specs: list[str],
    workers: int,
    progress: Callable[[int], None] | None = None,
) -> dict[str, list[Any]]: ...
def simulate_fleets(
    library: Library,
    specs: list[str],
    workers: int,
    progress: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """One dict per fleet: status, error; metrics, frames and replicas with the same keys."""

def memory(library: Library, spec_json: str) -> dict[str, Any]: ...
def metric_columns() -> list[tuple[str, str]]: ...
def conformance_trace(
    case_json: str, engine_version: str, write: bool = True, exact: bool = True
) -> list[str]: ...
def mutations() -> list[str]: ...
def surrogate_feature_names() -> list[str]: ...
def surrogate_features(library: Library, query_json: str) -> NDArray[np.float64]:
    """Shape (candidates, features); a row of NaN where the server cannot start."""

@final
class TreeModel:
    """A tree model from the JSON export of `pytwin learn`."""

    def __init__(self, json: str) -> None: ...
    @property
    def features(self) -> list[str]: ...
    def predict(self, rows: NDArray[np.float64]) -> NDArray[np.float64]: ...
