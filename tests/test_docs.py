"""The documentation's code runs: Python blocks and `$ pytwin` lines, page by page."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
from pathlib import Path

import pytest

from pytwin.config import EngineConfig
from tests.conftest import ROOT

PAGES = [
    ROOT / "README.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if "decisions" not in path.parts),
]
# A fence, with the comment before it that may say why it is not run.
FENCE = re.compile(
    r"(?P<note><!-- not run: [^>]+ -->\n)?^```(?P<kind>\w+)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def blocks(page: Path) -> list[tuple[str, str, int]]:
    """(kind, text, line) of the fences to run."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    return [
        (found["kind"], found["body"], text[: found.start("body")].count("\n") + 1)
        for found in FENCE.finditer(text)
        if found["note"] is None
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_blocks_run(page, tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pytwin"])
    namespace: dict[str, object] = {"__name__": "__docs__"}
    for kind, body, line in blocks(page):
        where = f"{page.name}:{line}"
        if kind == "yaml" and body.startswith("# "):  # its first line names the file
            (tmp_path / body.splitlines()[0].removeprefix("# ")).write_text(body)
        elif kind == "python":
            code = compile("\n" * (line - 1) + body, str(page), "exec")
            with contextlib.redirect_stdout(io.StringIO()):
                exec(code, namespace)  # noqa: S102 - our own pages
        elif kind == "console":
            for command in re.findall(r"^\$ pytwin (.*)$", body, re.MULTILINE):
                if command.startswith("conformance"):
                    continue  # downloads vLLM; tests/conformance drives it
                done = cli(*shlex.split(command, comments=True))
                assert done.code == 0, f"{where}: pytwin {command}: {done.err}"


def test_every_setting_is_in_the_reference():
    page = (ROOT / "docs" / "reference" / "server.md").read_text()
    told = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert told == list(EngineConfig.model_fields)


def test_links_between_pages_lead_somewhere():
    pages = [*PAGES, ROOT / "CONTRIBUTING.md", *(ROOT / "docs" / "decisions").glob("*.md")]
    for page in pages:
        text = page.read_text(encoding="utf-8") if page.is_file() else ""
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
