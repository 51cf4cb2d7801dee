"""The verbs, each loaded when it is called, so that `pytwin --help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cyclopts import App, CycloptsError
from cyclopts.config import Dict

from pytwin.errors import DataError, PytwinError

_PACKAGE = Path(__file__).parent.parent
_OWN_CONFIG = ["calibrate", "prior"]

# name, where it lives, the file that must exist for the verb to exist, what it does
_VERBS = (
    (
        "simulate",
        "pytwin.cli.simulate:simulate",
        "cli/simulate.py",
        "Simulate one server under one workload.",
    ),
    (
        "sweep",
        "pytwin.sweep.cli:app",
        "sweep/cli.py",
        "Simulate many configurations, in parallel and resumably.",
    ),
    (
        "validate",
        "pytwin.cli.validate:validate",
        "cli/validate.py",
        "Compare the twin with real runs.",
    ),
    (
        "conformance",
        "pytwin.conformance.cli:app",
        "conformance/cli.py",
        "Compare the twin's decisions with vLLM's own code.",
    ),
    (
        "calibrate",
        "pytwin.calibrate.cli:app",
        "calibrate/cli.py",
        "Fit a profile to traces, and judge it.",
    ),
    (
        "recommend",
        "pytwin.cli.learn:recommend",
        "cli/learn.py",
        "How many adapters to serve, in how many slots, without starvation.",
    ),
    (
        "plan",
        "pytwin.cli.plan:plan",
        "cli/plan.py",
        "Which adapters on which replica: the fewest GPUs without starvation.",
    ),
    (
        "learn",
        "pytwin.cli.learn:app",
        "cli/learn.py",
        "Train interpretable models on a sweep.",
    ),
    (
        "forecast",
        "pytwin.cli.forecast:app",
        "cli/forecast.py",
        "Forecast the rate of each adapter from a request log.",
    ),
    (
        "record",
        "pytwin.cli.record:app",
        "cli/record.py",
        "Record a vLLM server; look at recordings and convert them.",
    ),
    (
        "profiles",
        "pytwin.cli.profiles:profiles",
        "cli/profiles.py",
        "List the shipped profiles: source, ranges, held-out errors.",
    ),
)


def build_app() -> App:
    """The application with the verbs that exist in this installation."""
    app = App(
        name="pytwin",
        help="A digital twin of a vLLM server with LoRA adapters.",
        help_epilogue=(
            "Any verb takes --config FILE.yaml with its flags as keys; flags on the command line "
            "go before the file's."
        ),
        version=_version,
        suppress_keyboard_interrupt=False,
    )
    for name, target, file, summary in _VERBS:
        if (_PACKAGE / file).is_file():
            app.command(target, name=name, help=summary)
    return app


def dispatch(tokens: list[str]) -> int:
    """Run the verb that the tokens name; its exit code."""
    # There --config is the model's config.json.
    tokens, config = (tokens, None) if tokens[:2] == _OWN_CONFIG else _take_config(tokens)
    app = build_app()
    if config is not None:
        app.config = (config,)
    try:
        result = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        raise PytwinError(_readable(error, config)) from None
    return result if isinstance(result, int) else 0


def _version() -> str:
    from importlib.metadata import version

    return version("pytwin")


def _take_config(tokens: list[str]) -> tuple[list[str], Dict | None]:
    """Take `--config FILE` out of the tokens and read the file."""
    rest: list[str] = []
    path: str | None = None
    pending = iter(tokens)
    for word in pending:
        if word == "--":
            rest += [word, *pending]
        elif word == "--config":
            path = next(pending, None)
            if path is None:
                raise PytwinError("--config () needs a YAML file: --config settings.yaml")
        elif word.startswith("--config="):
            path = word.removeprefix("--config=")
        else:
            rest.append(word)
    return rest, None if path is None else _read_config(path)


def _read_config(path: str) -> Dict:
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            data: Any = yaml.safe_load(file)
    except OSError as error:
        raise DataError(f"config ({path}) cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"config ({path}) is not YAML: {error}") from None
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise DataError(f"config ({path}) must map flags to values, as in max_loras: 32")
    settings = {key: value for key, value in data.items() if value is not None}
    return Dict(settings, use_commands_as_keys=False, source=path)


def _readable(error: CycloptsError, config: Dict | None) -> str:
    message = " ".join(str(error).split())
    if config is not None and message.startswith("Unknown option") and "[" in message:
        key = message.partition('"[')[2].partition(']"')[0]
        return f"config ({config.source}): {key} is no flag of this verb: see --help"
    return message[:1].lower() + message[1:]
