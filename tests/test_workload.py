"""Traffic: who is asked for how often, and how long the requests are."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pytwin as pt
from pytwin.catalog import load_lengths, load_profile
from pytwin.errors import PytwinError
from pytwin.workload import as_length_law, tilted, workload_from_values
from tests.conftest import TOY

PROFILE = load_profile(TOY)


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# -- adapters -------------------------------------------------------------------------------------


def test_rates_and_ranks_are_cycled():
    served = pt.adapters(5, rates_rps=[0.1, 0.2], ranks=[8, 16, 32])
    assert served.rates_rps == [0.1, 0.2, 0.1, 0.2, 0.1]
    assert served.ranks == [8, 16, 32, 8, 16]
    assert len(served) == 5


@given(st.integers(1, 200), st.floats(0, 3), st.floats(0.001, 1000))
def test_zipf_rates_fall_and_sum_to_the_total(n, exponent, total):
    served = pt.adapters_zipf(n, total_rate_rps=total, exponent=exponent)
    rates = served.rates_rps
    assert rates == sorted(rates, reverse=True)
    assert math.isclose(sum(rates), total, rel_tol=1e-9)


def test_popularity_is_shared_out():
    served = pt.adapters_by_popularity([3, 1], total_rate_rps=8)
    assert served.rates_rps == [6, 2]


def test_sets_join():
    both = pt.adapters(2, 0.1, 8) + pt.adapters(1, 0.5, 16)
    assert both.rates_rps == [0.1, 0.1, 0.5]
    assert both.ranks == [8, 8, 16]


def test_csv(tmp_path):
    path = tmp_path / "fleet.csv"
    path.write_text(
        "adapter,rate_rps,rank,prompt_tokens,output_tokens\n"
        "sql,0.5,16,,\nchat,0.25,8,,\nsummary,0.1,32,900,100\n"
    )
    served = pt.adapters_from_csv(path)
    assert served.names == ("sql", "chat", "summary")
    assert served.rates_rps == [0.5, 0.25, 0.1]
    assert served.ranks == [16, 8, 32]
    groups = served.groups
    assert [group.count for group in groups] == [2, 1]
    assert groups[1].lengths == pt.ConstantLengths(900, 100)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("adapter,rate_rps\na,1\n", "lacks column rank"),
        ("adapter,rate_rps,rank\n", "holds no adapter"),
        ("adapter,rate_rps,rank\na,-1,8\n", "line 2: rate_rps (-1.0) must be >= 0"),
        ("adapter,rate_rps,rank\na,nan,8\n", "line 2: rate_rps (nan) must be finite"),
        ("adapter,rate_rps,rank\na,x,8\n", "line 2: rate_rps ('x') must be a number"),
        ("adapter,rate_rps,rank\na,1,600\n", "line 2: rank (600) must be from 1 to 512"),
        ("adapter,rate_rps,rank\na,1,8\na,1,8\n", "line 3: adapter ('a') must differ"),
        ("adapter,rate_rps,rank,prompt_tokens\na,1,8,5\n", "line 2: output_tokens ('')"),
    ],
)
def test_bad_csv_names_its_line(tmp_path, text, expected):
    path = tmp_path / "fleet.csv"
    path.write_text(text)
    with pytest.raises(PytwinError) as error:
        pt.adapters_from_csv(path)
    assert expected in one_line(error)


def test_absent_csv():
    with pytest.raises(pt.DataError, match=r"nowhere.csv cannot be read: No such file"):
        pt.adapters_from_csv("nowhere.csv")


# -- lengths --------------------------------------------------------------------------------------


@given(st.floats(200, 250), st.floats(180, 230))
def test_a_tilted_table_has_the_asked_means(prompt, output):
    table = tilted(load_lengths("sharegpt-llama-3"), prompt, output)
    assert table.means() == pytest.approx((prompt, output), rel=1e-9)
    assert (table.weights >= 0).all()


def test_a_tilt_keeps_the_correlation_of_prompts_and_outputs():
    table = load_lengths("sharegpt-llama-3")
    near = tilted(table, 223.0, 196.4)
    x, y = near.prompt_tokens.astype(float), near.output_tokens.astype(float)
    w = near.weights / near.weights.sum()
    mx, my = w @ x, w @ y
    pearson = (w @ ((x - mx) * (y - my))) / math.sqrt((w @ (x - mx) ** 2) * (w @ (y - my) ** 2))
    assert pearson == pytest.approx(-0.27, abs=0.02)


def test_means_out_of_reach_are_refused():
    with pytest.raises(pt.WorkloadError, match=r"mean lengths \(900, 900\) are too far"):
        tilted(load_lengths("sharegpt-llama-3"), 900, 900)


def test_sharegpt_is_reweighted_to_the_published_pools():
    law = pt.ShareGpt().resolve(PROFILE)
    assert law.table is not None
    assert law.table.means() == pytest.approx(load_lengths("sharegpt-llama-3").pool_means)


def test_equal_empirical_laws_share_a_table():
    one = pt.Empirical([(10, 20), (30, 40)]).resolve(PROFILE)
    two = pt.Empirical([(10, 20), (30, 40)]).resolve(PROFILE)
    three = pt.Empirical([(10, 20), (30, 40)], weights=[1, 2]).resolve(PROFILE)
    assert one.document == two.document
    assert one.document != three.document


def test_lengths_may_be_a_name_a_pair_or_a_law():
    assert as_length_law("sharegpt") == pt.ShareGpt()
    assert as_length_law((250, 231)) == pt.ConstantLengths(250, 231)
    law = pt.LogNormal(100, 0.5, 50, 0.7)
    assert as_length_law(law) is law


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: as_length_law("zipf"), "lengths (zipf) is unknown"),
        (lambda: as_length_law((0, 5)), "prompt_tokens (0) must be from 1"),
        (lambda: as_length_law((5, 2.5)), "output_tokens (2.5) must be a whole number"),
        (lambda: pt.LogNormal(-1, 0.5, 50, 0.5), "prompt_median (-1) must be > 0"),
        (lambda: pt.LogNormal(1500, 0.5, 900, 0.5), "max_total_tokens (2048) must be >="),
        (lambda: pt.Empirical([]), "pairs ([]) must hold at least one"),
        (lambda: pt.Empirical([(1, 2)], weights=[0]), "weights (all 0) must hold a positive"),
        (lambda: pt.Empirical([(1, 2)], weights=[1, 2]), "weights (2) must be as many as pairs"),
        (lambda: pt.ShareGpt(mean_prompt_tokens=3), "must be given together"),
    ],
)
def test_bad_lengths(make, expected):
    with pytest.raises(pt.WorkloadError) as error:
        make()
    assert expected in one_line(error)


# -- workloads ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "total rate (0) must be > 0"),
        ({"rate_rps": -1}, "rate_rps (-1) must be >= 0"),
        ({"rate_rps": float("nan")}, "rate_rps (nan) must be finite"),
        ({"rate_rps": "ten"}, "rate_rps ('ten') must be a number"),
        ({"rate_rps": 1, "duration_s": 0}, "duration_s (0) must be > 0"),
        ({"rate_rps": 1, "duration_s": float("inf")}, "duration_s (inf) must be finite"),
        ({"rate_rps": 1, "total_requests": 0}, "total_requests (0) must be from 1"),
        ({"rate_rps": 1, "early_eos": 2}, "early_eos (2) must be from 0 to 1"),
        ({"adapters": 5}, "adapters (5) must come from pt.adapters"),
        ({"rate_rps": 4, "duration_s": 1e12}, "duration_s (1e+12) at 4 requests/s expects 4e+12"),
    ],
)
def test_bad_traffic(options, expected):
    with pytest.raises(pt.WorkloadError) as error:
        pt.Workload.poisson(**options)
    assert expected in one_line(error)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: pt.adapters(3, -0.1), "rates_rps (-0.1) must be >= 0"),
        (lambda: pt.adapters(3, []), "rates_rps ([]) must hold at least one rate"),
        (lambda: pt.adapters(3, 0.1, 0), "ranks (0) must be from 1 to 512"),
        (lambda: pt.adapters(-3, 0.1), "adapters (-3) must be from 0"),
        (lambda: pt.adapters_zipf(0, total_rate_rps=1), "adapters (0) must be from 1"),
        (lambda: pt.adapters_by_popularity([0], total_rate_rps=1), "popularity must hold"),
        (lambda: pt.Workload.gamma(burstiness=0, rate_rps=1), "burstiness (0) must be > 0"),
        (lambda: pt.Workload.gamma(burstiness=1e-9, rate_rps=1), "burstiness (1e-09) must be from"),
    ],
)
def test_bad_adapters_and_laws(call, expected):
    with pytest.raises(pt.WorkloadError) as error:
        call()
    assert expected in one_line(error)


def test_conditioning_scales_the_rates_to_the_count():
    traffic = pt.Workload.poisson(adapters=pt.adapters(4, [1, 3]), duration_s=100)
    given_count = traffic.conditioned(1600)
    assert given_count.total_requests == 1600
    assert given_count.adapters.rates_rps == [2, 6, 2, 6]


def test_plain_values_state_the_same_workload():
    plain = workload_from_values(
        served_adapters=4, rates_rps=[0.1, 0.2], ranks=[8], lengths=[250, 231], duration_s=60
    )
    built = pt.Workload.poisson(
        adapters=pt.adapters(4, [0.1, 0.2], [8]), lengths=(250, 231), duration_s=60
    )
    assert plain == built


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"served_adapters": 4}, "served_adapters (4) need rates_rps"),
        ({"served_adapters": 4, "popularity": "zipf:1"}, "needs total_rate_rps"),
        (
            {"served_adapters": 4, "total_rate_rps": 1, "popularity": "zipf:x"},
            "popularity (zipf:x) must be uniform, zipf:EXPONENT",
        ),
        (
            {"served_adapters": 4, "total_rate_rps": 1, "rates_rps": 1},
            "total_rate_rps (1) and rates_rps exclude each other",
        ),
        ({"base_rate_rps": 1, "arrivals": "weibull"}, "arrivals (weibull) must be one of"),
        ({"base_rate_rps": 1, "arrivals": "gamma"}, "arrivals (gamma) needs burstiness"),
        ({"base_rate_rps": 1, "lengths": {"law": "pareto"}}, "lengths law (pareto) must be one"),
        ({"base_rate_rps": 1, "lengths": {"law": "constant", "x": 1}}, "must be given as prompt"),
    ],
)
def test_bad_plain_values(values, expected):
    with pytest.raises(pt.WorkloadError) as error:
        workload_from_values(**values)
    assert expected in one_line(error)


# -- traces ---------------------------------------------------------------------------------------

ROWS = {
    "arrival_s": [0.0, 0.5, 0.5, 2.0],
    "adapter": ["sql", None, "", "chat"],
    "prompt_tokens": [10, 20, 30, 40],
    "output_tokens": [1, 2, 3, 4],
}


@pytest.mark.parametrize("suffix", ["csv", "parquet", None])
def test_a_trace_reads_alike_from_csv_parquet_and_frame(tmp_path, suffix):
    frame = pl.DataFrame(ROWS)
    source: object = frame
    if suffix is not None:
        source = tmp_path / f"trace.{suffix}"
        (frame.write_csv if suffix == "csv" else frame.write_parquet)(source)
    workload = pt.Workload.replay(source, ranks=[8, 32])
    trace = workload.trace
    assert trace.names == ("sql", "chat")
    np.testing.assert_array_equal(trace.adapter, [1, 0, 0, 2])
    assert workload.adapter_ranks == [8, 32]
    assert 2.0 < workload.duration_s < 2.01
    assert workload.drain


def test_a_trace_may_state_ranks():
    frame = pl.DataFrame(ROWS | {"rank": [64, None, None, 8]})
    assert pt.Workload.replay(frame).adapter_ranks == [64, 8]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"arrival_s": [0.0, 0.5, 0.4, 2.0]}, "row 2: arrival_s (0.4) must not go backwards"),
        ({"arrival_s": [-1.0, 0.5, 0.6, 2.0]}, "row 0: arrival_s (-1.0) must be finite and >= 0"),
        ({"arrival_s": [0.0, 0.5, 0.6, None]}, "arrival_s (null) must be given in every row"),
        ({"arrival_s": ["a", "b", "c", "d"]}, "arrival_s (String) must be a column of numbers"),
        ({"prompt_tokens": [0, 1, 1, 1]}, "row 0: prompt_tokens (0) must be from 1"),
        ({"output_tokens": [1, 1, -1, 1]}, "row 2: output_tokens (-1) must be from 1"),
        ({"adapter": [0.5, 1.5, 2.5, 3.5]}, "adapter (Float64) must be names or whole numbers"),
        ({"rank": [8, 8, 8, 600]}, "rank (600) of adapter chat must be one value from 1 to 512"),
    ],
)
def test_bad_traces_name_the_row(change, expected):
    with pytest.raises(PytwinError) as error:
        pt.Workload.replay(pl.DataFrame(ROWS | change))
    assert expected in one_line(error)


def test_unreadable_traces(tmp_path):
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(b"not parquet at all")
    empty = tmp_path / "empty.csv"
    empty.write_text("arrival_s,adapter,prompt_tokens,output_tokens\n")
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("time,who\n1,2\n")
    for path, expected in [
        (bad, "is not readable CSV or Parquet"),
        (empty, "holds no request"),
        (wrong, "lacks column arrival_s"),
        (tmp_path / "absent.csv", "cannot be read"),
    ]:
        with pytest.raises(pt.DataError) as error:
            pt.Workload.replay(path)
        assert expected in one_line(error)


def test_a_subset_keeps_its_requests() -> None:
    """An adapter of a subset has the arrivals and lengths that it has in the whole."""
    own = pt.ConstantLengths(100, 50)
    whole = pt.adapters(6, rates_rps=[0.5, 0.2, 0.1], ranks=[8, 16]) + pt.adapters(
        3, rates_rps=0.3, ranks=8, lengths=own
    )
    server = pt.EngineConfig(profile="llama-3.1-8b-instruct@h100-64gb", max_loras=9)
    positions = [7, 1, 4]

    def rows(adapters: pt.Adapters, number: int) -> list[tuple[float, int]]:
        run = pt.simulate(server, pt.Workload.poisson(adapters=adapters, duration_s=100), seed=3)
        frame = run.requests
        frame = frame.filter(frame["adapter"] == number)
        return frame.select("arrival_s", "prompt_tokens").rows()

    part = whole.subset(positions)
    assert part.ranks == [whole.ranks[position] for position in positions]
    for number, position in enumerate(positions, start=1):
        assert rows(part, number) == rows(whole, position + 1) != []
    with pytest.raises(pt.WorkloadError, match=r"position \(9\) must be < 9"):
        whole.subset([9])
