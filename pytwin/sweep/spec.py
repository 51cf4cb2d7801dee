"""The sweep's specification: a YAML or JSON document, read and checked."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pytwin.errors import ConfigError, DataError, one_line
from pytwin.sweep.keys import key_named, unknown
from pytwin.sweep.where import Where

# Two simulated days per part: a one-hour row takes a fraction of a second, so that a part takes
# some seconds, and a sweep of one-minute rows does not end in a hundred thousand small files.
_SIMULATED_S_PER_PART = 2 * 86_400.0
_PART_ROWS_LEAST, _PART_ROWS_MOST = 16, 4096
_MOST_VALUES = 1_000_000  # of one range
_MOST_SEED, _MOST_SEEDS = 2**64 - 1, 1_000_000


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Range(_Strict):
    """Evenly spaced values, both ends included: by `step`, or `num` of them.

    `scale: log` spaces them by a constant factor and needs `num`.
    """

    start: float
    stop: float
    step: float | None = Field(default=None, gt=0)
    num: int | None = Field(default=None, ge=1, le=_MOST_VALUES)
    scale: Literal["linear", "log"] = "linear"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.step is None) == (self.num is None):
            raise ValueError("a range needs either step or num, not both")
        if self.stop < self.start:
            raise ValueError(f"stop ({self.stop:g}) must be >= start ({self.start:g})")
        if self.scale == "log" and (self.num is None or self.start <= 0):
            raise ValueError(f"a log range needs num, and start ({self.start:g}) > 0")
        if not math.isfinite(self.stop - self.start):
            raise ValueError(f"start ({self.start:g}) and stop ({self.stop:g}) must be finite")
        if self.step is not None and (self.stop - self.start) / self.step >= _MOST_VALUES:
            raise ValueError(
                f"step ({self.step:g}) must leave at most {_MOST_VALUES:,} values: widen it"
            )
        return self

    def values(self) -> list[float]:
        """The values, ascending."""
        if self.step is not None:
            # Half a millionth of a step of slack: 0.1 steps from 0 to 0.3 end at 0.3.
            count = int((self.stop - self.start) / self.step + 1e-6) + 1
            return [self.start + index * self.step for index in range(count)]
        num = self.num or 1
        if num == 1:
            return [self.start]
        if self.scale == "log":
            ratio = self.stop / self.start
            inner = [self.start * ratio ** (i / (num - 1)) for i in range(num - 1)]
        else:
            width = self.stop - self.start
            inner = [self.start + width * (i / (num - 1)) for i in range(num - 1)]
        return [*inner, self.stop]


class Law(_Strict):
    """How a random design draws one key.

    ``uniform`` and ``log`` draw from low to high, ``integer`` a whole number of [low, high],
    ``choice`` one of values.
    """

    law: Literal["uniform", "log", "integer", "choice"]
    low: float | None = None
    high: float | None = None
    values: list[Any] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.law == "choice":
            if self.values is None or self.low is not None or self.high is not None:
                raise ValueError("a choice needs values, and no low or high")
            return self
        if self.low is None or self.high is None or self.values is not None:
            raise ValueError(f"law {self.law} needs low and high, and no values")
        if self.high < self.low:
            raise ValueError(f"high ({self.high:g}) must be >= low ({self.low:g})")
        if self.law == "log" and self.low <= 0:
            raise ValueError(f"low ({self.low:g}) must be > 0 for law log")
        if self.law == "integer" and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError("low and high must be whole numbers for law integer")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """Low and high, of the laws that have them."""
        if self.low is None or self.high is None:
            raise ValueError(f"law {self.law} has no bounds")
        return self.low, self.high


class Random(_Strict):
    """`n` points; each key has a random stream of its own, made from `seed` and its name.

    Points are independent, or with `method: latin` a Latin hypercube: of n equal slices of each
    key's range, each holds one point.
    """

    n: int = Field(ge=1, le=10_000_000)
    method: Literal["independent", "latin"] = "independent"
    seed: int = Field(default=0, ge=0)
    ranges: dict[str, Law] = Field(min_length=1)


# The fields `list` and `range` hide the builtins inside the class body.
_Rows = list[dict[str, Any]]
_Values = list[Any]
_Seeds = list[int]


class SweepSpec(_Strict):
    """What to simulate: every combination of `list`, `random`, `range`, `grid` and `seeds`.

    Attributes
    ----------
    name: free text, for people.
    base: row keys with one value for all rows.
    list: explicit rows, each a mapping of row keys.
    random: a random design.
    range: row key -> evenly spaced values.
    grid: row key -> list of values.
    link: row key -> row key that it takes its value from.
    where: a condition that kept rows fulfil.
    seeds: how many (0, 1, ...), or a list of them.
    part_rows: rows per part, the unit of work, of file and of resume.
    """

    name: str = "sweep"
    base: dict[str, Any] = Field(default_factory=dict)
    list: _Rows = Field(default_factory=list)
    random: Random | None = None
    range: dict[str, Range] = Field(default_factory=dict)
    grid: dict[str, _Values] = Field(default_factory=dict)
    link: dict[str, str] = Field(default_factory=dict)
    where: str | None = None
    seeds: int | _Seeds = 1
    part_rows: int | None = Field(default=None, ge=1, le=1_000_000)

    def canonical(self) -> dict[str, Any]:
        """The specification as plain data; two texts that mean the same rows give the same."""
        return self.model_dump(mode="json", exclude_none=True)

    def sha256(self) -> str:
        """Digest of `canonical`, order of keys included: it decides the order of the rows."""
        return hashlib.sha256(json.dumps(self.canonical()).encode()).hexdigest()


def seed_values(spec: SweepSpec) -> Sequence[int]:
    """The seeds, in order."""
    return range(spec.seeds) if isinstance(spec.seeds, int) else spec.seeds


def default_part_rows(duration_s: float) -> int:
    """Rows per part, by the simulated time of a row in seconds."""
    seconds = max(1e-3, duration_s)  # in this order NaN gives 1e-3, too: its row will fail
    rows = int(_SIMULATED_S_PER_PART / seconds)
    return max(_PART_ROWS_LEAST, min(rows, _PART_ROWS_MOST))


def load_spec(path: str | Path) -> SweepSpec:
    """Read a YAML or JSON file.

    Raises
    ------
    DataError: unreadable, or neither YAML nor JSON.
    ConfigError: an unknown key, a value of another type, names that clash; one line each.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"spec ({path}) cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"spec ({path}) is not text: give a YAML or JSON file") from None
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "bad syntax"
        raise DataError(f"spec ({path}{place}) is not YAML: {problem}") from None
    return parse_spec(document, str(path))


