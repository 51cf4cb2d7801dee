"""The laws of generated traffic: how an adapter's rate moves over time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pytwin.errors import WorkloadError
from pytwin.workload.checks import non_negative, number, positive

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DAY_S = 86_400.0
WEEK_S = 7 * DAY_S
_WEEKEND_S = 2 * DAY_S


@dataclass(frozen=True, kw_only=True)
class TrafficLaw:
    """How the rates of `fleet_traffic` move; each effect is off at 0 (factors: at 1).

    The rate of adapter k at time t, in requests/s, is the product
    base(k) x alive(k, t) x daily(k, t) x weekly(t) x (1 + bursts(k, t) + virals(k, t)), where a
    burst or viral of factor f adds f - 1 while it lasts. Random choices are per adapter.
    """

    popularity: Literal["zipf", "lognormal"] = "zipf"
    """zipf: base(k) = rate_rps / k^zipf_exponent; lognormal: of median rate_rps."""
    zipf_exponent: float = 1.0
    """Of popularity zipf."""
    lognormal_sigma: float = 1.5
    """Of popularity lognormal: standard deviation of the logarithm of the base rates."""
    daily_amplitude: float = 0.6
    """daily = 1 + a sin(2 pi (t - phase) / day), with a mean a of this."""
    daily_spread: float = 0.2
    """a is uniform within daily_amplitude -+ this, kept in [0, 1]."""
    phase_spread_s: float = 3 * 3600.0
    """Phases are uniform within -+ this; at 0 all adapters peak six hours after the start."""
    weekend_drop: float = 0.0
    """On days 6 and 7 of a week the rate is lower by this share; the week's mean stays 1."""
    bursts_per_day: float = 0.5
    """Bursts start as a Poisson process of this rate, per adapter."""
    burst_factor: float = 4.0
    """A burst multiplies the rate by 1 + a Gamma of shape 2, in the mean by this."""
    burst_length_s: float = 900.0
    """Bursts last an exponential time of this mean."""
    virals_per_week: float = 0.1
    """Adapters go viral as a Poisson process of this rate, per adapter."""
    viral_factor: float = 10.0
    """Going viral is a step of the rate to this multiple, which then decays."""
    viral_decay_s: float = 6 * 3600.0
    """Time constant of the decay."""
    born_share: float = 0.0
    """Probability that an adapter begins at a uniform time within the log."""
    retired_share: float = 0.0
    """Probability that an adapter ends at a uniform time within the log, after its birth."""

    def __post_init__(self) -> None:
        if self.popularity not in ("zipf", "lognormal"):
            raise WorkloadError(f"popularity ({self.popularity}) must be zipf or lognormal")
        for name in ("zipf_exponent", "lognormal_sigma", "daily_spread", "phase_spread_s",
                     "bursts_per_day", "virals_per_week"):  # fmt: skip
            non_negative(name, getattr(self, name))
        for name in ("burst_length_s", "viral_decay_s"):
            positive(name, getattr(self, name))
        for name in ("daily_amplitude", "weekend_drop", "born_share", "retired_share"):
            if not 0 <= number(name, getattr(self, name)) <= 1:
                raise WorkloadError(f"{name} ({getattr(self, name)}) must be from 0 to 1")
        for name in ("burst_factor", "viral_factor"):
            if number(name, getattr(self, name)) < 1:
                raise WorkloadError(f"{name} ({getattr(self, name)}) must be >= 1")

    @staticmethod
    def steady(**changes: float) -> TrafficLaw:
        """Constant rates: no swing, bursts or virals, but for those given."""
        quiet = {"daily_amplitude": 0.0, "daily_spread": 0.0, "bursts_per_day": 0.0}
        return TrafficLaw(**(quiet | {"virals_per_week": 0.0} | changes))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Event:
    """A burst or an adapter going viral: its rate is times `factor` at `start_s`."""

    kind: Literal["burst", "viral"]
    start_s: float
    factor: float
    length_s: float
    """Of a burst its length, of a viral the time constant of its decay."""


