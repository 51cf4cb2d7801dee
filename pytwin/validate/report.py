"""How far the twin is from real runs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytwin.validate.predict import Prediction
from pytwin.validate.read import MEMORY_ERRORS, RealRuns

if TYPE_CHECKING:
    import polars as pl

METRICS = (
    "total_throughput", "request_throughput", "mean_tpot_ms", "mean_itl_ms", "mean_ttft_ms",
    "median_ttft_ms", "p99_ttft_ms", "completed",
)  # fmt: skip
"""Figures compared, under the names that the real client gave them."""

_STARVED_RATIO = 0.9
_WORST = 10


@dataclass(frozen=True)
class Report:
    """The comparison.

    Attributes
    ----------
    summary: one row per prediction, model, family and regime (all, starved, unstarved); errors
        in percent. Predictions: blind (rates only), arrivals (runs whose arrival count is known,
        given it), "arrivals or blind" (every run, given the count where it is known).
    start: one row per model: runs that can or cannot start, and how many the twin calls right.
    worst: the runs with the largest throughput errors.
    left_out: how many runs are not in the figures, by reason.
    """

    summary: list[dict[str, Any]] = field(default_factory=list)
    start: list[dict[str, Any]] = field(default_factory=list)
    worst: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, Any]] = field(default_factory=list)


def build_rows(
    runs: RealRuns,
    predictions: Sequence[Prediction],
    *,
    blind: Sequence[Prediction] | None = None,
) -> pl.DataFrame:
    """One row per real run: identity, the twin's status, real_X and twin_X for X in `METRICS`.

    With `blind`, `predictions` are conditioned on the arrival count and blind_X stands beside
    them. Times in ms, throughputs in tokens or requests per second.
    """
    import polars as pl

    rows = []
    for k, (config, prediction, outcome) in enumerate(
        zip(runs.configs, predictions, runs.outcomes.iter_rows(named=True), strict=True)
    ):
        row: dict[str, Any] = {
            "run_idx": config.run_idx,
            "run_id": config.run_id,
            "family": config.family,
            "model": config.model,
            "real_status": outcome["status"],
            "real_error": outcome["error_class"],
            "twin_status": prediction.status,
            "twin_error": prediction.error,
            "extrapolated": bool(prediction.extrapolated),
            "extrapolated_why": "; ".join(prediction.extrapolated) or None,
            "conditioned": config.conditioned if blind is not None else "none",
            "excluded": config.excluded,
            "real_starved": _real_starved(runs, k, outcome),
            "twin_starved": _twin_starved(prediction),
        }
        for name in METRICS:
            row[f"real_{name}"] = _float(outcome[name])
            row[f"twin_{name}"] = prediction.metrics.get(name)
            if blind is not None:
                row[f"blind_{name}"] = blind[k].metrics.get(name)
        rows.append(row)
    floats = {name: pl.Float64 for name in rows[0] if name.startswith(("real_", "twin_", "blind_"))}
    text = ("real_status", "real_error", "twin_status", "twin_error")
    texts = dict.fromkeys((*text, "extrapolated_why", "excluded"), pl.String)
    flags = dict.fromkeys(("real_starved", "twin_starved"), pl.Boolean)
    return pl.DataFrame(rows, schema_overrides={**floats, **texts, **flags})


def build_report(rows: pl.DataFrame) -> Report:
    """Errors per model and family, starved and unstarved apart; of rows made by `build_rows`."""
    import polars as pl

    judged = rows.filter(
        pl.col("excluded").is_null()
        & pl.col("real_total_throughput").is_not_null()
        & pl.col("twin_total_throughput").is_not_null()
    )
    conditioned = "blind_total_throughput" in rows.columns
    kinds = [("blind", "twin", judged)]
    if conditioned:
        counted = judged.filter(pl.col("conditioned") != "none")
        kinds = [("blind", "blind", judged), ("arrivals", "twin", counted)]
        if counted.height < judged.height:
            kinds.append(("arrivals or blind", "twin", judged))
    summary = []
    for label, prefix, of_kind in kinds:
        for model in of_kind["model"].unique().sort():
            of_model = of_kind.filter(pl.col("model") == model)
            families = of_model["family"].unique().sort().to_list()
            for family in [*families, "all"] if len(families) > 1 else families:
                part = of_model if family == "all" else of_model.filter(pl.col("family") == family)
                head = {"prediction": label, "model": model, "family": family}
                summary += [head | line for line in _regimes(part, prefix)]
    return Report(summary, _start(rows), _worst(judged), _left_out(rows))


def _regimes(part: pl.DataFrame, prefix: str) -> Iterable[dict[str, Any]]:
    import polars as pl

    starved = pl.col("real_starved")
    for regime, rows in (
        ("all", part),
        ("starved", part.filter(starved)),
        ("unstarved", part.filter(~starved)),
    ):
        if rows.height:
            yield {"regime": regime, "runs": rows.height} | _errors(rows, prefix)


def _errors(rows: pl.DataFrame, prefix: str) -> dict[str, Any]:
    """Errors in percent; `smape_half` divides by the sum, `smape_full` by the mean of the two."""
    throughput = _pairs(rows, prefix, "total_throughput")
    half = _mean(100 * abs(twin - real) / (abs(twin) + abs(real)) for real, twin in throughput)
    return {
        "throughput_mape": _mape(throughput),
        "throughput_smape_half": half,
        "throughput_smape_full": None if half is None else 2 * half,
        "throughput_bias": _mean(100 * (twin - real) / real for real, twin in throughput),
        "tpot_mape": _mape(_pairs(rows, prefix, "mean_tpot_ms")),
        "itl_mape": _mape(_pairs(rows, prefix, "mean_itl_ms")),
        "ttft_median_error": _median_error(_pairs(rows, prefix, "mean_ttft_ms")),
        "starved_right": _agreement(rows) if prefix == "twin" else None,
    }


def _pairs(rows: pl.DataFrame, prefix: str, name: str) -> list[tuple[float, float]]:
    """(real, twin) where both exist and the real one is positive."""
    pairs = rows.select(f"real_{name}", f"{prefix}_{name}").drop_nulls().iter_rows()
    return [(real, twin) for real, twin in pairs if real > 0]


def _mape(pairs: Sequence[tuple[float, float]]) -> float | None:
    return _mean(100 * abs(twin - real) / real for real, twin in pairs)


def _median_error(pairs: Sequence[tuple[float, float]]) -> float | None:
    errors = [100 * abs(twin - real) / real for real, twin in pairs]
    return statistics.median(errors) if errors else None


def _mean(values: Iterable[float]) -> float | None:
    kept = list(values)
    return statistics.fmean(kept) if kept else None


def _agreement(rows: pl.DataFrame) -> float | None:
    pairs = rows.select("real_starved", "twin_starved").drop_nulls().rows()
    return _mean(100.0 * (real == twin) for real, twin in pairs)


def _start(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Can a server of this configuration start: the real one, and the memory model."""
    import polars as pl

    memory_failure = pl.col("real_error").is_in(list(MEMORY_ERRORS))
    started = pl.col("real_status") == "ok"
    feasible = pl.col("twin_status") == "ok"
    known = rows.filter(pl.col("twin_status").is_in(["ok", "infeasible"]))
    table = []
    for model in known["model"].unique().sort():
        part = known.filter(pl.col("model") == model)
        could, could_not = part.filter(started), part.filter(~started & memory_failure)
        right = could.filter(feasible).height + could_not.filter(~feasible).height
        judged = could.height + could_not.height
        table.append(
            {
                "model": model,
                "started": could.height,
                "twin_says_so": could.filter(feasible).height,
                "could_not_start": could_not.height,
                "twin_says_so_too": could_not.filter(~feasible).height,
                "right": 100 * right / judged if judged else None,
                "not_judged": part.height - judged,
            }
        )
    return table


