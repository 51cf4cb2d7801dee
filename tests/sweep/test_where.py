"""The condition language: Python's meaning, none of its reach."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytwin.errors import ConfigError
from pytwin.sweep.where import Where

NAMES = ("max_loras", "served_adapters", "seed")


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "open('/etc/passwd')",
        "max_loras.__class__",
        "().__class__.__bases__",
        "ranks[0]",
        "(lambda: 1)()",
        "[x for x in ranks]",
        "9 ** 9 ** 9",
        "1 << 999999999",
        "max(ranks, key=open)",
        "max(*ranks)",
        "(max_loras := 3)",
        "f'{max_loras}'",
        "{1: 2}",
        "max",
        "eval('1')",
        "await seed",
        "max_loras; seed",
        "import os",
        "",
        "(" * 500 + "1" + ")" * 500,
        "-" * 5000 + "1",
        "1j",
        "b'x'",
        "...",
    ],
)
def test_refuses_all_else(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Where(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["label * 1000000000", "ranks + ranks > 0", "label < 3", "1 / seed > 0"]
)
def test_values_that_do_not_fit_are_told(text: str) -> None:
    with pytest.raises(ConfigError, match=r"where .* fails at"):
        Where(text)({"label": "a", "ranks": [8], "seed": 0})


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean max_loras"):
        Where("max_lora < 3")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("max_loras <= served_adapters", True),
        ("4 < max_loras < 16 and not seed == 3", True),
        ("max_loras in [1, 2, 4]", False),
        ("max(ranks) <= 16 and len(ranks) == 2 and sum(rates_rps) < 1", True),
        ("served_adapters % 7 == 0 or served_adapters // 8 * 8 == served_adapters", True),
        ("label == 'quiet'", True),
        ("label not in ('quiet', 'busy')", False),
        ("max_loras >= 8 if served_adapters > 10 else False", True),
        ("total_requests == None", True),
        ("-seed < 0", True),
        ("abs(-3) == 3", True),
    ],
)
def test_means_what_python_means(text: str, kept: bool) -> None:
    row = {
        "max_loras": 8, "served_adapters": 64, "seed": 1, "ranks": [8, 16],
        "rates_rps": [0.1, 0.2], "label": "quiet", "total_requests": None,
    }  # fmt: skip
    assert Where(text)(row) is kept


numbers = st.integers(-20, 20).map(str)
atoms = st.one_of(numbers, st.sampled_from(NAMES))
terms = st.recursive(
    atoms,
    lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"({' '.join(t)})"),
    max_leaves=5,
)
comparisons = st.tuples(terms, st.sampled_from(["<", "<=", "==", "!=", ">", ">="]), terms).map(
    " ".join
)
conditions = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda t: f"({' '.join(t)})"),
        inner.map(lambda text: f"(not {text})"),
    ),
    max_leaves=6,
)


@given(conditions, st.tuples(*[st.integers(0, 50)] * 3))
def test_agrees_with_python(text: str, values: tuple[int, int, int]) -> None:
    row = dict(zip(NAMES, values, strict=True))
    assert Where(text)(row) == bool(eval(text, {"__builtins__": {}}, row))  # noqa: S307
