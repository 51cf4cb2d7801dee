//! The settings of one vLLM server, in vLLM's own names.

use serde::Deserialize;

use crate::error::{Result, invalid};
use crate::policies::Policies;

/// The engine whose decisions are reproduced. A version is data: see [`crate::rules::Rules`].
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub enum EngineVersion {
    /// vLLM 0.8.5, V1 engine.
    #[serde(rename = "0.8.5")]
    V0_8_5,
    /// vLLM 0.32.
    #[serde(rename = "0.32", alias = "0.32.0")]
    V0_32,
}

impl EngineVersion {
    /// Reads "0.8.5", "0.32" or "0.32.0".
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "0.8.5" => Ok(Self::V0_8_5),
            "0.32" | "0.32.0" => Ok(Self::V0_32),
            _ => invalid(format!("engine_version ({text}) must be one of 0.8.5, 0.32")),
        }
    }
}

/// Order of the waiting queue and choice of preemption victims (vLLM `--scheduling-policy`).
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum SchedulingPolicy {
    /// First come, first served.
    #[default]
    Fcfs,
    /// Lower `priority` first, then earlier arrival.
    Priority,
}

/// Settings of one server, defaults already resolved by the caller.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineConfig {
    /// vLLM release whose rules apply.
    pub engine_version: EngineVersion,
    /// Adapter slots on the GPU; 0 turns LoRA off.
    pub max_loras: u32,
    /// Adapters kept in CPU memory (at least `max_loras`).
    pub max_cpu_loras: u32,
    /// Rank that every slot is allocated for.
    pub max_lora_rank: u32,
    /// Most requests in the running list.
    pub max_num_seqs: u32,
    /// Token budget of a step.
    pub max_num_batched_tokens: u32,
    /// Token budget of the scheduler, if it differs.
    #[serde(default)]
    pub max_num_scheduled_tokens: Option<u32>,
    /// Most running requests for admission, if it differs from `max_num_seqs`.
    #[serde(default)]
    pub max_num_active_seqs: Option<u32>,
    /// Tokens per KV block.
    pub block_size: u32,
    /// Share of GPU memory that vLLM may use, in (0, 1].
    pub gpu_memory_utilization: f64,
    /// Share KV blocks of equal prefixes.
    #[serde(default)]
    pub enable_prefix_caching: bool,
    /// Cut prefills to the token budget.
    #[serde(default = "yes")]
    pub enable_chunked_prefill: bool,
    /// Queue order.
    #[serde(default)]
    pub scheduling_policy: SchedulingPolicy,
    /// Schedule step i+1 before the output of step i is known.
    #[serde(default)]
    pub async_scheduling: bool,
    /// Cut of one request's prefill per step; 0 = none.
    #[serde(default)]
    pub long_prefill_token_threshold: u32,
    /// Raise that cut to an equal share of the budget.
    #[serde(default)]
    pub long_prefill_token_threshold_adaptive: bool,
    /// Admit a request only if its whole known sequence fits now (0.32).
    #[serde(default = "yes")]
    pub scheduler_reserve_full_isl: bool,
    /// Share of blocks to keep free at admission (0.32).
    #[serde(default)]
    pub watermark: f64,
    /// Longest prompt + output.
    pub max_model_len: u32,
    /// KV blocks, instead of the memory model's.
    #[serde(default)]
    pub num_gpu_blocks_override: Option<u32>,
    /// Requests in flight beyond which connections are refused.
    #[serde(default)]
    pub max_connections: Option<u32>,
    /// Seconds between a client's polls of `/metrics`: they block the API server for as long as the profile says.
    #[serde(default)]
    pub metrics_poll_s: Option<f64>,
    /// Load every adapter once before the traffic (`vllm serve --lora-modules`).
    #[serde(default = "yes")]
    pub lora_preload: bool,
    /// What-if rules.
    #[serde(default)]
    pub policies: Policies,
}

fn yes() -> bool {
    true
}

