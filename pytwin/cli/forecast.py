"""`pytwin forecast`: each adapter's rate to come, from a request log; and logs to try it on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from pytwin.cli.flags import Format, Ints
from pytwin.cli.output import (
    check_writable,
    note,
    print_csv,
    print_json,
    print_table,
    write_frame,
)
from pytwin.errors import ConfigError, WorkloadError
from pytwin.fleet.logs.laws import TrafficLaw
from pytwin.fleet.logs.read import LogFormat

if TYPE_CHECKING:
    import polars as pl

    from pytwin.fleet.forecast import Burst, History, RateForecast, Selection
    from pytwin.fleet.logs import RequestLog

app = App(name="forecast", help="Forecast the rate of each adapter from a request log.")

MethodName = Literal[
    "auto", "persistence", "ewma", "moving-average", "seasonal-naive", "daily-shape", "ses",
    "holt-winters", "croston", "tsb", "auto-ets",
]  # fmt: skip
Quantile = Literal["mean", "upper", "peak"]
_QUANTILES = {"mean": "rate_rps", "upper": "upper_rps", "peak": "peak_rps"}
_SHOWN_BURSTS = 20


@app.default
def forecast(
    log: str,
    /,
    *,
    log_format: LogFormat = "auto",
    bin_s: float = 3600.0,
    horizon_s: float = 86_400.0,
    end_s: float | None = None,
    method: MethodName = "auto",
    level: float = 0.9,
    false_alarm: float = 1e-4,
    deal: int | None = None,
    zipf_exponent: float = 1.0,
    seed: int = 0,
    ranks: Ints = None,
    allow_gaps: Annotated[bool, Parameter(negative="")] = False,
    quantile: Quantile = "upper",
    adapters_out: str | None = None,
    rates_out: str | None = None,
    format: Annotated[Format, Parameter(name="--format")] = "table",  # noqa: A002
) -> int:
    """Forecast the rate of each adapter, with a band, from a log of requests.

    Per adapter: the mean rate over the horizon with its band, the upper end of the busiest bin
    (peak_rps), the method, and how that method did on the log itself from rolling origins; then
    the bursts. Bands are split conformal: from the method's past misses.

    Parameters
    ----------
    log
        CSV, Parquet or JSONL file: arrival_s, adapter, prompt_tokens, output_tokens, optionally
        rank; or a public trace.
    log_format
        auto looks at the columns; azure, burstgpt, mooncake and servegen are public traces.
    bin_s
        Seconds per bin in which requests are counted.
    horizon_s
        Seconds to look ahead, rounded up to whole bins.
    end_s
        Where the log ends; by default shortly after its last request.
    method
        auto chooses per adapter; all but the first four need pip install 'pytwin[forecast]'.
    level
        Share of outcomes that the band shall hold.
    false_alarm
        Probability per bin and adapter that steady traffic is called a burst.
    deal
        Deal the log's requests to this many adapters by a Zipf law, for logs without adapters.
    zipf_exponent
        Of --deal: adapter k has a share proportional to 1/k^exponent.
    seed
        Of --deal.
    ranks
        Ranks of adapters whose rank the log does not state, cycled over them (default 16).
    allow_gaps
        Take holes in the log as zero traffic.
    quantile
        Which rate --adapters-out writes: the mean, its band's upper end, or the busiest bin's.
    adapters_out
        CSV file to write for planning: adapter, rate_rps, rank.
    rates_out
        CSV or Parquet file to write: adapter, bin, rate_rps, lower_rps, upper_rps.
    """
    from pytwin.fleet.forecast import bin_counts, detect_bursts
    from pytwin.fleet.forecast.bursts import checked_false_alarm
    from pytwin.fleet.forecast.conformal import checked_level
    from pytwin.fleet.logs import assign_adapters

    check_writable(adapters_out, (".csv",))
    check_writable(rates_out)
    checked_level(level)
    checked_false_alarm(false_alarm)
    read = _read(log, log_format)
    if deal is not None:
        read = assign_adapters(read, deal, zipf_exponent, seed, rank=ranks or (16,))
    history = bin_counts(read, bin_s, end_s=end_s, allow_gaps=allow_gaps)
    if not 0 < horizon_s < math.inf:
        raise WorkloadError(f"horizon_s ({horizon_s}) must be > 0 and finite")
    horizon = math.ceil(horizon_s / bin_s - 1e-9)
    ahead, selection, scores = _forecast(history, horizon, method, level)
    bursts = detect_bursts(history, false_alarm)
    if rates_out is not None:
        write_frame(ahead.frame(), rates_out)
    if adapters_out is not None:
        write_frame(_for_plan(ahead, ranks or (16,), quantile), adapters_out)
    rows = _rows(ahead, selection, scores, bursts)
    document = {
        "log": log,
        "bin_s": bin_s,
        "bins": history.bins,
        "horizon_bins": horizon,
        "level": level,
        "adapters": rows,
        "bursts": [_burst(burst) for burst in bursts],
    }
    _print(document, format)
    return 0


@app.command
def generate(
    *,
    out: Annotated[str, Parameter(name=["--out", "-o"])],
    adapters: int = 40,
    rate_rps: float | None = None,
    total_rate_rps: float | None = None,
    duration_s: float = 7 * 86_400.0,
    lengths: str = "sharegpt",
    ranks: Ints = None,
    seed: int = 0,
    law: Annotated[TrafficLaw | None, Parameter(name="*", group="Law of the rates")] = None,
    rates_out: str | None = None,
    bin_s: float = 3600.0,
) -> int:
    """Write a log of generated traffic: skewed, with days, bursts and adapters going viral.

    Parameters
    ----------
    out
        CSV or Parquet file: arrival_s, adapter, prompt_tokens, output_tokens, rank.
    adapters
        How many.
    rate_rps
        Base rate of the first adapter (zipf) or the median one (lognormal), in requests/s.
    total_rate_rps
        Instead: what all base rates sum to (default 1).
    duration_s
        Length of the log in seconds.
    lengths
        sharegpt, or prompt,output tokens.
    ranks
        Cycled over the adapters (default 16).
    seed
        Of every random choice.
    rates_out
        CSV or Parquet file for the true rates: adapter, bin, rate_rps.
    bin_s
        Seconds per bin of --rates-out.
    """
    from pytwin.fleet.logs import fleet_traffic

    check_writable(out)
    check_writable(rates_out)
    if rate_rps is None and total_rate_rps is None:
        total_rate_rps = 1.0
    traffic = fleet_traffic(
        adapters,
        rate_rps=rate_rps,
        total_rate_rps=total_rate_rps,
        duration_s=duration_s,
        law=law,
        lengths=_lengths(lengths),
        ranks=ranks or (16,),
        seed=seed,
    )
    write_frame(traffic.frame, out)
    if rates_out is not None:
        write_frame(_true_rates(traffic, bin_s), rates_out)
    note(f"wrote {out}: {traffic.frame.height} requests of {adapters} adapters")
    return 0


def _read(path: str, log_format: LogFormat) -> RequestLog:
    from pytwin.fleet.logs import read_log

    read = read_log(path, log_format)
    if read.dropped:
        note(f"{path}: {read.dropped} requests without tokens were left out")
    return read


def _forecast(
    history: History, horizon: int, method: MethodName, level: float
) -> tuple[RateForecast, Selection, dict[str, Any]]:
    from pytwin.fleet.forecast import Method, Selection, forecast_selected, select, selected_scores
    from pytwin.fleet.forecast.selection import kinds_of

    if method == "auto":
        selection = select(history, horizon)
    else:
        chosen = (Method(method),) * len(history.adapters)
        selection = Selection(chosen, kinds_of(history))
    for line in selection.told:
        note(line)
    ahead = forecast_selected(history, horizon, selection, level)
    scores = selected_scores(history, horizon, selection, level)
    short = int((ahead.band.source == "poisson").sum())
    if short:
        note(
            f"history ({history.bins} bins) is too short to learn bands of {short} adapters from "
            "misses: theirs are Poisson's alone, and too narrow for bursty traffic"
        )
    return ahead, selection, scores


def _rows(
    ahead: RateForecast, selection: Selection, scores: dict[str, Any], bursts: list[Burst]
) -> list[dict[str, Any]]:
    now = {burst.adapter: burst for burst in bursts if burst.ongoing}
    return [
        row
        | {
            "class": selection.kinds[at],
            "method": ahead.methods[at],
            "band": str(ahead.band.source[at]),
            "mase": _known(scores["mase"][at]),
            "coverage": _known(scores["coverage"][at]),
            "burst": now[row["adapter"]].factor if row["adapter"] in now else None,
        }
        for at, row in enumerate(ahead.adapters().to_dicts())
    ]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _burst(burst: Burst) -> dict[str, Any]:
    return {
        "adapter": burst.adapter,
        "onset_s": burst.onset_s,
        "bins": burst.last_bin - burst.first_bin + 1,
        "level_rps": burst.level_rps,
        "factor": burst.factor,
        "ongoing": burst.ongoing,
    }


def _for_plan(ahead: RateForecast, ranks: tuple[int, ...], quantile: Quantile) -> pl.DataFrame:
    import polars as pl

    from pytwin.workload.checks import ranks as checked

    given, known = checked("ranks", ranks), ahead.history.ranks
    return ahead.adapters().select(
        "adapter",
        pl.col(_QUANTILES[quantile]).alias("rate_rps"),
        pl.Series(
            "rank",
            [
                known.get(name) or given[at % len(given)]
                for at, name in enumerate(ahead.history.adapters)
            ],
            dtype=pl.Int64,
        ),
    )


def _true_rates(traffic: Any, bin_s: float) -> pl.DataFrame:
    import numpy as np
    import polars as pl

    rates = traffic.true_rates(bin_s)
    adapters, bins = rates.shape
    return pl.DataFrame(
        {
            "adapter": np.repeat(np.array(traffic.names), bins),
            "bin": np.tile(np.arange(bins), adapters),
            "rate_rps": rates.ravel(),
        }
    )


def _lengths(text: str) -> Any:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) == 1:
        return text
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise ConfigError(f"lengths ({text}) must be sharegpt, or prompt,output tokens: 250,231")
    return int(parts[0]), int(parts[1])


def _print(document: dict[str, Any], format: Format) -> None:  # noqa: A002
    rows, bursts = document["adapters"], document["bursts"]
    if format == "json":
        print_json(document)
    elif format == "csv":
        print_csv(rows)
    else:
        print_table(
            rows,
            title=f"{document['horizon_bins']} bins of {document['bin_s']:g} s after "
            f"{document['bins']}; band {document['level']:g}",
        )
        shown = bursts[-_SHOWN_BURSTS:]
        if shown:
            title = f"bursts: {len(bursts)}"
            if len(shown) < len(bursts):
                title += f", the last {len(shown)} (--format json has all)"
            print_table(shown, title=title)
