"""A tiny random Llama, and random LoRA adapters for any Llama-shaped model. Needs torch.

    python models.py base DIR [--hidden 256 --layers 2 ...]
    python models.py adapters DIR --config CONFIG.json --names r8-1,r16-2,r32-3

Run with the Python that has vLLM in it (this file imports nothing of pytwin). Weights are random:
how long a step takes and what is scheduled do not depend on their values. Adapters carry every
linear projection, as those that users train most often. Of a rank, a few differ (--distinct) and
the others are links to them: hundreds of adapters of an 8 B model would fill a disk.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

PADDING, START, END, UNKNOWN = range(4)
HEAD_DIM = 64


def projections(config):
    """The linear layers of one block: name -> (out, in), as in Hugging Face's Llama and Qwen."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    query, key = heads * head, (config.get("num_key_value_heads") or heads) * head
    return {
        "self_attn.q_proj": (query, hidden),
        "self_attn.k_proj": (key, hidden),
        "self_attn.v_proj": (key, hidden),
        "self_attn.o_proj": (hidden, query),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }


def random_tensor(generator, *shape):
    return (torch.randn(*shape, generator=generator) * 0.02).to(torch.bfloat16)


def write_base(directory, hidden, layers, vocab, max_len):
    """Config, weights and a tokenizer of one word per id."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": 3 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // HEAD_DIM,
        "num_key_value_heads": max(1, hidden // (2 * HEAD_DIM)),
        "head_dim": HEAD_DIM,
        "vocab_size": vocab,
        "max_position_embeddings": max_len,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": START,
        "eos_token_id": END,
        "pad_token_id": PADDING,
        "torch_dtype": "bfloat16",
    }
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    generator = torch.Generator().manual_seed(0)
    ones = torch.ones(hidden, dtype=torch.bfloat16)
    weights = {
        "model.embed_tokens.weight": random_tensor(generator, vocab, hidden),
        "lm_head.weight": random_tensor(generator, vocab, hidden),
        "model.norm.weight": ones,
    }
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        for name, shape in projections(config).items():
            weights[f"{prefix}{name}.weight"] = random_tensor(generator, *shape)
        weights[prefix + "input_layernorm.weight"] = ones.clone()
        weights[prefix + "post_attention_layernorm.weight"] = ones.clone()
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(directory, vocab)


def write_tokenizer(directory, vocab):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = {"<pad>": PADDING, "<s>": START, "</s>": END, "<unk>": UNKNOWN}
    words = special | {f"w{token}": token for token in range(len(special), vocab)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",  # noqa: S106 -- no password
        eos_token="</s>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
    ).save_pretrained(directory)


def write_adapter(directory, config, rank, seed):
    """A PEFT checkpoint of one adapter of this rank."""
    directory.mkdir(parents=True, exist_ok=True)
    shapes = projections(config)
    described = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "base_model_name_or_path": "",
        "target_modules": sorted(name.split(".")[-1] for name in shapes),
        "inference_mode": True,
        "fan_in_fan_out": False,
        "modules_to_save": None,
    }
    (directory / "adapter_config.json").write_text(json.dumps(described, indent=1))
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for layer in range(config["num_hidden_layers"]):
        for name, (out, inner) in shapes.items():
            key = f"base_model.model.model.layers.{layer}.{name}"
            weights[key + ".lora_A.weight"] = random_tensor(generator, rank, inner)
            weights[key + ".lora_B.weight"] = random_tensor(generator, out, rank)
    save_file(weights, directory / "adapter_model.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["base", "adapters"])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--max-len", type=int, default=4096)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--names", default="", help="rRANK-NUMBER, separated by commas")
    parser.add_argument("--distinct", type=int, default=4, help="per rank")
    given = parser.parse_args()
    if given.what == "base":
        write_base(given.directory, given.hidden, given.layers, given.vocab, given.max_len)
        return
    config = json.loads(given.config.read_text())
    config = config.get("text_config") or config
    for name in given.names.split(","):
        rank, number = (int(part) for part in name.removeprefix("r").split("-"))
        first = given.directory / f"r{rank}-weights{number % given.distinct}"
        if not (first / "adapter_model.safetensors").is_file():
            write_adapter(first, config, rank, seed=1000 * rank + number % given.distinct)
        link = given.directory / name
        if not link.exists():
            link.symlink_to(first.name)


if __name__ == "__main__":
    main()