def _worst(judged: pl.DataFrame) -> list[dict[str, Any]]:
    import polars as pl

    real, twin = pl.col("real_total_throughput"), pl.col("twin_total_throughput")
    tpot = pl.col("twin_mean_tpot_ms") / pl.col("real_mean_tpot_ms")
    table = judged.select(
        "run_idx",
        "run_id",
        "conditioned",
        starved=pl.col("real_starved"),
        real_total_throughput=real,
        twin_total_throughput=twin,
        throughput_error=100 * (twin - real) / real,
        tpot_error=100 * (tpot - 1),
    )
    order = pl.col("throughput_error").abs()
    return table.sort(order, descending=True, nulls_last=True).head(_WORST).to_dicts()


def _left_out(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Runs that are in no error figure, by reason."""
    import polars as pl

    reason = (
        pl.when(pl.col("excluded").is_not_null())
        .then(pl.lit("excluded: ") + pl.col("excluded"))
        .when(pl.col("twin_status").is_in(["skipped", "failed"]))
        .then(pl.col("twin_status") + ": " + pl.col("twin_error").fill_null("no reason given"))
        .when(pl.col("real_status") != "ok")
        .then(pl.lit("the real run failed: ") + pl.col("real_error").fill_null("unknown"))
        .when(pl.col("real_total_throughput").is_null())
        .then(pl.lit("no measured throughput"))
    )
    table = rows.select(why=reason).drop_nulls().group_by("why").len("runs")
    return table.sort("runs", "why", descending=[True, False]).select("runs", "why").to_dicts()


def _real_starved(runs: RealRuns, k: int, outcome: dict[str, Any]) -> bool | None:
    """The traces' own flag, else the rule: throughput <= 0.9 of what was offered."""
    if outcome["starved"] is not None:
        return bool(outcome["starved"])
    config = runs.configs[k]
    throughput = outcome["total_throughput"]
    if throughput is None or config.mean_lengths is None or not config.duration_s:
        return None
    arrivals = config.arrivals or sum(config.rates_rps) * config.duration_s
    offered = arrivals * sum(config.mean_lengths) / config.duration_s
    return bool(throughput <= _STARVED_RATIO * offered)


def _twin_starved(prediction: Prediction) -> bool | None:
    offered = prediction.metrics.get("offered_token_throughput")
    served = prediction.metrics.get("total_throughput")
    if offered is None or served is None:
        return None
    return served <= _STARVED_RATIO * offered


def _float(value: Any) -> float | None:
    return None if value is None else float(value)
