"""Read measured runs: a directory of Parquet tables, one row per run, step, load or sample.

The tables and their columns are those of docs/background/cost-model.md. Every reader checks that
its table is there and holds the columns it needs, with types that fit, and says in one line what is
wrong otherwise.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

_INTEGER, _NUMBER, _TEXT, _FLAG, _LIST = "integer", "number", "text", "flag", "list"

# Columns that calibration reads; a table may hold more.
COLUMNS: dict[str, dict[str, str]] = {
    "runs": {
        "run_idx": _INTEGER,
        "run_id": _TEXT,
        "family": _TEXT,
        "model": _TEXT,
        "status": _TEXT,
        "error_class": _TEXT,
        "enable_lora": _FLAG,
        "max_loras": _INTEGER,
        "max_cpu_loras": _INTEGER,
        "max_lora_rank": _INTEGER,
        "max_num_seqs": _INTEGER,
        "synthetic_output_len": _INTEGER,
        "num_prompts": _INTEGER,
        "adapter_rates_pattern": _LIST,
        "adapter_rank_pattern": _LIST,
        "total_input_tokens": _INTEGER,
        "total_time_s": _NUMBER,
        "n_adapters": _INTEGER,
        "completed": _INTEGER,
        "total_output_tokens": _INTEGER,
        "kv_cache_tokens": _INTEGER,
        "input_throughput": _NUMBER,
        "output_throughput": _NUMBER,
        "request_throughput": _NUMBER,
        "total_throughput": _NUMBER,
        "mean_ttft_ms": _NUMBER,
        "mean_tpot_ms": _NUMBER,
        "mean_itl_ms": _NUMBER,
        "ts_running_mean": _NUMBER,
        "ts_waiting_mean": _NUMBER,
        "ts_kv_usage_mean": _NUMBER,
        "ts_waiting_max": _INTEGER,
        "ts_running_max": _INTEGER,
        "client_arrivals_est": _NUMBER,
        "pool_prompts": _INTEGER,
        "pool_mean_input_len": _NUMBER,
        "pool_mean_output_len": _NUMBER,
        "served_ratio_est": _NUMBER,
    },
    "adapters": {"run_idx": _INTEGER, "task_index": _INTEGER, "rate_rps": _NUMBER},
    "steps": {
        "run_idx": _INTEGER,
        "step": _INTEGER,
        "phase": _TEXT,
        "dt_ms": _NUMBER,
        "unique_adapters": _INTEGER,
        "batched_tokens": _INTEGER,
        "lora_loads_before": _INTEGER,
    },
    "lora_loads": {
        "run_idx": _INTEGER,
        "source": _TEXT,
        "load_index": _INTEGER,
        "load_time_ms": _NUMBER,
        "before_step": _INTEGER,
    },
    "calib_memory": {
        "run_idx": _INTEGER,
        "family": _TEXT,
        "model": _TEXT,
        "enable_lora": _FLAG,
        "max_loras": _INTEGER,
        "max_lora_rank": _INTEGER,
        "status": _TEXT,
        "error_class": _TEXT,
        "kv_cache_tokens_logged": _INTEGER,
        "model_load_gib": _NUMBER,
        "max_model_len": _INTEGER,
    },
    "timeseries": {
        "run_idx": _INTEGER,
        "t_s": _NUMBER,
        "running": _INTEGER,
        "waiting": _INTEGER,
        "kv_usage": _NUMBER,
        "finished_first_reason": _INTEGER,
    },
}


def _fits(dtype: pl.DataType, kind: str) -> bool:
    if dtype == pl.Null:
        return True  # a column of nulls has no type of its own
    if kind == _INTEGER:
        return dtype.is_integer()
    if kind == _NUMBER:
        return dtype.is_numeric()
    if kind == _LIST:
        return dtype == pl.List
    if kind == _FLAG:
        return dtype == pl.Boolean
    return dtype == pl.String or isinstance(dtype, pl.Categorical | pl.Enum)


def table(directory: Path | str, name: str) -> pl.DataFrame:
    """Read table `name` (a key of COLUMNS) of a traces directory.

    FileNotFoundError if the directory or the table is missing; ValueError if the file is not
    Parquet, or a column is missing or of another type.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise FileNotFoundError(f"traces directory {folder} does not exist: name an existing one")
    file = folder / f"{name}.parquet"
    if not file.is_file():
        raise FileNotFoundError(f"table {file} is missing: a traces directory must hold it")
    try:
        frame = pl.read_parquet(file)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{file} must be a readable Parquet file: {reason}") from error
    return check(frame, name, str(file))


def check(frame: pl.DataFrame, name: str, where: str) -> pl.DataFrame:
    """Return `frame` if it fits the schema of table `name`; ValueError saying what does not."""
    needed = COLUMNS[name]
    missing = sorted(set(needed) - set(frame.columns))
    if missing:
        raise ValueError(f"{where} must hold the column(s) {', '.join(missing)} of table {name}")
    for column, kind in needed.items():
        if not _fits(frame.schema[column], kind):
            raise ValueError(f"{where}: column {column} ({frame.schema[column]}) must be {kind}")
    if frame.height == 0:
        raise ValueError(f"{where} must not be empty: nothing can be fitted on no rows")
    return frame


def runs(directory: Path | str) -> pl.DataFrame:
    """One row per run."""
    return table(directory, "runs")
