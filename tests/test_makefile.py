"""The Makefile is the index of what one can do."""

from __future__ import annotations

import re
import subprocess

from tests.conftest import ROOT


def test_help_lists_every_target():
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    done = subprocess.run(
        ["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    listed = [line.split()[0] for line in done.stdout.splitlines()]
    assert sorted(listed) == sorted(phony.split())


def test_a_dry_run_of_every_long_target_finds_its_rules():
    for target in (
        "demo",
        "conformance",
        "validate",
        "calibrate",
        "bench",
        "bench-grid",
        "wheel",
        "docs",
        "lock",
    ):
        subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True)
