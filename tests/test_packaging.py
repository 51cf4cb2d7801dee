"""The lock files pin what pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pinned(name: str) -> dict[str, set[Version]]:
    lines = (ROOT / "requirements" / name).read_text()
    found: dict[str, set[Version]] = {}
    for package, version in re.findall(r"^([\w.-]+)==([^\s;]+)", lines, re.MULTILINE):
        found.setdefault(canonicalize_name(package), set()).add(Version(version))
    return found


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        ("runtime.txt", PROJECT["project"]["dependencies"]),
        ("dev.txt", PROJECT["dependency-groups"]["dev"]),
        ("build.txt", PROJECT["dependency-groups"]["build"]),
    ],
)
def test_every_requirement_is_pinned_within_its_range(lock, wanted):
    locked = pinned(lock)
    for requirement in map(Requirement, wanted):
        versions = locked[canonicalize_name(requirement.name)]
        assert all(version in requirement.specifier for version in versions), requirement


def test_tools_and_runtime_agree_on_shared_packages():
    runtime, dev = pinned("runtime.txt"), pinned("dev.txt")
    for package in runtime.keys() & dev.keys():
        assert dev[package] <= runtime[package], package


def test_the_runtime_holds_no_tool_of_a_contributor():
    assert (
        not {"pytest", "scikit-learn", "ray", "torch", "vllm", "sphinx"}
        & pinned("runtime.txt").keys()
    )
