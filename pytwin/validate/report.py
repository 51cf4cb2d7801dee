"""How far the twin is from real runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytwin.uncertainty import INTERVAL_METRICS
from pytwin.validate.errors import coverage, errors, floors, verdicts
from pytwin.validate.read import MEMORY_ERRORS
from pytwin.validate.targets import targets

if TYPE_CHECKING:
    import polars as pl

_WORST = 10


@dataclass(frozen=True)
class Report:
    """The comparison.

    Attributes
    ----------
    summary: one row per prediction, model, family and regime (all, starved, unstarved); errors
        in percent. Predictions: blind (rates only), arrivals (runs whose arrival count is known,
        given it), "arrivals or blind" (every run, given the count where it is known).
    floor: the errors beside what a prediction of one run must err, from the spread of the seeds.
    verdicts: per prediction, model and family: runs called right, in percent.
    coverage: per prediction, model, family and metric: real runs inside their interval.
    near_critical: errors of near-critical runs and of the others.
    less_kv_memory: errors of the runs that had less KV memory than their configuration gives (told
        by their outcome), and of the others; only where there are such runs.
    targets: what the project promises, the figure, and whether it is kept.
    start: one row per model: runs that can or cannot start, and how many the twin calls right.
    worst: the runs with the largest throughput errors.
    left_out: how many runs are not in the figures, by reason.
    """

    summary: list[dict[str, Any]] = field(default_factory=list)
    floor: list[dict[str, Any]] = field(default_factory=list)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    coverage: list[dict[str, Any]] = field(default_factory=list)
    near_critical: list[dict[str, Any]] = field(default_factory=list)
    less_kv_memory: list[dict[str, Any]] = field(default_factory=list)
    targets: list[dict[str, Any]] = field(default_factory=list)
    start: list[dict[str, Any]] = field(default_factory=list)
    worst: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, Any]] = field(default_factory=list)


def build_report(rows: pl.DataFrame, *, level: float | None = None) -> Report:
    """Errors per model and family, starved and unstarved apart; of rows made by `build_rows`.

    `level` is that of the rows' intervals; coverage is held against its target at 0.9 alone.
    """
    import polars as pl

    judged = rows.filter(
        pl.col("excluded").is_null()
        & pl.col("real_total_throughput").is_not_null()
        & pl.col("twin_total_throughput").is_not_null()
    )
    report = Report(start=_start(rows), worst=_worst(judged), left_out=_left_out(rows))
    for head, prefix, part in _groups(judged):
        for regime, of_regime in _regimes(part):
            label = head | {"regime": regime, "runs": of_regime.height}
            report.summary.append(label | errors(of_regime, prefix))
            report.floor.append(label | floors(of_regime, prefix))
            for metric in INTERVAL_METRICS:
                found = coverage(of_regime, prefix, metric)
                if found is not None:
                    report.coverage.append(head | {"regime": regime} | found)
        report.verdicts.append(head | {"runs": part.height} | verdicts(part, prefix))
        report.near_critical.extend(_split(head, prefix, part, "near_critical"))
        if part["less_kv_memory"].any():
            report.less_kv_memory.extend(_split(head, prefix, part, "less_kv_memory"))
    promised = report.coverage if level == 0.9 else []
    report.targets.extend(targets(report.summary, report.verdicts, promised))
    return report


def _split(
    head: dict[str, Any], prefix: str, part: pl.DataFrame, flag: str
) -> Iterable[dict[str, Any]]:
    """Errors of the runs with a flag, and of those without."""
    import polars as pl

    for value in (True, False):
        of_kind = part.filter(pl.col(flag) == value)
        if of_kind.height:
            yield head | {flag: value, "runs": of_kind.height} | errors(of_kind, prefix)


def _groups(judged: pl.DataFrame) -> Iterable[tuple[dict[str, Any], str, pl.DataFrame]]:
    """(prediction, model, family), the prefix of its columns, and its rows."""
    import polars as pl

    kinds = [("blind", "twin", judged)]
    if "blind_total_throughput" in judged.columns:
        counted = judged.filter(pl.col("conditioned") != "none")
        kinds = [("blind", "blind", judged), ("arrivals", "twin", counted)]
        if counted.height < judged.height:
            kinds.append(("arrivals or blind", "twin", judged))
    for label, prefix, of_kind in kinds:
        for model in of_kind["model"].unique().sort():
            of_model = of_kind.filter(pl.col("model") == model)
            families = of_model["family"].unique().sort().to_list()
            for family in [*families, "all"] if len(families) > 1 else families:
                part = of_model if family == "all" else of_model.filter(pl.col("family") == family)
                yield {"prediction": label, "model": model, "family": family}, prefix, part


def _regimes(part: pl.DataFrame) -> Iterable[tuple[str, pl.DataFrame]]:
    import polars as pl

    starved = pl.col("real_starved")
    for regime, rows in (
        ("all", part),
        ("starved", part.filter(starved)),
        ("unstarved", part.filter(~starved)),
    ):
        if rows.height:
            yield regime, rows


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
