"""Traffic: adapters, arrivals, lengths, and traces played back."""

from pytwin.workload.adapter_set import (
    AdapterGroup,
    Adapters,
    adapters,
    adapters_by_popularity,
    adapters_from_csv,
    adapters_zipf,
)
from pytwin.workload.lengths import (
    ConstantLengths,
    Empirical,
    LengthLaw,
    LogNormal,
    ShareGpt,
    as_length_law,
    tilted,
)
from pytwin.workload.plain import ARRIVALS, workload_from_values
from pytwin.workload.replay import Trace, read_trace
from pytwin.workload.traffic import (
    GeneratedWorkload,
    ReplayWorkload,
    ResolvedWorkload,
    Workload,
)

__all__ = [
    "ARRIVALS",
    "AdapterGroup",
    "Adapters",
    "ConstantLengths",
    "Empirical",
    "GeneratedWorkload",
    "LengthLaw",
    "LogNormal",
    "ReplayWorkload",
    "ResolvedWorkload",
    "ShareGpt",
    "Trace",
    "Workload",
    "adapters",
    "adapters_by_popularity",
    "adapters_from_csv",
    "adapters_zipf",
    "as_length_law",
    "read_trace",
    "tilted",
    "workload_from_values",
]
