"""The GPUs that a prior knows: public data sheet figures, or a user's own."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pytwin.errors import ConfigError, DataError

_GIB = 1024**3
_FILE = Path(__file__).parent / "gpus.json"
_NUMBERS = ("memory_gib", "bandwidth_gb_s", "bf16_tflop_s", "sms", "pcie_gb_s")
SPEC_EXAMPLE = (
    '{"memory_gib": 79.1, "bandwidth_gb_s": 3350, "bf16_tflop_s": 989, "sms": 132, "pcie_gb_s": 63}'
)


@dataclass(frozen=True)
class Gpu:
    """One GPU, in base units.

    key: short name, as in a profile's name. memory_bytes: as its driver reports it. bandwidth:
    of its memory, bytes/s. flops: dense 16-bit tensor FLOP/s. sms: streaming multiprocessors.
    pcie: host link, bytes/s in one direction. source: of the figures. figures_sd: relative
    doubt about them.
    """

    key: str
    memory_bytes: float
    bandwidth: float
    flops: float
    sms: int
    pcie: float
    source: str
    figures_sd: float = 0.0

    @property
    def ridge_tokens(self) -> float:
        """Tokens in a batch at which 16-bit products stop being limited by reading weights."""
        return self.flops / self.bandwidth


@lru_cache(maxsize=1)
def _known() -> dict[str, dict[str, Any]]:
    gpus: dict[str, dict[str, Any]] = json.loads(_FILE.read_text(encoding="utf-8"))["gpus"]
    return gpus


def known_gpus() -> list[str]:
    """Names of the GPUs in the package, sorted."""
    return sorted(_known())


def load_gpu(name: str) -> Gpu:
    """A GPU of the package by its short name, upper or lower case.

    Raises
    ------
    ConfigError: unknown, with the known ones and how to give one's own figures.
    """
    key = name.strip().lower().replace("_", "-").replace(" ", "-")
    entry = _known().get(key)
    if entry is None:
        close = [gpu for gpu in known_gpus() if gpu.startswith(key)]
        close = close or difflib.get_close_matches(key, known_gpus(), n=1, cutoff=0.6)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise ConfigError(
            f"gpu ({name}) is unknown: {hint}known are {', '.join(known_gpus())}; for another give "
            f"its data sheet with --gpu-spec FILE.json, as in {SPEC_EXAMPLE}"
        )
    return _gpu(key, entry)


def read_gpu_spec(path: str | Path, name: str) -> Gpu:
    """A GPU from a user's JSON file of data sheet figures; `name` becomes its short name.

    Raises
    ------
    DataError: unreadable, not JSON, a figure missing or not positive.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"gpu spec ({path}) cannot be read: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"gpu spec ({path}) is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise DataError(f"gpu spec ({path}) must be an object, as in {SPEC_EXAMPLE}")
    for key in _NUMBERS:
        value = data.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise DataError(
                f"gpu spec ({path}): {key} ({value!r}) must be a positive number, "
                f"as in {SPEC_EXAMPLE}"
            )
    return _gpu(name.strip().lower(), {"source": f"gpu spec {Path(path).name}", **data})


def _gpu(key: str, entry: dict[str, Any]) -> Gpu:
    return Gpu(
        key=key,
        memory_bytes=float(entry["memory_gib"]) * _GIB,
        bandwidth=float(entry["bandwidth_gb_s"]) * 1e9,
        flops=float(entry["bf16_tflop_s"]) * 1e12,
        sms=int(entry["sms"]),
        pcie=float(entry["pcie_gb_s"]) * 1e9,
        source=str(entry["source"]),
        figures_sd=float(entry.get("figures_sd", 0.0)),
    )
