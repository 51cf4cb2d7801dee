"""A spec says what is wrong with it in one line."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from pytwin.errors import ConfigError, DataError
from pytwin.sweep import load_spec, parse_spec


def refusal(document: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_spec(document)
    message = str(caught.value)
    assert "\n" not in message
    return message


def drawn(name: str, **law: Any) -> dict[str, Any]:
    return {"random": {"n": 3, "ranges": {name: law}}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gird": {}}, ["gird", "did you mean grid?"]),
        ({"grid": {"max_lora": [1]}}, ["grid: max_lora", "did you mean max_loras?"]),
        ({"base": {"servedadapters": 4}}, ["base: servedadapters", "served_adapters"]),
        ({"grid": {"max_loras": ["many"]}}, ["max_loras ('many')", "whole number"]),
        ({"grid": {"max_loras": [1.5]}}, ["max_loras (1.5)", "whole number"]),
        ({"grid": {"max_loras": [True]}}, ["max_loras (True)", "whole number"]),
        ({"grid": {"max_loras": []}}, ["max_loras ([])", "at least one"]),
        ({"grid": {"max_loras": 4}}, ["grid.max_loras"]),
        ({"base": {"drain": "yes"}}, ["drain ('yes')", "true or false"]),
        ({"seeds": 10**9}, ["seeds (1000000000)", "<= 1000000"]),
        ({"seeds": []}, ["seeds ([])"]),
        ({"seeds": 0}, ["seeds (0)", ">= 1"]),
        ({"seeds": [1, 1]}, ["seeds", "differ"]),
        ({"seeds": [-1]}, ["seeds ([-1])", "2**64"]),
        ({"seeds": [2**64]}, ["seeds", "2**64"]),
        ({"grid": {"max_loras": [10**30]}}, ["max_loras (1000", "whole number"]),
        ({"grid": {"max_loras": [float("inf")]}}, ["max_loras (inf)", "whole number"]),
        ({"part_rows": 0}, ["part_rows (0)"]),
        ({"grid": {"seed": [1, 2]}}, ["seed", "seeds"]),
        ({"range": {"max_loras": {"start": 1, "stop": 4}}}, ["range.max_loras", "step or num"]),
        ({"range": {"max_loras": {"start": 4, "stop": 1, "step": 1}}}, ["stop (1)", "start (4)"]),
        ({"range": {"label": {"start": 1, "stop": 4, "step": 1}}}, ["label", "grid"]),
        (drawn("rates_rps", law="log", low=0, high=1), ["low (0)", "> 0"]),
        (drawn("max_loras", law="log", low=1, high=9), ["max_loras", "integer"]),
        (drawn("max_loras", law="choice"), ["choice needs values"]),
        ({"random": {"n": 0, "ranges": {}}}, ["random.n (0)"]),
        ({"grid": {"ranks": [1]}, "link": {"ranks": "seed"}}, ["ranks", "grid and link"]),
        ({"grid": {"max_loras": [1]}, "base": {"max_loras": 2}}, ["max_loras", "base and grid"]),
        ({"where": "max_loras <"}, ["where", "syntax"]),
    ],
)  # fmt: skip
def test_refuses(change: dict[str, Any], words: list[str]) -> None:
    message = refusal(change)
    for word in words:
        assert word in message


@pytest.mark.parametrize("document", [None, [], "grid", 3])
def test_refuses_what_is_no_mapping(document: Any) -> None:
    assert "mapping" in refusal(document)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load_spec(tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: x\ngrid: {max_loras: [1, 2}\n")
    with pytest.raises(DataError, match=r"line 2.*is not YAML"):
        load_spec(broken)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(DataError):
        load_spec(binary)


def test_json_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text('{"name": "j", "grid": {"max_loras": [1, 2]}}')
    assert load_spec(path).grid == {"max_loras": [1, 2]}


def test_values_take_the_type_of_their_key() -> None:
    """YAML reads 0.32 as a number and 1e-3 as text; one rate is a list of one."""
    spec = parse_spec(
        {
            "base": {"engine_version": 0.32, "base_rate_rps": "1e-3"},
            "grid": {"rates_rps": [0.1, [1, 2]]},
        }
    )
    assert spec.base == {"engine_version": "0.32", "base_rate_rps": 0.001}
    assert spec.grid == {"rates_rps": [[0.1], [1.0, 2.0]]}


def test_digest_tells_specs_apart(document: dict[str, Any]) -> None:
    same = parse_spec(copy.deepcopy(document)).sha256()
    assert parse_spec(document).sha256() == same
    for change in ({"seeds": 3}, {"part_rows": 6}, {"where": None}, {"name": "other"}):
        assert parse_spec(document | change).sha256() != same
    # The order of the grid's keys is the order of the rows.
    turned = dict(reversed(document["grid"].items()))
    assert parse_spec(document | {"grid": turned}).sha256() != same
