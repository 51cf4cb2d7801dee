//! A case: one server configuration and its requests by iteration of arrival (docs/conformance.md has the format).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::{EngineConfig, EngineVersion, SchedulingPolicy};
use crate::error::{Result, invalid};

/// Scheduler settings of a case; a case gives all of them.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[allow(missing_docs)]
pub struct CaseConfig {
    pub num_blocks: u32,
    pub block_size: u32,
    pub max_num_seqs: u32,
    pub max_num_batched_tokens: u32,
    pub max_model_len: u32,
    pub max_loras: Option<u32>,
    pub max_cpu_loras: Option<u32>,
    pub enable_prefix_caching: bool,
    pub policy: String,
    pub async_scheduling: bool,
    pub long_prefill_token_threshold: u32,
    pub long_prefill_token_threshold_adaptive: bool,
    pub enable_chunked_prefill: bool,
    pub max_num_scheduled_tokens: Option<u32>,
    pub max_num_active_seqs: Option<u32>,
    pub watermark: f64,
    pub scheduler_reserve_full_isl: bool,
}

/// One request of a case.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct CaseRequest {
    pub id: String,
    pub arrival_step: u64,
    #[serde(default)]
    pub prompt_len: Option<u32>,
    #[serde(default)]
    pub prompt_token_ids: Option<Vec<u32>>,
    pub max_tokens: u32,
    #[serde(default)]
    pub stop_at: Option<u32>,
    #[serde(default)]
    pub lora_id: Option<u32>,
    #[serde(default)]
    pub priority: i64,
    pub arrival_time: f64,
}

/// The client gives a request up.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct CaseAbort {
    pub step: u64,
    pub id: String,
}

/// A case.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Case {
    pub config: CaseConfig,
    pub requests: Vec<CaseRequest>,
    #[serde(default)]
    pub aborts: Vec<CaseAbort>,
    #[serde(default)]
    pub lora_preload: Vec<u32>,
    #[serde(default)]
    pub lora_order: BTreeMap<String, Vec<u32>>,
    #[serde(default)]
    pub mutation: Option<String>,
}

impl CaseConfig {
    /// The settings as a server's.
    pub fn engine(&self, version: EngineVersion) -> Result<EngineConfig> {
        let max_loras = self.max_loras.unwrap_or(0);
        let config = EngineConfig {
            engine_version: version,
            max_loras,
            max_cpu_loras: self.max_cpu_loras.filter(|&n| n > 0).unwrap_or(max_loras),
            max_lora_rank: 8,
            max_num_seqs: self.max_num_seqs,
            max_num_batched_tokens: self.max_num_batched_tokens,
            max_num_scheduled_tokens: self.max_num_scheduled_tokens.filter(|&n| n > 0),
            max_num_active_seqs: self.max_num_active_seqs.filter(|&n| n > 0),
            block_size: self.block_size,
            gpu_memory_utilization: 0.9,
            enable_prefix_caching: self.enable_prefix_caching,
            enable_chunked_prefill: self.enable_chunked_prefill,
            scheduling_policy: match self.policy.as_str() {
                "fcfs" => SchedulingPolicy::Fcfs,
                "priority" => SchedulingPolicy::Priority,
                other => return invalid(format!("policy ({other}) must be fcfs or priority")),
            },
            async_scheduling: self.async_scheduling,
            long_prefill_token_threshold: self.long_prefill_token_threshold,
            long_prefill_token_threshold_adaptive: self.long_prefill_token_threshold_adaptive,
            scheduler_reserve_full_isl: self.scheduler_reserve_full_isl,
            watermark: self.watermark,
            max_model_len: self.max_model_len,
            num_gpu_blocks_override: Some(self.num_blocks),
            max_connections: None,
            metrics_poll_s: None,
            lora_preload: false,
            policies: crate::policies::Policies::default(),
        };
        config.validate_scheduling()?;
        Ok(config)
    }
}
