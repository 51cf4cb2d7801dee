"""Shapes out of config.json: parameters to the last one, and errors in one line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytwin.calibrate.prior.config_json import SUPPORTED, architecture_of, read_config
from pytwin.calibrate.prior.gpus import known_gpus, load_gpu, read_gpu_spec
from pytwin.calibrate.prior.learned import known_architecture, known_config, known_models
from pytwin.errors import ConfigError, DataError, PytwinError

# "Total parameters" of the public checkpoints' safetensors indexes.
PARAMETERS = {
    "llama-3.1-8b-instruct": 8_030_261_248,
    "llama-3.1-70b-instruct": 70_553_706_496,
    "llama-3.2-1b-instruct": 1_235_814_400,
    "llama-3.2-3b-instruct": 3_212_749_824,
    "mistral-7b-instruct-v0.3": 7_248_023_552,
    "qwen-2.5-0.5b-instruct": 494_032_768,
    "qwen-2.5-7b-instruct": 7_615_616_512,
    "qwen-2.5-14b-instruct": 14_770_033_664,
    "qwen-3-8b": 8_190_735_360,
    "gemma-2-2b-it": 2_614_341_888,
    "gemma-2-9b-it": 9_241_705_984,
    "gemma-3-1b-it": 999_885_952,
    "phi-3-mini-4k-instruct": 3_821_079_552,
    "mixtral-8x7b-instruct-v0.1": 46_702_792_704,
}


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_parameters_are_those_of_the_checkpoint(name):
    assert known_architecture(name).parameters == PARAMETERS[name]


def test_every_known_model_is_counted_and_every_architecture_has_one():
    assert known_models() == sorted(PARAMETERS)
    assert {known_architecture(name).name for name in PARAMETERS} == set(SUPPORTED)


@pytest.mark.parametrize(
    ("name", "bytes_per_token"),
    [
        ("llama-3.1-8b-instruct", 131_072),
        ("qwen-2.5-7b-instruct", 57_344),
        ("llama-3.1-70b-instruct", 327_680),
        ("gemma-2-9b-it", 344_064),
        ("phi-3-mini-4k-instruct", 393_216),
    ],
)
def test_kv_bytes_per_token(name, bytes_per_token):
    assert known_architecture(name).kv_bytes_per_token == bytes_per_token


def test_experts_are_stored_all_and_computed_few():
    mixtral = known_architecture("mixtral-8x7b-instruct-v0.1")
    # 12.9 billion of 46.7 are active per token (mistral.ai), lm_head among them.
    active = (mixtral.flops_per_token + mixtral.flops_per_sequence) / 2
    assert active == pytest.approx(12.75e9, rel=0.01)
    assert mixtral.expert_bytes > 0.9 * mixtral.parameters * 2
    assert [group.name for group in mixtral.lora_groups] == ["qkv_proj", "o_proj", "gate"]


def test_phi_3_takes_lora_on_fused_projections():
    phi = known_architecture("phi-3-mini-4k-instruct")
    assert [len(group.outputs) for group in phi.lora_groups] == [1, 1, 1, 1]
    assert phi.lora_groups[0].outputs == (3 * 3072,)


@pytest.mark.parametrize(
    ("rope", "length"),
    [
        (None, 32_768),
        ({"rope_type": "llama3", "factor": 8.0}, 32_768),
        ({"type": "linear", "factor": 2.0}, 65_536),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}, 131_072),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}, 32_768),
        ({"type": "longrope", "factor": 4.0}, 32_768),
    ],
)
def test_max_model_len_is_derived_as_vllm_derives_it(rope, length):
    config = {**known_config("qwen-2.5-7b-instruct"), "rope_scaling": rope}
    assert architecture_of(config).max_model_len == length


def changed(**changes):
    config = known_config("llama-3.1-8b-instruct")
    for key, value in changes.items():
        if value == "absent":
            config.pop(key)
        else:
            config[key] = value
    return config


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_hidden_layers": "absent"}, "num_hidden_layers is missing"),
        ({"vocab_size": "absent"}, "vocab_size is missing"),
        ({"hidden_size": -1}, r"hidden_size \(-1\) must be a whole number >= 1"),
        ({"hidden_size": 4096.5}, r"hidden_size \(4096.5\) must be a whole number"),
        ({"num_key_value_heads": 5}, r"must be a multiple of num_key_value_heads \(5\)"),
        ({"num_attention_heads": 30, "num_key_value_heads": 30}, "where head_dim is left out"),
        ({"quantization_config": {"quant_method": "fp8"}}, r"quantization_config \(fp8\)"),
        ({"architectures": ["Qwen2MoeForCausalLM"]}, "Qwen2MoeForCausalLM is not supported"),
        ({"architectures": ["BertModel"]}, "BertModel is not supported: supported are Gemma2"),
        ({"architectures": "absent"}, r"architectures \(None\) must name a class"),
        ({"architectures": []}, r"architectures \(\[\]\) must name a class"),
        ({"rope_scaling": {"type": "linear", "factor": "x"}}, r"factor \('x'\) must be a positive"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(changes, told):
    with pytest.raises(ConfigError, match=told) as caught:
        architecture_of(changed(**changes), where="m/config.json")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("m/config.json: ")


def test_more_active_experts_than_experts():
    config = {**known_config("mixtral-8x7b-instruct-v0.1"), "num_experts_per_tok": 9}
    with pytest.raises(ConfigError, match=r"num_experts_per_tok \(9\) must be <= num_local"):
        architecture_of(config)


def test_only_16_bits():
    with pytest.raises(ConfigError, match=r"dtype \(float32\) must be one of auto, bfloat16"):
        architecture_of(known_config("qwen-3-8b"), dtype="float32")


@given(
    st.dictionaries(
        st.sampled_from(sorted({key for n in known_models() for key in known_config(n)})),
        st.none() | st.integers(-5, 10**7) | st.floats() | st.text(max_size=3) | st.just([]),
        max_size=4,
    ),
    st.sampled_from(known_models()),
)
def test_any_config_is_read_or_refused_in_one_line(changes, name):
    model, told = None, ""
    try:
        model = architecture_of({**known_config(name), **changes})
    except PytwinError as error:
        told = str(error)
    assert "\n" not in told
    assert told or (model.parameters > 0 and model.max_model_len > 0)


def test_files_are_read_from_a_directory_too(tmp_path):
    config = known_config("qwen-3-8b")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_config(tmp_path) == read_config(tmp_path / "config.json") == architecture_of(config)


@pytest.mark.parametrize(
    ("text", "told"), [("{", "is not JSON"), ("[1]", "must be a JSON object"), (None, "cannot be")]
)
def test_damaged_files(tmp_path, text, told):
    file = tmp_path / "config.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(DataError, match=told):
        read_config(file)


def test_known_gpus_have_sensible_figures():
    assert {"a100-40gb", "a100-80gb", "h100-64gb", "h100-80gb", "h200", "l40s", "a10g"} <= set(
        known_gpus()
    )
    for name in known_gpus():
        gpu = load_gpu(name)
        label = {"h200": 141, "l40s": 48, "a10g": 24}.get(name) or int(name[-4:-2])
        # Drivers report less than the label, in either unit.
        assert 0.85 * label * 2**30 < gpu.memory_bytes < label * 2**30
        assert 1e11 < gpu.bandwidth < 1e13
        assert 50 < gpu.ridge_tokens < 1000
        assert gpu.source


def test_unknown_gpus_are_told_with_the_way_out():
    with pytest.raises(ConfigError, match=r"did you mean h100-64gb or h100-80gb.*--gpu-spec"):
        load_gpu("H100")
    with pytest.raises(ConfigError, match=r"known are a100-40gb, .*--gpu-spec FILE\.json"):
        load_gpu("tpu-v5")


def test_a_user_s_own_gpu(tmp_path):
    file = tmp_path / "b200.json"
    spec = {"memory_gib": 178.4, "bandwidth_gb_s": 7700, "bf16_tflop_s": 2250, "sms": 148}
    file.write_text(json.dumps(spec))
    with pytest.raises(DataError, match=r"pcie_gb_s \(None\) must be a positive number"):
        read_gpu_spec(file, "B200")
    file.write_text(json.dumps({**spec, "pcie_gb_s": 63}))
    gpu = read_gpu_spec(file, "B200")
    assert (gpu.key, gpu.sms, gpu.bandwidth) == ("b200", 148, 7.7e12)
    file.write_text("[]")
    with pytest.raises(DataError, match="must be an object"):
        read_gpu_spec(file, "B200")
    with pytest.raises(DataError, match="cannot be read"):
        read_gpu_spec(tmp_path / "absent.json", "B200")
