"""Rows by number: the same rows however they are cut, none lost, none twice."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytwin.errors import ConfigError
from pytwin.sweep import Design, parse_spec


def rows(document: dict[str, Any]) -> list[dict[str, Any]]:
    design = Design(parse_spec(document))
    return list(design.rows(0, design.n_rows))


def test_the_last_axis_turns_fastest_and_seeds_are_last() -> None:
    found = rows({"grid": {"max_loras": [1, 2], "served_adapters": [4, 8]}, "seeds": [7, 3]})
    seen = [(row["max_loras"], row["served_adapters"], row["seed"]) for row in found]
    assert seen == list(itertools.product([1, 2], [4, 8], [7, 3]))


def test_every_row_has_every_key(document: dict[str, Any]) -> None:
    design = Design(parse_spec(document))
    for row in design.rows(0, design.n_rows):
        assert set(row) == {key.name for key in design.columns}


def test_list_rows_override_base_and_cross_the_grid() -> None:
    found = rows(
        {
            "base": {"ranks": 8, "label": "plain"},
            "list": [{"rates_rps": 0.1}, {"rates_rps": 0.2, "ranks": [16, 32], "label": "big"}],
            "grid": {"max_loras": [1, 2]},
        }
    )
    seen = [(row["label"], row["rates_rps"], row["ranks"], row["max_loras"]) for row in found]
    assert seen == [
        ("plain", [0.1], [8], 1), ("plain", [0.1], [8], 2),
        ("big", [0.2], [16, 32], 1), ("big", [0.2], [16, 32], 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given_range", "expected"),
    [
        ({"start": 8, "stop": 32, "step": 8}, [8, 16, 24, 32]),
        ({"start": 8, "stop": 33, "step": 8}, [8, 16, 24, 32]),
        ({"start": 1, "stop": 5, "num": 3}, [1, 3, 5]),
        ({"start": 1, "stop": 100, "num": 3, "scale": "log"}, [1, 10, 100]),
        ({"start": 4, "stop": 9, "num": 1}, [4]),
    ],
)
def test_ranges_hold_both_ends(given_range: dict[str, Any], expected: list[int]) -> None:
    found = [row["max_loras"] for row in rows({"range": {"max_loras": given_range}})]
    assert found == expected
    assert all(type(value) is int for value in found)


def test_a_range_of_decimals_ends_where_it_says() -> None:
    found = rows({"range": {"base_rate_rps": {"start": 0.1, "stop": 0.7, "step": 0.1}}})
    assert [round(row["base_rate_rps"], 9) for row in found] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


def test_a_range_of_fractions_is_no_range_of_slots() -> None:
    with pytest.raises(ConfigError, match=r"max_loras .* must be a whole number"):
        rows({"range": {"max_loras": {"start": 1, "stop": 2, "num": 4}}})


def test_links_follow_links() -> None:
    found = rows(
        {
            "grid": {"max_loras": [2, 4]},
            "link": {"max_cpu_loras": "served_adapters", "served_adapters": "max_loras"},
        }
    )
    assert [row["max_cpu_loras"] for row in found] == [2, 4]


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ({"max_loras": "served_adapters"}, "nothing sets"),
        ({"max_loras": "served_adapters", "served_adapters": "max_loras"}, "each other"),
    ],
)
def test_links_that_lead_nowhere(link: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        rows({"grid": {"ranks": [8]}, "link": link})


@pytest.mark.parametrize(
    ("ranks", "least"), [([8, 16], 16), (17, 32), (1, 1), (300, 320), (None, 16)]
)
def test_max_lora_rank_left_out_is_the_smallest_that_fits(ranks: Any, least: int) -> None:
    assert rows({"base": {"ranks": ranks}})[0]["max_lora_rank"] == least


def test_max_cpu_loras_left_out_is_max_loras() -> None:
    assert rows({"grid": {"max_loras": [3]}})[0]["max_cpu_loras"] == 3


def test_where_that_keeps_nothing_is_an_error() -> None:
    with pytest.raises(ConfigError, match="keeps none of 2 rows"):
        rows({"grid": {"max_loras": [1, 2]}, "where": "max_loras > 2"})


def test_where_may_read_only_what_is_set() -> None:
    with pytest.raises(ConfigError, match="served_adapters, which nothing sets"):
        rows({"grid": {"max_loras": [1, 2]}, "where": "max_loras > served_adapters"})


axes = st.fixed_dictionaries(
    {
        "max_loras": st.lists(st.integers(1, 64), min_size=1, max_size=4),
        "served_adapters": st.lists(st.integers(1, 64), min_size=1, max_size=4),
        "ranks": st.lists(st.sampled_from([8, 16, [8, 32]]), min_size=1, max_size=2),
    }
)
conditions = st.sampled_from(
    [
        "max_loras <= served_adapters",
        "max(ranks) < 32 or max_loras == 1",
        "max_lora_rank <= 16",
        "max_cpu_loras >= max_loras",
        "seed == 0",
    ]
)


@given(axes, conditions, st.integers(1, 3), st.booleans())
def test_where_keeps_what_a_plain_filter_keeps(
    grid: dict[str, Any], where: str, seeds: int, linked: bool
) -> None:
    """It looks at each visible combination once: a filter over all rows must agree."""
    document: dict[str, Any] = {"grid": grid, "seeds": seeds}
    if linked:
        document["link"] = {"max_cpu_loras": "served_adapters"}
    every = rows(document)
    kept = [row for row in every if eval(where, {}, dict(row))]  # noqa: S307
    if kept:
        assert rows(document | {"where": where}) == kept
    else:
        with pytest.raises(ConfigError):
            rows(document | {"where": where})


@given(st.integers(1, 40), st.integers(1, 50))
def test_parts_cover_the_rows_once(part_rows: int, n: int) -> None:
    ranges = {"max_loras": {"law": "integer", "low": 1, "high": 9}}
    design = Design(parse_spec({"random": {"n": n, "ranges": ranges}, "part_rows": part_rows}))
    covered = [design.part_range(part) for part in range(design.n_parts)]
    assert covered[0][0] == 0
    assert covered[-1][1] == n
    assert all(before[1] == after[0] for before, after in itertools.pairwise(covered))
    pieces = [row for start, stop in covered for row in design.rows(start, stop)]
    assert pieces == list(design.rows(0, n))


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_random_designs_stay_in_their_ranges(seed: int, n: int) -> None:
    ranges = {
        "max_loras": {"law": "integer", "low": 4, "high": 6},
        "rates_rps": {"law": "log", "low": 0.01, "high": 10},
        "duration_s": {"law": "uniform", "low": 5, "high": 6},
        "ranks": {"law": "choice", "values": [8, [16, 32]]},
    }
    found = rows({"random": {"n": n, "seed": seed, "ranges": ranges}})
    assert len(found) == n
    for row in found:
        assert row["max_loras"] in (4, 5, 6)
        assert type(row["max_loras"]) is int
        assert 0.0099999 <= row["rates_rps"][0] <= 10.0000001
        assert 5 <= row["duration_s"] <= 6
        assert row["ranks"] in ([8], [16, 32])


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_a_latin_hypercube_has_one_point_in_each_slice(seed: int, n: int) -> None:
    ranges = {
        "duration_s": {"law": "uniform", "low": 10, "high": 10 + n},
        "burstiness": {"law": "uniform", "low": 10, "high": 10 + n},
        "max_loras": {"law": "integer", "low": 1, "high": n},
        "max_num_seqs": {"law": "choice", "values": list(range(1, n + 1))},
    }
    random = {"n": n, "seed": seed, "method": "latin", "ranges": ranges}
    found = rows({"random": random})
    for name in ("duration_s", "burstiness"):
        # Slices are one wide; at their very ends the last bit may fall to either side.
        for place, value in enumerate(sorted(row[name] for row in found)):
            assert 10 + place - 1e-9 <= value <= 11 + place + 1e-9
    for name in ("max_loras", "max_num_seqs"):
        assert sorted(row[name] for row in found) == list(range(1, n + 1))
    alone = rows({"random": random | {"ranges": {"burstiness": ranges["burstiness"]}}})
    assert [row["burstiness"] for row in alone] == [row["burstiness"] for row in found]
    if n > 20:
        assert [row["duration_s"] for row in found] != [row["burstiness"] for row in found]


def test_a_random_key_keeps_its_values_when_others_join() -> None:
    slots = {"max_loras": {"law": "integer", "low": 1, "high": 1000}}
    more = slots | {"served_adapters": {"law": "integer", "low": 1, "high": 1000}}
    alone = [row["max_loras"] for row in rows({"random": {"n": 50, "ranges": slots}})]
    joined = rows({"random": {"n": 50, "ranges": more}})
    assert [row["max_loras"] for row in joined] == alone
    assert [row["served_adapters"] for row in joined] != alone
    other = rows({"random": {"n": 50, "seed": 1, "ranges": slots}})
    assert [row["max_loras"] for row in other] != alone


def test_a_hundred_million_rows_cost_nothing_until_asked_for() -> None:
    many = list(range(1, 10_001))
    design = Design(parse_spec({"grid": {"max_loras": many, "served_adapters": many}}))
    assert design.n_rows == 100_000_000
    (last,) = design.rows(99_999_999, 100_000_000)
    assert (last["max_loras"], last["served_adapters"]) == (10_000, 10_000)
    assert design.part_rows == 100  # not 48: names of parts have six digits
    assert design.n_parts == 1_000_000


def test_too_many_parts_are_refused() -> None:
    many = {"grid": {"max_loras": list(range(1, 2001))}, "seeds": 1000}
    assert Design(parse_spec(many | {"part_rows": 2})).n_parts == 1_000_000
    with pytest.raises(ConfigError, match=r"part_rows \(1\) must be >= 2 for 2,000,000 rows"):
        Design(parse_spec(many | {"part_rows": 1}))


def test_too_many_rows_are_refused() -> None:
    many = list(range(1, 10_001))
    with pytest.raises(ConfigError, match="split"):
        Design(parse_spec({"grid": {"max_loras": many, "served_adapters": many}, "seeds": 100}))


def test_part_rows_follow_from_the_spec() -> None:
    hours = Design(parse_spec({"base": {"duration_s": 3600}, "seeds": 1000}))
    minutes = Design(parse_spec({"base": {"duration_s": 60}, "seeds": 1000}))
    assert hours.part_rows == 48
    assert minutes.part_rows > hours.part_rows
    assert Design(parse_spec({"seeds": 1000, "part_rows": 7})).part_rows == 7
