"""Reads a model's `config.json` (Hugging Face) into an `Architecture`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytwin.calibrate.prior.architecture import Architecture
from pytwin.errors import ConfigError, DataError

DTYPES = ("auto", "bfloat16", "float16")
# vLLM 0.8.5 config.py _get_and_verify_max_len: of these types max_position_embeddings is final.
_FINAL_ROPES = ("su", "longrope", "llama3", "default", "mrope")


def read_config(path: str | Path, *, dtype: str = "auto") -> Architecture:
    """The architecture that a `config.json` describes.

    Parameters
    ----------
    path: the file, or the model's directory that holds it.
    dtype: of weights and KV cache: bfloat16, float16, or auto (the file's own; vLLM runs float32
        checkpoints in 16 bits).

    Raises
    ------
    DataError: unreadable or not JSON. ConfigError: quantised, an unsupported architecture or
        dtype, a key missing or out of place; one line that names it.
    """
    data, where = load_config(path)
    return architecture_of(data, dtype=dtype, where=where)


def load_config(path: str | Path) -> tuple[dict[str, Any], str]:
    """A `config.json`, or that of a directory, parsed; and its path.

    Raises
    ------
    DataError: unreadable or not a JSON object.
    """
    file = Path(path)
    if file.is_dir():
        file /= "config.json"
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"config ({file}) cannot be read: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"config ({file}) is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise DataError(f"config ({file}) must be a JSON object: give the model's config.json")
    return data, str(file)


def architecture_of(
    data: Mapping[str, Any], *, dtype: str = "auto", where: str = "config.json"
) -> Architecture:
    """As `read_config`, of a parsed document; `where` names it in errors."""
    if dtype not in DTYPES:
        raise ConfigError(f"dtype ({dtype}) must be one of {', '.join(DTYPES)}: 16-bit weights")
    quantised = data.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method", "?") if isinstance(quantised, dict) else quantised
        raise ConfigError(
            f"{where}: quantization_config ({method}) is not supported: priors are learned from "
            "16-bit servers, so give the unquantised model's config.json or measure the server"
        )
    name = _class_name(data, where)
    reader = _READERS.get(name)
    if reader is None:
        raise ConfigError(
            f"{where}: architecture {name} is not supported: supported are "
            f"{', '.join(sorted(_READERS))}"
        )
    return reader(_Keys(data, where), name)


def _class_name(data: Mapping[str, Any], where: str) -> str:
    names = data.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise ConfigError(
            f"{where}: architectures ({names!r}) must name a class, as in "
            '["LlamaForCausalLM"]: give the model\'s own config.json'
        )
    return names[0]


class _Keys:
    """A config.json whose missing or odd keys are told in one line."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self.data, self.where = data, where

    def whole(self, key: str, default: int | None = None) -> int:
        value = self.data.get(key)
        if value is None:
            value = default
        if value is None:
            raise ConfigError(f"{self.where}: {key} is missing: give the model's own config.json")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{self.where}: {key} ({value!r}) must be a whole number >= 1")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.data.get(key)
        return default if value is None else bool(value)

    def number(self, mapping: Mapping[str, Any], key: str, default: float) -> float:
        value = mapping.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
            raise ConfigError(f"{self.where}: {key} ({value!r}) must be a positive number")
        return float(value)

    def max_model_len(self) -> int:
        """As vLLM derives it from max_position_embeddings and rope_scaling."""
        length = float(self.whole("max_position_embeddings"))
        rope = self.data.get("rope_scaling")
        if isinstance(rope, dict):
            kind = rope.get("rope_type", rope.get("type", "default"))
            if kind not in _FINAL_ROPES:
                if kind == "yarn":
                    length = self.number(rope, "original_max_position_embeddings", length)
                length *= self.number(rope, "factor", 1.0)
        return int(length)


def _common(keys: _Keys, name: str, **special: Any) -> Architecture:
    hidden, heads = keys.whole("hidden_size"), keys.whole("num_attention_heads")
    kv_heads = keys.whole("num_key_value_heads", heads)
    if heads % kv_heads:
        raise ConfigError(
            f"{keys.where}: num_attention_heads ({heads}) must be a multiple of "
            f"num_key_value_heads ({kv_heads})"
        )
    if keys.data.get("head_dim") is None and hidden % heads:
        raise ConfigError(
            f"{keys.where}: hidden_size ({hidden}) must be a multiple of num_attention_heads "
            f"({heads}) where head_dim is left out"
        )
    head_dim = keys.whole("head_dim", hidden // heads)
    partial = keys.number(keys.data, "partial_rotary_factor", 1.0)
    given = {
        "layers": keys.whole("num_hidden_layers"),
        "hidden": hidden,
        "intermediate": keys.whole("intermediate_size"),
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "vocab": keys.whole("vocab_size"),
        "max_model_len": keys.max_model_len(),
        "tied": keys.flag("tie_word_embeddings", False),
        "rotary_positions": keys.whole("max_position_embeddings"),
        "rotary_dim": int(head_dim * partial),
    }
    return Architecture(name=name, **{**given, **special})


def _llama(keys: _Keys, name: str) -> Architecture:
    bias = keys.flag("attention_bias", False)
    return _common(
        keys, name, qkv_bias=bias, output_bias=bias, mlp_bias=keys.flag("mlp_bias", False),
        lora_embeddings=True,
    )  # fmt: skip


def _mistral(keys: _Keys, name: str) -> Architecture:
    windowed = keys.data.get("sliding_window") is not None
    window = keys.whole("sliding_window") if windowed else 0
    return _common(keys, name, lora_embeddings=True, sliding_window=window)


def _qwen2(keys: _Keys, name: str) -> Architecture:
    return _common(keys, name, qkv_bias=True)


def _qwen3(keys: _Keys, name: str) -> Architecture:
    bias = keys.flag("attention_bias", False)
    return _common(keys, name, qkv_bias=bias, output_bias=bias, qk_norm=True)


def _gemma2(keys: _Keys, name: str) -> Architecture:
    keys.whole("head_dim")
    return _common(
        keys, name, tied=keys.flag("tie_word_embeddings", True), norms=4,
        sliding_window=keys.whole("sliding_window", 4096),
    )  # fmt: skip


def _gemma3(keys: _Keys, name: str) -> Architecture:
    keys.whole("head_dim")
    return _common(
        keys, name, tied=keys.flag("tie_word_embeddings", True), norms=4, qk_norm=True,
        rotary_caches=2, sliding_window=keys.whole("sliding_window", 512),
    )  # fmt: skip


def _phi3(keys: _Keys, name: str) -> Architecture:
    return _common(keys, name, fused_lora=True, lora_embeddings=True)


def _mixtral(keys: _Keys, name: str) -> Architecture:
    experts = keys.whole("num_local_experts")
    active = keys.whole("num_experts_per_tok")
    if active > experts:
        raise ConfigError(
            f"{keys.where}: num_experts_per_tok ({active}) must be <= num_local_experts ({experts})"
        )
    return _common(
        keys, name, experts=experts, experts_per_token=active, lora_embeddings=True
    )  # fmt: skip


_READERS: dict[str, Callable[[_Keys, str], Architecture]] = {
    "LlamaForCausalLM": _llama,
    "MistralForCausalLM": _mistral,
    "Qwen2ForCausalLM": _qwen2,
    "Qwen3ForCausalLM": _qwen3,
    "Gemma2ForCausalLM": _gemma2,
    "Gemma3ForCausalLM": _gemma3,
    "Phi3ForCausalLM": _phi3,
    "MixtralForCausalLM": _mixtral,
}
SUPPORTED = tuple(sorted(_READERS))
