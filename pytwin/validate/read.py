"""Real runs: `runs.parquet` and `adapters.parquet` of a traces directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytwin.catalog import load_profile, shipped_profiles
from pytwin.config import LORA_RANKS
from pytwin.errors import DataError

if TYPE_CHECKING:
    import polars as pl

# What a prediction may use: the configuration, the offered traffic, and how long it lasted.
_CONFIG_COLUMNS = (
    "run_idx", "run_id", "family", "model", "adapter_rank_pattern", "max_loras", "max_cpu_loras",
    "max_lora_rank", "max_num_seqs", "prefix_caching_disabled_flag", "total_time_s",
)  # fmt: skip
# Also allowed, where the directory has them.
_OPTIONAL_COLUMNS = (
    "enable_lora", "max_num_batched_tokens", "max_model_len", "pool_mean_input_len",
    "pool_mean_output_len",
)  # fmt: skip
# The client's sent count, used only on request (condition "arrivals").
_ARRIVAL_COLUMNS = ("client_arrivals_exact", "client_arrivals_est")
# What came out: read for the comparison alone.
_OUTCOME_COLUMNS = (
    "status", "error_class", "total_throughput", "request_throughput", "mean_tpot_ms",
    "mean_itl_ms", "mean_ttft_ms", "median_ttft_ms", "p99_ttft_ms", "completed", "starved_est",
    "served_ratio_est", "ts_kv_usage_mean", "ts_running_mean",
)  # fmt: skip
_RENAMED = {"starved_est": "starved", "served_ratio_est": "served_ratio"}

MEMORY_ERRORS = ("oom_cuda", "no_kv_memory", "kv_smaller_than_max_model_len")
"""Failures that say that a server of this configuration cannot start."""


@dataclass(frozen=True)
class RunConfig:
    """What a prediction may know of one real run.

    Attributes
    ----------
    profile: the shipped profile of its model; None if there is none.
    settings: fields of `EngineConfig`.
    rates_rps: rate of each served adapter, in requests per second.
    ranks: pattern of ranks, cycled over the adapters.
    duration_s: how long the client sent.
    mean_lengths: mean (prompt, output) tokens of the pool that lengths were drawn from.
    arrivals: the client's sent count; `conditioned` tells where it is from: exact, est or none.
    excluded: why the run is left out of the figures; None if it is not.
    """

    run_idx: int
    run_id: str
    family: str
    model: str
    profile: str | None
    settings: dict[str, Any]
    rates_rps: tuple[float, ...]
    ranks: tuple[int, ...]
    duration_s: float | None
    mean_lengths: tuple[float, float] | None
    arrivals: int | None
    conditioned: str
    excluded: str | None


@dataclass(frozen=True)
class RealRuns:
    """Real runs: what predictions may know, and apart from it what came out.

    `outcomes` has one row per run in the order of `configs`: run_idx and the outcome columns
    (null where not measured).
    """

    configs: list[RunConfig]
    outcomes: pl.DataFrame


def read_runs(directory: str | Path, *, families: Sequence[str] | None = None) -> RealRuns:
    """Read the runs of the given families (all if None) from a traces directory.

    Raises
    ------
    DataError: a missing or unreadable file, a missing column, or no run of these families.
    """
    import polars as pl

    folder = Path(directory)
    if not folder.is_dir():
        raise DataError(f"traces ({directory}) must be a directory with runs.parquet")
    runs = _read(folder / "runs.parquet", _CONFIG_COLUMNS)
    rates = _read(folder / "adapters.parquet", ("run_idx", "rate_rps"))
    if families is not None:
        known = runs["family"].drop_nulls().unique().sort().to_list()
        runs = runs.filter(pl.col("family").is_in(list(families)))
        if runs.is_empty():
            raise DataError(
                f"families ({', '.join(families)}) have no run in {folder}: it holds "
                f"{', '.join(known) or 'no run at all'}"
            )
    absent = [
        name
        for name in (*_OPTIONAL_COLUMNS, *_ARRIVAL_COLUMNS, *_OUTCOME_COLUMNS)
        if name not in runs.columns
    ]
    runs = runs.with_columns(pl.lit(None).alias(name) for name in absent).sort("run_idx")
    if "task_index" in rates.columns:
        rates = rates.sort("run_idx", "task_index", maintain_order=True)
    per_run = dict(
        rates.group_by("run_idx", maintain_order=True).agg(pl.col("rate_rps")).iter_rows()
    )
    profiles = {load_profile(name).model: name for name in shipped_profiles()}
    inputs = runs.select(*_CONFIG_COLUMNS, *_OPTIONAL_COLUMNS, *_ARRIVAL_COLUMNS)
    try:
        configs = [
            _config(row, per_run.get(row["run_idx"], []), profiles)
            for row in inputs.iter_rows(named=True)
        ]
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{folder / 'runs.parquet'} is not in the schema of traces: {error}"
        ) from None
    return RealRuns(configs, runs.select("run_idx", *_OUTCOME_COLUMNS).rename(_RENAMED))


def _read(path: Path, needed: Sequence[str]) -> pl.DataFrame:
    import polars as pl

    if not path.is_file():
        raise DataError(f"{path} does not exist: a traces directory holds it")
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} is not readable Parquet: {reason}") from None
    missing = [name for name in needed if name not in frame.columns]
    if missing:
        raise DataError(f"{path} lacks column {missing[0]}: it is not in the schema of traces")
    return frame


def _config(row: dict[str, Any], rates: Sequence[float], profiles: dict[str, str]) -> RunConfig:
    profile = profiles.get(row["model"])
    ranks = tuple(int(rank) for rank in row["adapter_rank_pattern"] or ())
    prompt, output = row["pool_mean_input_len"], row["pool_mean_output_len"]
    arrivals, conditioned = _arrivals(row)
    return RunConfig(
        run_idx=int(row["run_idx"]),
        run_id=str(row["run_id"]),
        family=str(row["family"]),
        model=str(row["model"]),
        profile=profile,
        settings=_settings(row, ranks),
        # Rates are stored in single precision: seven figures are what was written.
        rates_rps=tuple(float(f"{rate:.7g}") for rate in rates),
        ranks=ranks,
        duration_s=None if row["total_time_s"] is None else float(row["total_time_s"]),
        mean_lengths=None if prompt is None or output is None else (float(prompt), float(output)),
        arrivals=arrivals,
        conditioned=conditioned,
        excluded=_exclusion(str(row["run_id"]), len(rates)),
    )


def _settings(row: dict[str, Any], ranks: tuple[int, ...]) -> dict[str, Any]:
    """Fields of `EngineConfig`; what was not logged is left to the profile of that server."""
    if row["enable_lora"] is False:
        settings: dict[str, Any] = {"max_loras": 0}
    else:
        slots = row["max_loras"]
        rank = row["max_lora_rank"]
        if rank is None and ranks:
            rank = min(allowed for allowed in LORA_RANKS if allowed >= max(ranks))
        settings = {"max_loras": slots, "max_cpu_loras": row["max_cpu_loras"]}
        if rank is not None:
            settings["max_lora_rank"] = rank
    settings["max_num_seqs"] = row["max_num_seqs"]
    settings["max_num_batched_tokens"] = row["max_num_batched_tokens"]
    settings["max_model_len"] = row["max_model_len"]
    disabled = row["prefix_caching_disabled_flag"]
    settings["enable_prefix_caching"] = None if disabled is None else not disabled
    return {name: value for name, value in settings.items() if value is not None}


def _arrivals(row: dict[str, Any]) -> tuple[int | None, str]:
    for name, label in zip(_ARRIVAL_COLUMNS, ("exact", "est"), strict=True):
        if row[name] is not None and row[name] >= 1:
            return round(row[name]), label
    return None, "none"


def _exclusion(run_id: str, served: int) -> str | None:
    """Runs are named .../_SLOTS_SERVED_RANK_; two of them served another number than they say."""
    parts = run_id.rpartition("/")[2].strip("_").split("_")
    if served == 0 or len(parts) != 3 or not all(part.isdigit() for part in parts):
        return None
    if int(parts[1]) == served:
        return None
    return f"named as serving {parts[1]} adapters, but {served} have rates"