impl EngineConfig {
    /// Checks every rule that does not depend on the traffic.
    pub fn validate(&self) -> Result<()> {
        self.validate_scheduling()?;
        self.policies.validate(self.max_loras)?;
        if !(self.gpu_memory_utilization > 0.0 && self.gpu_memory_utilization <= 1.0) {
            return invalid(format!(
                "gpu_memory_utilization ({}) must be in (0, 1]",
                self.gpu_memory_utilization
            ));
        }
        if let Some(period) = self.metrics_poll_s
            && !(period >= 0.01 && period.is_finite())
        {
            return invalid(format!("metrics_poll_s ({period}) must be >= 0.01"));
        }
        if !self.enable_chunked_prefill && self.max_num_batched_tokens < self.max_model_len {
            return invalid(format!(
                "max_num_batched_tokens ({}) must be >= max_model_len ({}) without chunked prefill: raise it or set enable_chunked_prefill",
                self.max_num_batched_tokens, self.max_model_len
            ));
        }
        Ok(())
    }

    /// The rules that the scheduler itself relies on.
    pub fn validate_scheduling(&self) -> Result<()> {
        let positive = [
            ("max_num_seqs", self.max_num_seqs),
            ("max_num_batched_tokens", self.max_num_batched_tokens),
            ("block_size", self.block_size),
            ("max_model_len", self.max_model_len),
            (
                "max_num_scheduled_tokens",
                self.max_num_scheduled_tokens.unwrap_or(1),
            ),
            ("max_num_active_seqs", self.max_num_active_seqs.unwrap_or(1)),
            ("max_connections", self.max_connections.unwrap_or(1)),
        ];
        for (name, value) in positive {
            if value == 0 {
                return invalid(format!("{name} (0) must be >= 1"));
            }
        }
        if self.max_cpu_loras < self.max_loras {
            return invalid(format!(
                "max_cpu_loras ({}) must be >= max_loras ({})",
                self.max_cpu_loras, self.max_loras
            ));
        }
        if !(0.0..1.0).contains(&self.watermark) {
            return invalid(format!("watermark ({}) must be in [0, 1)", self.watermark));
        }
        if self.num_gpu_blocks_override.is_some_and(|blocks| blocks < 2) {
            return invalid("num_gpu_blocks_override must be >= 2: block 0 is never handed out");
        }
        if self.engine_version == EngineVersion::V0_8_5 {
            self.validate_0_8_5()?;
        }
        Ok(())
    }

    /// Settings that 0.8.5 (V1) lacks (its SchedulerConfig has no such field, or its V1 engine refuses the value).
    fn validate_0_8_5(&self) -> Result<()> {
        let absent = [
            ("async_scheduling", self.async_scheduling),
            (
                "scheduling_policy=priority",
                self.scheduling_policy == SchedulingPolicy::Priority,
            ),
            ("watermark", self.watermark > 0.0),
            ("max_num_active_seqs", self.max_num_active_seqs.is_some()),
            (
                "max_num_scheduled_tokens",
                self.max_num_scheduled_tokens.is_some(),
            ),
            (
                "long_prefill_token_threshold_adaptive",
                self.long_prefill_token_threshold_adaptive,
            ),
            ("enable_chunked_prefill=false", !self.enable_chunked_prefill),
        ];
        for (name, set) in absent {
            if set {
                return invalid(format!(
                    "{name} does not exist in vLLM 0.8.5 (V1): leave it out or set engine_version to 0.32"
                ));
            }
        }
        Ok(())
    }

    /// Token budget of one schedule call.
    pub fn token_budget(&self) -> u32 {
        self.max_num_scheduled_tokens
            .unwrap_or(u32::MAX)
            .min(self.max_num_batched_tokens)
    }

    /// Most requests that admission may leave running.
    pub fn max_running(&self) -> u32 {
        self.max_num_active_seqs.unwrap_or(self.max_num_seqs)
    }

    /// Whether adapters can be served.
    pub fn lora_enabled(&self) -> bool {
        self.max_loras > 0
    }
}
