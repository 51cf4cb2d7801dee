"""`pt.recommend` and `pt.recommend_fleet`: a question asked in one call."""

from __future__ import annotations

from collections.abc import Iterable

from pytwin.config import EngineConfig
from pytwin.errors import ConfigError, WorkloadError
from pytwin.learn.answer import Recommendation
from pytwin.learn.bundle import Bundle
from pytwin.learn.describe import Traffic
from pytwin.learn.question import SERVED, SLOTS, Objective, Question, check_rates, grid
from pytwin.learn.recommend import recommend as decide
from pytwin.learn.subset import FleetAnswer
from pytwin.learn.subset import recommend_fleet as fit_fleet
from pytwin.workload import Adapters
from pytwin.workload.checks import non_negative, positive, whole
from pytwin.workload.checks import ranks as checked_ranks
from pytwin.workload.checks import rates as checked_rates
from pytwin.workload.lengths import LengthLaw, as_length_law


def recommend(
    server: EngineConfig | str,
    *,
    rates_rps: float | Iterable[float] | None = None,
    ranks: int | Iterable[int] = 16,
    served: Iterable[int] = SERVED,
    slots: Iterable[int] = SLOTS,
    lengths: str | tuple[int, int] | LengthLaw = "sharegpt",
    base_rate_rps: float = 0.0,
    max_lora_rank: int | None = None,
    objective: str | Objective = "slo",
    duration_s: float = 3600.0,
    models: str | Bundle | None = "best",
    verify: bool = True,
    workers: int | None = None,
) -> Recommendation:
    """How many adapters to serve on one server, in how many slots.

    Parameters
    ----------
    server: a profile's name or path, or a `pt.EngineConfig` whose other settings are kept.
    rates_rps, ranks: cycled over the served adapters; requests per second, 1 to 512.
    served, slots: numbers of adapters and values of max_loras to consider; slots above the served
        adapters are skipped.
    lengths: "sharegpt", a (prompt_tokens, output_tokens) pair, or a law.
    base_rate_rps: requests per second for the base model.
    max_lora_rank: rank of every slot; left out, the smallest that holds the ranks.
    objective: "slo" (the default: not starved; mean TTFT and TPOT within 3 s and 200 ms), "paper"
        (throughput above 0.9 of nominal), or a `pytwin.learn.question.Objective`.
    duration_s: horizon in seconds.
    models: "best", "readable", the path of others, or None for the twin alone.
    verify: let the twin check the models' answer (seconds); False for their word alone.
    workers: threads; does not change the answer.

    Returns
    -------
    Recommendation: `feasible`, `best`, `equivalent`, `binding`, ...; `to_dict()` is the JSON of
        `pytwin recommend`.

    Raises
    ------
    PytwinError: bad input, in one line with the value, the rule and the way out.
    """
    if rates_rps is None:
        raise WorkloadError("rates_rps (None) must hold at least one rate in requests per second")
    rates = checked_rates("rates_rps", rates_rps)
    check_rates(rates)
    traffic = Traffic(
        rates,
        checked_ranks("ranks", ranks),
        as_length_law(lengths),
        non_negative("base_rate_rps", base_rate_rps),
    )
    question = Question(
        _server(server),
        traffic,
        grid(traffic, served, slots, max_lora_rank),
        _objective(objective),
        positive("duration_s", duration_s),
    )
    return decide(question, models=models, verify=verify, workers=_threads(workers))


def recommend_fleet(
    server: EngineConfig | str,
    adapters: Adapters,
    *,
    slots: Iterable[int] = SLOTS,
    lengths: str | tuple[int, int] | LengthLaw = "sharegpt",
    base_rate_rps: float = 0.0,
    max_lora_rank: int | None = None,
    objective: str | Objective = "slo",
    duration_s: float = 3600.0,
    models: str | Bundle | None = "best",
    verify: bool = True,
    workers: int | None = None,
) -> FleetAnswer:
    """Which adapters of a concrete fleet fit on one server, and how to set it.

    Parameters as of `recommend`; `adapters` from `pt.adapters` or `pt.adapters_from_csv`.
    """
    if not isinstance(adapters, Adapters):
        raise WorkloadError(
            f"adapters ({adapters!r}) must come from pt.adapters(n, rates_rps, ranks) or "
            "pt.adapters_from_csv(path)"
        )
    return fit_fleet(
        _server(server),
        adapters,
        slots=tuple(slots),
        lengths=as_length_law(lengths),
        objective=_objective(objective),
        duration_s=positive("duration_s", duration_s),
        models=models,
        verify=verify,
        workers=_threads(workers),
        base_rate_rps=non_negative("base_rate_rps", base_rate_rps),
        max_lora_rank=max_lora_rank,
    )


def _server(given: object) -> EngineConfig:
    if isinstance(given, EngineConfig):
        return given
    if isinstance(given, str):
        return EngineConfig(profile=given)
    raise ConfigError(f"server ({given!r}) must be a pt.EngineConfig or a profile's name")


def _threads(given: int | None) -> int | None:
    return None if given is None else whole("workers", given, least=1, most=4096)


def _objective(given: object) -> Objective:
    if isinstance(given, Objective):
        return given
    if given in ("slo", "paper"):
        return Objective(given)
    raise ConfigError(f"objective ({given}) must be slo or paper")
