"""A workload from plain values, as a command line or a sweep row holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytwin.errors import WorkloadError
from pytwin.workload.adapter_set import (
    NO_ADAPTERS,
    Adapters,
    adapters,
    adapters_by_popularity,
    adapters_zipf,
)
from pytwin.workload.checks import whole
from pytwin.workload.lengths import ConstantLengths, LengthLaw, LogNormal, ShareGpt, as_length_law
from pytwin.workload.traffic import GeneratedWorkload, Workload

_LAWS: Mapping[str, type[LengthLaw]] = {
    "constant": ConstantLengths,
    "lognormal": LogNormal,
    "sharegpt": ShareGpt,
}
ARRIVALS = ("poisson", "gamma", "constant")


def workload_from_values(
    *,
    served_adapters: int | Adapters = 0,
    rates_rps: float | Sequence[float] | None = None,
    ranks: int | Sequence[int] = 16,
    total_rate_rps: float | None = None,
    popularity: str | Sequence[float] | None = None,
    base_rate_rps: float = 0.0,
    arrivals: str | None = None,
    burstiness: float | None = None,
    lengths: str | Sequence[int] | Mapping[str, Any] | LengthLaw = "sharegpt",
    duration_s: float = 3600.0,
    total_requests: int | None = None,
    early_eos: float | None = None,
    drain: bool = False,
) -> GeneratedWorkload:
    """The workload that these values state.

    Parameters
    ----------
    served_adapters: number of adapters, over which rates_rps and ranks are cycled, or the
        adapters themselves.
    total_rate_rps, popularity: instead of rates_rps: a total in requests/s, shared by
        "zipf:EXPONENT", "uniform", or one number per adapter.
    base_rate_rps: requests/s for the base model, without adapter.
    arrivals: "poisson" (default), "gamma" (needs burstiness) or "constant".
    lengths: "sharegpt", a (prompt, output) pair, a law, or a mapping {"law": name, ...} with
        the law's parameters.

    Raises
    ------
    WorkloadError: one line with the value, the rule and the way out.
    """
    if isinstance(served_adapters, Adapters):
        served = served_adapters
    else:
        count = whole("served_adapters", served_adapters, least=0, most=1_000_000)
        served = _adapters(count, rates_rps, ranks, total_rate_rps, popularity)
    common: dict[str, Any] = {
        "adapters": served,
        "rate_rps": base_rate_rps,
        "lengths": _lengths(lengths),
        "duration_s": duration_s,
        "total_requests": total_requests,
        "early_eos": early_eos,
        "drain": drain,
    }
    law = arrivals or ("poisson" if burstiness is None else "gamma")
    if law not in ARRIVALS:
        raise WorkloadError(f"arrivals ({law}) must be one of {', '.join(ARRIVALS)}")
    if law == "gamma":
        if burstiness is None:
            raise WorkloadError("arrivals (gamma) needs burstiness > 0: 1 is Poisson")
        return Workload.gamma(burstiness=burstiness, **common)
    if burstiness not in (None, 1, 1.0) or (burstiness is not None and law == "constant"):
        raise WorkloadError(f"burstiness ({burstiness}) is for arrivals gamma, not {law}")
    return Workload.poisson(**common) if law == "poisson" else Workload.constant(**common)


def _adapters(
    count: int,
    rates_rps: float | Sequence[float] | None,
    ranks: int | Sequence[int],
    total_rate_rps: float | None,
    popularity: str | Sequence[float] | None,
) -> Adapters:
    if total_rate_rps is None:
        if popularity is not None:
            raise WorkloadError(f"popularity ({popularity}) needs total_rate_rps to share out")
        if count == 0:
            return NO_ADAPTERS
        if rates_rps is None:
            raise WorkloadError(
                f"served_adapters ({count}) need rates_rps, or total_rate_rps and popularity"
            )
        return adapters(count, rates_rps, ranks)
    if rates_rps is not None:
        raise WorkloadError(
            f"total_rate_rps ({total_rate_rps}) and rates_rps exclude each other: leave one out"
        )
    if count == 0:
        raise WorkloadError(f"total_rate_rps ({total_rate_rps}) needs served_adapters >= 1")
    if popularity is None or popularity == "uniform":
        return adapters_zipf(count, total_rate_rps=total_rate_rps, exponent=0.0, ranks=ranks)
    if isinstance(popularity, str):
        return adapters_zipf(
            count, total_rate_rps=total_rate_rps, exponent=_zipf_exponent(popularity), ranks=ranks
        )
    if len(popularity) != count:
        raise WorkloadError(
            f"popularity ({len(popularity)} shares) must have one per served adapter ({count})"
        )
    return adapters_by_popularity(popularity, total_rate_rps=total_rate_rps, ranks=ranks)


def _zipf_exponent(text: str) -> float:
    kind, _, exponent = text.partition(":")
    try:
        if kind == "zipf":
            return float(exponent or 1.0)
    except ValueError:
        pass
    raise WorkloadError(
        f"popularity ({text}) must be uniform, zipf:EXPONENT or one share per adapter"
    )


def _lengths(given: str | Sequence[int] | Mapping[str, Any] | LengthLaw) -> LengthLaw:
    if not isinstance(given, Mapping):
        pair = given if isinstance(given, (str, LengthLaw)) else tuple(given)
        return as_length_law(pair)  # type: ignore[arg-type]  # its own check names the rule
    parameters = dict(given)
    name = parameters.pop("law", None)
    law = _LAWS.get(str(name))
    if law is None:
        raise WorkloadError(f"lengths law ({name}) must be one of {', '.join(_LAWS)}")
    try:
        return law(**parameters)
    except TypeError:
        expected = ", ".join(law.__dataclass_fields__)  # type: ignore[attr-defined]
        raise WorkloadError(
            f"lengths ({', '.join(parameters)}) must be given as {expected} for law {name}"
        ) from None
