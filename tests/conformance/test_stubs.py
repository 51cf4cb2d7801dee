from __future__ import annotations

import operator

import pytest

from pytwin.conformance.reference.stubs import inert


def test_an_inert_class_does_what_imports_need() -> None:
    base = inert("Base")

    class Child(base):  # type: ignore[misc, valid-type]
        pass

    assert Child().anything.deeper() is None
    assert base[int] is base
    assert (base | None) is base
    assert not base
    assert list(base) == []


def test_an_inert_decorator_keeps_what_it_decorates() -> None:
    def function() -> int:
        return 3

    assert inert("decorator")()(function) is function


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x + 1,
        lambda x: 1 - x,
        lambda x: x < 1,
        lambda x: x >= 1,
        int,
        float,
        len,
        operator.index,
        range,
    ],
)
def test_an_inert_value_refuses_to_decide(operation: object) -> None:
    with pytest.raises(TypeError):
        operation(inert("value")())  # type: ignore[operator]