def parse_spec(document: Any, source: str = "spec") -> SweepSpec:
    """Check a document that is already read; errors as `load_spec`."""
    if not isinstance(document, dict):
        raise ConfigError(
            f"{source} must be a mapping with keys such as base and grid, "
            f"not {type(document).__name__}"
        )
    for name in document:
        if name not in SweepSpec.model_fields:
            raise ConfigError(
                unknown(
                    f"{source}: {name}", str(name), SweepSpec.model_fields, "is no key of a sweep"
                )
            )
    try:
        spec = SweepSpec.model_validate(document)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_complaint(error)}") from None
    return _checked(spec)


def _complaint(error: ValidationError) -> str:
    """One line; pydantic names fields by path, our own messages lack it."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{place} is no key here: see the sweep guide"
    line = one_line(error)
    return line if first["type"] != "value_error" or not place else f"{place}: {line}"


def _checked(spec: SweepSpec) -> SweepSpec:
    """The same with every value coerced to its key's type, and names checked."""
    base = {
        name: key_named(name, "base").coerce(value, "base") for name, value in spec.base.items()
    }
    rows = [
        {
            name: key_named(name, f"list row {number}").coerce(value, f"list row {number}")
            for name, value in row.items()
        }
        for number, row in enumerate(spec.list, start=1)
    ]
    grid = {}
    for name, values in spec.grid.items():
        key = key_named(name, "grid")
        if not values:
            raise ConfigError(f"grid: {name} ([]) must hold at least one value")
        grid[name] = [key.coerce(value, "grid") for value in values]
    for name in spec.range:
        if key_named(name, "range").kind not in ("int", "float", "ints", "floats"):
            raise ConfigError(f"range: {name} takes no numbers: list its values under grid")
    random = spec.random and _checked_random(spec.random)
    for target, origin in spec.link.items():
        key_named(target, "link")
        key_named(origin, "link")
    _refuse_clashes(spec)
    if spec.where is not None:
        Where(spec.where)
    if isinstance(spec.seeds, int) and not 1 <= spec.seeds <= _MOST_SEEDS:
        raise ConfigError(f"seeds ({spec.seeds}) must be >= 1 and <= {_MOST_SEEDS}, or a list")
    seeds = seed_values(spec)
    if not seeds:
        raise ConfigError("seeds ([]) must hold at least one seed")
    if isinstance(spec.seeds, list):
        if len(set(seeds)) != len(seeds):
            raise ConfigError(f"seeds ({spec.seeds}) must differ from each other")
        if not 0 <= min(seeds) <= max(seeds) <= _MOST_SEED:
            raise ConfigError(f"seeds ({spec.seeds}) must be from 0 to 2**64 - 1")
    return spec.model_copy(update={"base": base, "list": rows, "grid": grid, "random": random})


def _checked_random(random: Random) -> Random:
    ranges = {}
    for name, law in random.ranges.items():
        key = key_named(name, "random")
        values = law.values and [key.coerce(value, "random") for value in law.values]
        if law.law != "choice" and key.kind not in ("int", "float", "ints", "floats"):
            raise ConfigError(f"random: {name} takes no numbers: use law choice with values")
        if law.law in ("uniform", "log") and key.kind in ("int", "ints"):
            raise ConfigError(f"random: {name} takes whole numbers: use law integer or choice")
        ranges[name] = law.model_copy(update={"values": values})
    return random.model_copy(update={"ranges": ranges})


def _refuse_clashes(spec: SweepSpec) -> None:
    """A key set twice would be overwritten silently; base alone may be overridden by the list."""
    random = set(spec.random.ranges) if spec.random else set()
    listed = {name for row in spec.list for name in row}
    groups = {
        "list": listed,
        "random": random,
        "range": set(spec.range),
        "grid": set(spec.grid),
        "link": set(spec.link),
    }
    owner: dict[str, str] = {}
    for group, names in groups.items():
        for name in names:
            if name in owner:
                raise ConfigError(f"{name} is set by both {owner[name]} and {group}: keep one")
            owner[name] = group
        if "seed" in names:
            raise ConfigError(f"{group}: seed is set by seeds: use seeds: [...]")
    for name in ("seed", *owner):
        if name in spec.base and (name == "seed" or owner[name] != "list"):
            group = "seeds" if name == "seed" else owner[name]
            raise ConfigError(f"{name} is set by both base and {group}: keep one")
