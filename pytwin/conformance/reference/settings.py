"""The configuration objects that vLLM's scheduler reads, with nothing more in them.

Plain namespaces: a field that another release reads and that is not set here raises
AttributeError, so a drift of vLLM is loud.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any


def vllm_config(config: Mapping[str, Any]) -> SimpleNamespace:
    """vLLM's VllmConfig for a case's `config`: decoder-only, one GPU, no speculation."""
    batches_in_flight = 2 if config["async_scheduling"] else 1
    return SimpleNamespace(
        scheduler_config=_scheduler_config(config),
        lora_config=_lora_config(config),
        cache_config=SimpleNamespace(
            num_gpu_blocks=config["num_blocks"],
            block_size=config["block_size"],
            enable_prefix_caching=config["enable_prefix_caching"],
            prefix_caching_hash_algo="builtin",  # read by 0.8.5 alone
            enable_mamba_shared_prefix_checkpoint=False,
            mamba_cache_mode="none",
        ),
        model_config=SimpleNamespace(
            max_model_len=config["max_model_len"],
            uses_mrope=False,
            is_encoder_decoder=False,
            is_multimodal_model=False,
            runner_type="generate",
            is_diffusion=False,
            supports_multimodal_inputs=False,
            return_sampling_mask=False,
        ),
        parallel_config=SimpleNamespace(
            data_parallel_index=0,
            decode_context_parallel_size=1,
            prefill_context_parallel_size=1,
            pipeline_parallel_size=1,
        ),
        observability_config=SimpleNamespace(
            per_request_spec_decode_metrics="none",
            kv_cache_metrics=False,
            enable_mfu_metrics=False,
            enable_logging_iteration_details=False,
        ),
        ec_manager_config=SimpleNamespace(get_encoder_cache_manager_obj=lambda: None),
        aux_output_config=SimpleNamespace(enabled=False),
        kv_events_config=None,
        kv_transfer_config=None,
        ec_transfer_config=None,
        speculative_config=None,
        num_speculative_tokens=0,
        num_lookahead_tokens=0,
        num_prefill_lookahead_tokens=0,
        is_mm_encoder_only=False,
        max_concurrent_batches=batches_in_flight,
        max_in_flight_tokens=batches_in_flight * config["max_num_batched_tokens"],
        use_v2_model_runner=False,  # only changes how resumed requests are labelled
    )


def _scheduler_config(config: Mapping[str, Any]) -> SimpleNamespace:
    passed_on = (
        "max_num_seqs",
        "max_num_batched_tokens",
        "max_num_scheduled_tokens",
        "max_num_active_seqs",
        "max_model_len",  # read here by 0.8.5 alone
        "long_prefill_token_threshold",
        "long_prefill_token_threshold_adaptive",
        "enable_chunked_prefill",
        "policy",
        "watermark",
        "scheduler_reserve_full_isl",
        "async_scheduling",
    )
    return SimpleNamespace(
        disable_chunked_mm_input=False, **{name: config[name] for name in passed_on}
    )


def _lora_config(config: Mapping[str, Any]) -> SimpleNamespace | None:
    if not config["max_loras"]:
        return None
    return SimpleNamespace(
        max_loras=config["max_loras"],
        max_cpu_loras=config["max_cpu_loras"] or config["max_loras"],
    )


def sampling_params(max_tokens: int, stop_token: int) -> SimpleNamespace:
    """The fields of vLLM's SamplingParams that the scheduler reads."""
    return SimpleNamespace(
        max_tokens=max_tokens,
        stop_token_ids=[stop_token],
        ignore_eos=True,
        eos_token_id=None,
        min_tokens=0,
        repetition_detection=None,
        extra_args=None,
        skip_reading_prefix_cache=None,
        num_logprobs=None,
        logprobs=None,
        prompt_logprobs=None,
        guided_decoding=None,
    )
