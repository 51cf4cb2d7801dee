"""`pytwin calibrate prior`: a profile for a model and a GPU that nobody measured."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from pytwin import _core
from pytwin.calibrate.prior.build import build
from pytwin.calibrate.prior.config_json import architecture_of, load_config
from pytwin.calibrate.prior.gpus import known_gpus, load_gpu, read_gpu_spec
from pytwin.calibrate.prior.learned import known_config, known_models
from pytwin.catalog import shipped_profiles
from pytwin.config import EngineConfig
from pytwin.errors import ConfigError, DataError
from pytwin.simulation import Twin
from pytwin.workload import Workload

_GIB = 1024**3


def _told(text: str, *names: str) -> Parameter:
    return Parameter(name=names or None, help=text)


def prior(
    *,
    config: Annotated[
        str, _told("The model's config.json, its directory, or a model that pytwin knows.")
    ],
    gpu: Annotated[str, _told(f"{', '.join(known_gpus())}; or any name with --gpu-spec.")],
    output: Annotated[
        Path | None, _told("File to write; left out: standard output.", "--output", "-o")
    ] = None,
    name: Annotated[str | None, _told("Of the profile; left out: MODEL@GPU-prior.")] = None,
    model: Annotated[
        str | None, _told("Name of the model; left out: from the config or its directory.")
    ] = None,
    dtype: Annotated[
        Literal["auto", "bfloat16", "float16"],
        _told("Of weights and KV cache; auto is the config's."),
    ] = "auto",
    gpu_spec: Annotated[
        Path | None, _told("JSON file of another GPU's data sheet figures.")
    ] = None,
    max_model_len: Annotated[
        int | None, _told("Tokens, where the server's is not the model's own.")
    ] = None,
    max_num_seqs: Annotated[
        int | None, _told("Where the server's is not vLLM's default for the GPU.")
    ] = None,
    max_num_batched_tokens: Annotated[
        int | None, _told("Where the server's is not vLLM's default for the GPU.")
    ] = None,
    max_loras: Annotated[int, _told("Adapter slots of the summary's last line.")] = 32,
    max_lora_rank: Annotated[int, _told("Rank of these slots.")] = 16,
) -> int:
    """Make a profile from a model's config.json and a GPU's data sheet: a prior, never measured.

    The profile goes to --output, or to standard output; a summary to standard error.
    """
    chip = load_gpu(gpu) if gpu_spec is None else read_gpu_spec(gpu_spec, gpu)
    data, where = _config(config)
    architecture = architecture_of(data, dtype=dtype, where=where)
    document = build(
        architecture, chip,
        model_name=model or _model_name(config, data),
        name=name,
        dtype=_dtype(data, dtype),
        max_model_len=_positive("max_model_len", max_model_len),
        max_num_seqs=_positive("max_num_seqs", max_num_seqs),
        max_num_batched_tokens=_positive("max_num_batched_tokens", max_num_batched_tokens),
    )  # fmt: skip
    summary = _summary(document, max_loras, max_lora_rank)  # refuses what vLLM would refuse
    text = json.dumps(document, indent=1) + "\n"
    if output is None:
        print(text, end="")
    else:
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise DataError(f"output ({output}) cannot be written: {error.strerror}") from None
    for line in summary:
        print(line, file=sys.stderr)
    return 0


def _positive(name: str, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise ConfigError(f"{name} ({value}) must be >= 1")
    return value


def _config(given: str) -> tuple[dict[str, Any], str]:
    """The parsed config.json of a path, or of a model that the package knows."""
    if given in known_models():
        return known_config(given), given
    path = Path(given)
    if not path.exists() and "/" not in given and path.suffix != ".json":
        raise ConfigError(
            f"config ({given}) is neither a file nor a known model: give the model's config.json, "
            f"or one of {', '.join(known_models())}"
        )
    return load_config(path)


def _model_name(given: str, data: dict[str, Any]) -> str:
    """From the config's own path of origin, else the directory or file that it lies in."""
    if given in known_models():
        return given
    path = Path(given).resolve()
    stem = path.name if path.is_dir() else path.stem
    if stem == "config":
        stem = path.parent.name
    origin = data.get("_name_or_path")
    found = Path(origin).name if isinstance(origin, str) and origin else stem
    return re.sub(r"[^a-z0-9.]+", "-", found.lower()).strip("-") or "model"


def _dtype(data: dict[str, Any], asked: str) -> str:
    """What vLLM runs: 16 bits whatever the checkpoint holds."""
    if asked != "auto":
        return asked
    stated = data.get("torch_dtype", data.get("dtype"))
    return stated if stated in {"bfloat16", "float16"} else "float16"


def _summary(document: dict[str, Any], max_loras: int, max_lora_rank: int) -> list[str]:
    """What a person wants to know before using the profile."""
    memory = document["memory"]
    weights, total = memory["weights_bytes"] / _GIB, memory["gpu_bytes"] / _GIB
    lines = [
        f"{document['name']}: a prior, never measured",
        f"weights {weights:.2f} of {total:.2f} GiB, KV {memory['kv_bytes_per_token']} bytes/token",
    ]
    for slots in dict.fromkeys((0, max_loras)):
        told = _plan(document, slots, max_lora_rank)
        what = f"{slots} slots of rank {max_lora_rank}" if slots else "without LoRA"
        if told["status"] == "ok":
            lines.append(f"{what}: {told['kv_tokens']} KV tokens")
        else:
            lines.append(f"{what}: cannot start: {told['error']}")
    measured = f"{document['model']}@{document['gpu']}"
    if measured in shipped_profiles():
        lines.append(f"a measured profile ships: prefer --profile {measured}")
    return lines


def _plan(document: dict[str, Any], slots: int, rank: int) -> dict[str, Any]:
    """Whether the server starts with its default settings, as the simulator decides it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prior.json"
        file.write_text(json.dumps(document), encoding="utf-8")
        server = EngineConfig(profile=str(file), max_loras=slots, max_lora_rank=rank)
        twin = Twin()
        spec = twin.spec_json(server, Workload.poisson(rate_rps=1.0))
        return dict(_core.memory(twin.library, spec))
