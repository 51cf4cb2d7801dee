"""The best setting: never a starving one, and among equals the cheapest."""

from __future__ import annotations

from typing import Any

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from pytwin.sweep.best import best_settings, settings

COLUMNS = {
    "mix": pl.String,
    "served_adapters": pl.Int64,
    "max_loras": pl.Int64,
    "seed": pl.Int64,
    "status": pl.String,
    "total_throughput": pl.Float64,
    "offered_token_throughput": pl.Float64,
    "starved": pl.Int64,
}


def frame(*rows: tuple[Any, ...]) -> pl.DataFrame:
    """Rows of mix, served, slots, seed, status, throughput, starved; twice as much is offered."""
    filled = [(*row[:6], None if row[5] is None else 2 * row[5], row[6]) for row in rows]
    return pl.DataFrame(filled, schema=COLUMNS, orient="row")


def best(*rows: tuple[Any, ...]) -> list[tuple[str, int, int]]:
    found = best_settings(frame(*rows), ["mix"])
    return list(found.select("mix", "served_adapters", "max_loras").iter_rows())


def test_the_highest_that_does_not_starve() -> None:
    assert best(
        ("a", 64, 8, 0, "ok", 100.0, 0),
        ("a", 96, 8, 0, "ok", 200.0, 0),
        ("a", 128, 8, 0, "ok", 300.0, 1),
        ("a", 256, 8, 0, "infeasible", None, None),
        ("a", 384, 8, 0, "failed", None, None),
    ) == [("a", 96, 8)]


def test_within_one_percent_the_fewest_slots_then_the_fewest_adapters() -> None:
    assert best(
        ("a", 96, 32, 0, "ok", 1000.0, 0),
        ("a", 96, 16, 0, "ok", 991.0, 0),
        ("a", 64, 16, 0, "ok", 992.0, 0),
        ("a", 64, 8, 0, "ok", 989.0, 0),
    ) == [("a", 64, 16)]


def test_seeds_are_averaged_and_one_starving_seed_is_enough() -> None:
    rows = [
        ("a", 64, 8, 0, "ok", 100.0, 0),
        ("a", 64, 8, 1, "ok", 140.0, 0),
        ("a", 96, 8, 0, "ok", 200.0, 0),
        ("a", 96, 8, 1, "ok", 200.0, 1),
    ]
    found = settings(frame(*rows), ["mix"])
    assert found["total_throughput"].to_list() == [120.0, 200.0]
    assert found["starved"].to_list() == [False, True]
    assert best(*rows) == [("a", 64, 8)]


def test_each_mix_has_its_own_and_a_starving_one_has_none() -> None:
    assert best(
        ("a", 64, 8, 0, "ok", 100.0, 0),
        ("b", 32, 8, 0, "ok", 900.0, 0),
        ("c", 32, 8, 0, "ok", 999.0, 1),
    ) == [("a", 64, 8), ("b", 32, 8)]


rows = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.sampled_from([16, 32, 64]),
        st.sampled_from([8, 16, 32]),
        st.just(0),
        st.just("ok"),
        st.floats(1, 1000),
        st.integers(0, 1),
    ),
    max_size=15,
    unique_by=lambda row: row[:3],
)


@given(rows)
def test_no_healthy_setting_beats_it_by_more_than_the_tolerance(given_rows: list[Any]) -> None:
    found = best_settings(frame(*given_rows), ["mix"])
    healthy = [row for row in given_rows if not row[6]]
    assert found["mix"].to_list() == sorted({row[0] for row in healthy})
    for mix, throughput in found.select("mix", "total_throughput").iter_rows():
        assert throughput >= 0.99 * max(row[5] for row in healthy if row[0] == mix)
    # Without a mix column, all rows are one mix.
    single = best_settings(frame(*given_rows).unique(["served_adapters", "max_loras"]), [])
    assert single.height <= 1
