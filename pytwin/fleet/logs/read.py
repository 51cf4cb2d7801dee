"""Public request logs, read into one form. None is shipped: download what you may use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Literal, get_args

from pytwin.errors import DataError
from pytwin.fleet.logs import columns
from pytwin.fleet.logs.log import RequestLog

if TYPE_CHECKING:
    import polars as pl

LogFormat = Literal["auto", "pytwin", "azure", "burstgpt", "mooncake", "servegen"]
FORMATS: tuple[str, ...] = get_args(LogFormat)


@dataclass(frozen=True)
class _Kind:
    """How a public format names its columns; the first are those it is known by."""

    time: str
    prompt: str
    output: str
    seconds: Callable[[pl.DataFrame, str, str], pl.Series]
    adapter: str | None = None

    @property
    def needed(self) -> tuple[str, ...]:
        return (self.time, self.prompt, self.output)


def _milliseconds(frame: pl.DataFrame, label: str, name: str) -> pl.Series:
    return columns.numbers(frame, label, name) / 1e3


# Azure: AzureLLMInferenceDataset2023.md and 2024.md of Azure/AzurePublicDataset.
# BurstGPT: the header of BurstGPT_1.csv; Timestamp in seconds, Model ChatGPT or GPT-4.
# Mooncake: FAST25-release/traces of kvcache-ai/Mooncake; timestamp in milliseconds.
_KINDS: Mapping[str, _Kind] = {
    "azure": _Kind("TIMESTAMP", "ContextTokens", "GeneratedTokens", columns.times),
    "burstgpt": _Kind(
        "Timestamp", "Request tokens", "Response tokens", columns.numbers, adapter="Model"
    ),
    "mooncake": _Kind("timestamp", "input_length", "output_length", _milliseconds),
    "servegen": _Kind("timestamp", "input_tokens", "output_tokens", columns.numbers),
}


def read_log(path: str | PathLike[str], format: LogFormat = "auto") -> RequestLog:  # noqa: A002
    """A request log from a CSV, Parquet or JSONL file.

    Parameters
    ----------
    path: the file.
    format: "auto" looks at the columns.
        pytwin: arrival_s, adapter, prompt_tokens, output_tokens, optionally rank.
        azure: Azure LLM inference traces (TIMESTAMP, ContextTokens, GeneratedTokens).
        burstgpt: BurstGPT (Timestamp in seconds, Model, Request tokens, Response tokens, ...);
            the adapter is the Model column.
        mooncake: Mooncake (JSON lines: timestamp in ms, input_length, output_length, hash_ids,
            which are not used).
        servegen: a workload that ServeGen generated and saved as CSV. ServeGen publishes rates
            per client, not requests; what its generator writes is assumed to have the columns
            timestamp (seconds), input_tokens and output_tokens, as its requests do (its
            multimodal workloads do not).

    Times of the public formats are counted from the first request. In them a request with 0
    prompt or output tokens failed; it is dropped and counted. All but pytwin and burstgpt have no
    adapters: `assign_adapters` deals their requests out.

    Raises
    ------
    DataError: unreadable, empty, a column missing, or of no known format.
    WorkloadError: a value out of its range or a time going backwards, with its row (the first
        is 0).
    """
    name = str(path)
    if format not in FORMATS:
        raise DataError(f"log format ({format}) is unknown: use {', '.join(FORMATS)}")
    frame = columns.read_table(name)
    kind = _recognised(frame, name) if format == "auto" else format
    return _own(frame, name) if kind == "pytwin" else _public(frame, name, kind)


def _recognised(frame: pl.DataFrame, label: str) -> str:
    if "arrival_s" in frame.columns:
        return "pytwin"
    for kind, told in _KINDS.items():
        if set(told.needed) <= set(frame.columns):
            return kind
    raise DataError(
        f"{label} is of no known format (columns {', '.join(frame.columns[:8])}): give columns "
        f"arrival_s, adapter, prompt_tokens, output_tokens, or name one of {', '.join(FORMATS)}"
    )


def _own(frame: pl.DataFrame, label: str) -> RequestLog:
    import polars as pl

    needed = ("arrival_s", "adapter", "prompt_tokens", "output_tokens")
    columns.require(frame, label, needed, "pytwin")
    arrival = columns.numbers(frame, label, "arrival_s")
    columns.never_back(label, arrival)
    read = pl.DataFrame(
        {
            "arrival_s": arrival,
            "adapter": columns.adapter_names(frame, label, "adapter"),
            "prompt_tokens": columns.tokens(frame, label, "prompt_tokens", least=1),
            "output_tokens": columns.tokens(frame, label, "output_tokens", least=1),
        }
    )
    if "rank" in frame.columns:
        read = read.with_columns(_ranks(frame, label))
    return RequestLog(read, label)


def _ranks(frame: pl.DataFrame, label: str) -> pl.Series:
    import polars as pl

    # The base model's rows have none; 0 stands for it.
    text = frame["rank"].cast(pl.String).str.strip_chars()
    filled = pl.DataFrame({"rank": text.fill_null("0").replace("", "0")})
    return columns.tokens(filled, label, "rank", least=0).cast(pl.Int64)


def _public(frame: pl.DataFrame, label: str, kind: str) -> RequestLog:
    import polars as pl

    told = _KINDS[kind]
    wanted = told.needed if told.adapter is None else (*told.needed, told.adapter)
    columns.require(frame, label, wanted, kind)
    seconds = told.seconds(frame, label, told.time).alias(told.time)
    columns.never_back(label, seconds)
    adapter = (
        pl.Series([""]).new_from_index(0, frame.height)
        if told.adapter is None
        else columns.adapter_names(frame, label, told.adapter)
    )
    read = pl.DataFrame(
        {
            "arrival_s": seconds,
            "adapter": adapter,
            "prompt_tokens": columns.tokens(frame, label, told.prompt, least=0),
            "output_tokens": columns.tokens(frame, label, told.output, least=0),
        }
    )
    whole = read.filter((pl.col("prompt_tokens") > 0) & (pl.col("output_tokens") > 0))
    if whole.is_empty():
        raise DataError(f"{label} holds no request with tokens: a log needs at least one")
    whole = whole.with_columns(pl.col("arrival_s") - pl.col("arrival_s").first())
    return RequestLog(whole, label, read.height - whole.height)
