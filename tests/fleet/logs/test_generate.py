"""Generated traffic follows its stated laws, its seed, and nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest

from pytwin.errors import WorkloadError
from pytwin.fleet.forecast import bin_counts
from pytwin.fleet.logs import TrafficLaw, fleet_traffic, read_log
from pytwin.workload import LogNormal, ShareGpt

DAY = 86_400.0


def arrivals(traffic, name):
    return traffic.frame.filter(pl.col("adapter") == name)["arrival_s"].to_numpy()


def test_steady_rates_are_zipf():
    law = TrafficLaw.steady(zipf_exponent=1.0)
    traffic = fleet_traffic(4, rate_rps=0.5, duration_s=2 * DAY, law=law, lengths=(10, 5))
    counts = [len(arrivals(traffic, name)) for name in traffic.names]
    expected = 0.5 * 2 * DAY / np.arange(1, 5)
    assert np.all(np.abs(counts - expected) < 4 * np.sqrt(expected))
    assert traffic.true_rates(3600.0) == pytest.approx(
        np.repeat([[0.5], [0.25], [0.5 / 3], [0.125]], 48, axis=1)
    )


def test_a_total_is_shared_out():
    law = TrafficLaw.steady(zipf_exponent=0.7)
    traffic = fleet_traffic(10, total_rate_rps=2.0, duration_s=DAY, law=law, lengths=(10, 5))
    assert sum(rate.base_rps for rate in traffic.rates) == pytest.approx(2.0)
    assert traffic.frame.height == pytest.approx(2.0 * DAY, abs=4 * np.sqrt(2.0 * DAY))


def test_log_normal_rates_spread_as_stated():
    law = TrafficLaw.steady(popularity="lognormal", lognormal_sigma=1.2)
    traffic = fleet_traffic(2000, rate_rps=1e-4, duration_s=60.0, law=law, lengths=(10, 5))
    logs = np.log([rate.base_rps for rate in traffic.rates])
    assert logs.std() == pytest.approx(1.2, rel=0.07)
    assert np.median(logs) == pytest.approx(np.log(1e-4), abs=0.15)


def test_everything_on_the_counts_are_poisson_around_the_true_rate():
    """Thinning: counts given the rate function have its integral as mean and as variance."""
    law = TrafficLaw(bursts_per_day=4.0, virals_per_week=3.0, born_share=0.3, retired_share=0.3)
    chi = []
    for seed in range(6):
        traffic = fleet_traffic(
            5, rate_rps=0.2, duration_s=2 * DAY, law=law, lengths=(9, 9), seed=seed
        )
        truth = traffic.true_rates(600.0, points=600) * 600.0
        seen = bin_counts(
            traffic.log, 600.0, end_s=traffic.duration_s, adapters=traffic.names, allow_gaps=True
        ).counts
        assert np.all(seen[truth < 1e-9] == 0)  # not born yet, or retired
        busy = truth > 5
        chi.append((seen[busy] - truth[busy]) ** 2 / truth[busy])
    pooled = np.concatenate(chi)
    assert len(pooled) > 3000
    assert pooled.mean() == pytest.approx(1.0, abs=4 * np.sqrt(2.2 / len(pooled)) + 0.01)


def test_bursts_disperse_counts_and_steady_traffic_does_not():
    def dispersion(law: TrafficLaw) -> float:
        traffic = fleet_traffic(1, rate_rps=0.1, duration_s=14 * DAY, law=law, lengths=(9, 9))
        counts = bin_counts(traffic.log, 600.0).counts[0]
        return float(counts.var() / counts.mean())

    assert dispersion(TrafficLaw.steady()) == pytest.approx(1.0, abs=4 * np.sqrt(2 / 2016))
    assert dispersion(TrafficLaw.steady(bursts_per_day=3.0, burst_factor=6.0)) > 3.0


def test_a_day_swings_with_its_phase():
    law = TrafficLaw.steady(daily_amplitude=0.8, phase_spread_s=6 * 3600.0, zipf_exponent=0.0)
    traffic = fleet_traffic(3, rate_rps=0.5, duration_s=10 * DAY, law=law, lengths=(9, 9))
    for name, rate in zip(traffic.names, traffic.rates, strict=True):
        angle = 2 * np.pi * arrivals(traffic, name) / DAY
        # Of a density 1 + a sin(angle - p): the mean of exp(i angle) is a/2 exp(i (p + pi/2)).
        moment = np.exp(1j * angle).mean()
        assert abs(moment) == pytest.approx(0.4, abs=0.01)
        phase = (np.angle(moment) - np.pi / 2) % (2 * np.pi) * DAY / (2 * np.pi)
        assert (phase - rate.phase_s + DAY / 2) % DAY - DAY / 2 == pytest.approx(0.0, abs=600.0)
    assert len({rate.phase_s for rate in traffic.rates}) == 3


def test_weekends_are_quieter_and_the_week_has_its_mean():
    law = TrafficLaw.steady(weekend_drop=0.5)
    traffic = fleet_traffic(1, rate_rps=0.2, law=law, lengths=(9, 9))
    days = traffic.true_rates(DAY)[0]
    assert days.mean() == pytest.approx(0.2)
    assert days[5:] / days[0] == pytest.approx([0.5, 0.5])


def test_going_viral_steps_and_decays():
    law = TrafficLaw.steady(virals_per_week=1.0, viral_factor=10.0, viral_decay_s=3600.0)
    traffic = next(
        found
        for seed in range(20)
        if len((found := fleet_traffic(1, rate_rps=0.01, law=law, lengths=(9, 9), seed=seed))
               .rates[0].events) == 1
    )  # fmt: skip
    start = traffic.rates[0].events[0].start_s
    seen = traffic.rates[0].at(np.array([start - 1.0, start, start + 3600.0]))
    assert seen == pytest.approx([0.01, 0.1, 0.01 * (1 + 9 * np.exp(-1))])


def test_the_seed_decides():
    def made(seed: int) -> pl.DataFrame:
        return fleet_traffic(5, rate_rps=0.05, duration_s=DAY, seed=seed, ranks=[8, 16]).frame

    assert made(1).equals(made(1))
    assert not made(1).equals(made(2))


def test_another_adapter_or_other_lengths_change_no_arrival():
    def made(adapters: int, lengths) -> pl.DataFrame:
        return fleet_traffic(adapters, rate_rps=0.05, duration_s=DAY, lengths=lengths).frame

    few, many = made(3, "sharegpt"), made(11, "sharegpt")
    names = few["adapter"].unique()
    assert many.filter(pl.col("adapter").is_in(names.implode())).equals(few)
    assert made(3, (7, 7))["arrival_s"].equals(few["arrival_s"])


def test_adapters_are_uncorrelated():
    law = TrafficLaw.steady(zipf_exponent=0.0, bursts_per_day=20.0)
    traffic = fleet_traffic(6, rate_rps=0.05, law=law, lengths=(9, 9))
    counts = bin_counts(traffic.log, 600.0).counts
    correlation = np.corrcoef(counts)[np.triu_indices(6, 1)]
    # Bursts last 900 s: neighbouring bins correlate, about half of 1008 bins tell something new.
    assert np.abs(correlation).max() < 4.5 / np.sqrt(1008 / 2)


def test_lengths_follow_their_law():
    shared = fleet_traffic(1, rate_rps=0.5, duration_s=DAY, lengths=ShareGpt(300, 200)).frame
    assert shared["prompt_tokens"].mean() == pytest.approx(300, rel=0.03)
    assert shared["output_tokens"].mean() == pytest.approx(200, rel=0.03)
    law = LogNormal(100, 0.5, 50, 1.0, max_total_tokens=1000)
    drawn = fleet_traffic(1, rate_rps=0.5, duration_s=DAY, lengths=law).frame
    assert (drawn["prompt_tokens"] + drawn["output_tokens"]).max() <= 1000
    assert drawn["prompt_tokens"].median() == pytest.approx(100, rel=0.03)
    assert drawn["output_tokens"].min() >= 1


def test_a_written_log_reads_back(tmp_path):
    frame = fleet_traffic(3, rate_rps=0.01, duration_s=DAY, ranks=[8, 16]).frame
    frame.write_csv(tmp_path / "log.csv")
    assert read_log(tmp_path / "log.csv").frame.equals(frame)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rate_rps": None}, "rate_rps and total_rate_rps exclude each other"),
        ({"rate_rps": 0}, r"rate_rps \(0\) must be > 0"),
        ({"adapters": 0}, r"adapters \(0\) must be from 1"),
        ({"duration_s": -1}, r"duration_s \(-1\) must be > 0"),
        ({"rate_rps": 1e5}, r"at most 50000000 are generated"),
    ],
)
def test_bad_values(changed, message):
    given = {"adapters": 1, "rate_rps": 0.1, "lengths": (9, 9)} | changed
    with pytest.raises(WorkloadError, match=message):
        fleet_traffic(given.pop("adapters"), **given)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(TrafficLaw)])
def test_every_parameter_of_the_law_is_checked(field):
    with pytest.raises(WorkloadError, match=field):
        TrafficLaw(**{field: -1.0})
