"""The stub of the binding names what the binding has, no more and no less."""

from __future__ import annotations

import ast
from pathlib import Path

import pytwin
from pytwin import _core


def test_the_stub_names_what_the_module_has():
    stub = Path(pytwin.__file__).with_name("_core.pyi").read_text()
    told: dict[str, set[str]] = {}
    for node in ast.parse(stub).body:
        if isinstance(node, ast.ClassDef):
            told[node.name] = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
        elif isinstance(node, ast.FunctionDef):
            told[node.name] = set()
        elif isinstance(node, ast.AnnAssign):
            assert isinstance(node.target, ast.Name)
            told[node.target.id] = set()
    kept = ("__version__",)
    there = {name for name in vars(_core) if not name.startswith("__") or name in kept}
    assert set(told) == there
    methods = {name for name in vars(_core.Library) if not name.startswith("__")}
    assert told["Library"] - {"__init__"} == methods


def test_the_core_and_the_package_have_one_version():
    assert _core.__version__ == pytwin.__version__