@dataclass(frozen=True, eq=False)
class AdapterRate:
    """The rate of one adapter over time; `mean_rps` and `at` share one law."""

    base_rps: float
    amplitude: float
    phase_s: float
    weekend_drop: float
    born_s: float
    retired_s: float
    events: tuple[Event, ...] = field(default=())

    def at(self, time_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Requests per second at these times."""
        import numpy as np

        swing = 1 + self.amplitude * np.sin(2 * np.pi * (time_s - self.phase_s) / DAY_S)
        rate = self.base_rps * swing * self._weekly(time_s) * self._excited(time_s)
        return np.where((time_s >= self.born_s) & (time_s < self.retired_s), rate, 0.0)

    def bound(self, edges_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """An upper bound of the rate in each cell between neighbouring edges, in requests/s."""
        import numpy as np

        start, end = edges_s[:-1], edges_s[1:]
        excited = np.ones(len(start))
        for event in self.events:
            extra = event.factor - 1
            if event.kind == "burst":
                stop = event.start_s + event.length_s
                excited += extra * ((start < stop) & (end > event.start_s))
            else:
                # It decays: within a cell it is greatest at its beginning.
                age = np.maximum(start - event.start_s, 0.0)
                excited += extra * np.exp(-age / event.length_s) * (end > event.start_s)
        top = self.base_rps * (1 + self.amplitude) * _weekday_factor(self.weekend_drop)
        return top * excited * ((end > self.born_s) & (start < self.retired_s))

    def _excited(self, time_s: NDArray[np.float64]) -> NDArray[np.float64]:
        import numpy as np

        total = np.ones(len(time_s))
        for event in self.events:
            age = time_s - event.start_s
            if event.kind == "burst":
                total += (event.factor - 1) * ((age >= 0) & (age < event.length_s))
            else:
                decay = np.exp(-np.maximum(age, 0.0) / event.length_s)
                total += (event.factor - 1) * decay * (age >= 0)
        return total

    def _weekly(self, time_s: NDArray[np.float64]) -> NDArray[np.float64]:
        import numpy as np

        weekday = _weekday_factor(self.weekend_drop)
        weekend = time_s % WEEK_S >= WEEK_S - _WEEKEND_S
        return np.where(weekend, weekday * (1 - self.weekend_drop), weekday)


def _weekday_factor(weekend_drop: float) -> float:
    """That of days 1 to 5, so that the week's mean is 1."""
    return 7.0 / (7.0 - 2.0 * weekend_drop)


def draw_rate(
    law: TrafficLaw,
    position: int,
    rate_rps: float,
    duration_s: float,
    random: np.random.Generator,
) -> AdapterRate:
    """The rate function of adapter `position` (from 1): all its random choices, in fixed order."""
    spread = law.daily_spread
    swing = float(random.uniform(law.daily_amplitude - spread, law.daily_amplitude + spread))
    phase = float(random.uniform(-law.phase_spread_s, law.phase_spread_s))
    normal = float(random.standard_normal())
    life = random.random(2)
    turns = sorted(float(value) for value in random.random(2) * duration_s)
    born, retired = life[0] < law.born_share, life[1] < law.retired_share
    if law.popularity == "zipf":
        import math

        base = rate_rps * math.pow(position, -law.zipf_exponent)
    else:
        import math

        base = rate_rps * math.exp(law.lognormal_sigma * normal)
    return AdapterRate(
        base_rps=base,
        amplitude=min(max(swing, 0.0), 1.0),
        phase_s=phase,
        weekend_drop=law.weekend_drop,
        born_s=turns[0] if born else 0.0,
        retired_s=turns[1] if retired else float("inf"),
        events=(*_bursts(law, duration_s, random), *_virals(law, duration_s, random)),
    )


def _bursts(law: TrafficLaw, duration_s: float, random: np.random.Generator) -> list[Event]:
    count = int(random.poisson(law.bursts_per_day * duration_s / DAY_S))
    starts = sorted(random.random(count) * duration_s)
    excess = random.gamma(2.0, (law.burst_factor - 1) / 2.0, count)
    lengths = random.exponential(law.burst_length_s, count)
    return [
        Event("burst", float(start), 1 + float(extra), float(length))
        for start, extra, length in zip(starts, excess, lengths, strict=True)
    ]


def _virals(law: TrafficLaw, duration_s: float, random: np.random.Generator) -> list[Event]:
    count = int(random.poisson(law.virals_per_week * duration_s / WEEK_S))
    starts = sorted(random.random(count) * duration_s)
    return [Event("viral", float(s), law.viral_factor, law.viral_decay_s) for s in starts]
