"""Cost terms in NumPy mean what the profile's JSON says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytwin.calibrate.terms import (
    Component,
    Part,
    component,
    design,
    evaluate,
    factor_values,
    to_terms,
)

VALUES = np.array([0.0, 1.0, 119.0, 120.0, 121.0, 512.0, 513.0])


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        ("tokens", VALUES),
        ({"of": "tokens", "above": 120}, [0, 0, 0, 0, 1, 392, 393]),
        ({"of": "tokens", "at_most": 120}, [0, 1, 119, 120, 120, 120, 120]),
        ({"of": "tokens", "at_least": 121}, [0, 0, 0, 0, 1, 1, 1]),
        ({"of": "tokens", "positive": True}, [0, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_factors(factor, expected):
    assert factor_values(factor, {"tokens": VALUES}).tolist() == list(expected)


def test_a_factor_without_a_form_is_an_error():
    with pytest.raises(ValueError, match="above, at_most, at_least, positive"):
        factor_values({"of": "tokens"}, {"tokens": VALUES})


def test_equal_products_of_components_merge_into_one_term():
    small = Component(
        "small",
        (Part(1.0, ("adapters",)), Part(-1.0, ("adapters", {"of": "tokens", "at_least": 9}))),
        "s",
    )
    terms = to_terms([component("a", "always", "adapters"), small], [0.25, 0.5], 1000.0)
    assert [(term["coefficient"], term["factors"]) for term in terms] == [
        (750.0, ["adapters"]),
        (-500.0, ["adapters", {"of": "tokens", "at_least": 9}]),
    ]
    assert terms[0]["why"] == "always; s"


@given(
    st.lists(st.floats(0.001, 50.0), min_size=4, max_size=4),
    st.lists(st.integers(0, 2048), min_size=1, max_size=20),
    st.integers(0, 384),
)
def test_terms_evaluate_to_the_design_times_the_coefficients(coefficients, tokens, slots):
    laws = [
        component("base", ""),
        component("tokens", "", "tokens"),
        component("hinge", "", {"of": "tokens", "above": 256}),
        component("slots", "", "max_loras", "tokens", scale=1 / 16),
    ]
    size = len(tokens)
    features = {"tokens": np.array(tokens, dtype=float), "max_loras": np.full(size, float(slots))}
    fitted = design(laws, features) @ np.array(coefficients) * 1000.0
    stated = evaluate(to_terms(laws, coefficients, 1000.0), features)
    assert stated == pytest.approx(fitted, rel=1e-4)
