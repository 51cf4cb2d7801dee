//! A calibrated profile: one (model, GPU, dtype, engine version), as its JSON file states it.

use serde::Deserialize;

use super::polynomial::{Term, check_terms};
use crate::error::{Result, TwinError, invalid};

/// A list of terms in microseconds.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Terms {
    /// The terms; their sum is the cost.
    #[serde(default)]
    pub terms: Vec<Term>,
}

/// Time of one adapter load.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct LoadTime {
    /// Reading the adapter from disk into CPU memory.
    #[serde(default)]
    pub disk: Vec<Term>,
    /// Copying it into a GPU slot.
    #[serde(default)]
    pub memory: Vec<Term>,
}

/// Latency outside the engine core.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Frontend {
    /// Client sends -> visible to the scheduler.
    #[serde(default)]
    pub ingress: Vec<Term>,
    /// Step ends -> token at the client.
    #[serde(default)]
    pub egress: Vec<Term>,
    /// Serial work of the API server at an adapter's first request; whoever comes behind waits.
    #[serde(default)]
    pub first_request: Vec<Term>,
    /// Serial work of the API server at a poll of `/metrics`.
    #[serde(default)]
    pub poll: Vec<Term>,
}

/// Host work under async scheduling.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Host {
    /// Host time of one iteration: schedule, launch, update.
    #[serde(default)]
    pub async_schedule: Vec<Term>,
}

/// Tensors of one size.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct LoraTensors {
    /// Bytes of one of them per slot and unit of `max_lora_rank`.
    pub bytes: f64,
    /// How many there are.
    pub count: f64,
}

/// GPU memory, in bytes.
#[derive(Clone, Debug, Deserialize)]
pub struct Memory {
    /// Memory of the GPU.
    pub gpu_bytes: f64,
    /// Model weights.
    pub weights_bytes: f64,
    /// KV cache per token.
    pub kv_bytes_per_token: f64,
    /// Of one LoRA slot, whatever its rank.
    pub lora_slot_bytes: f64,
    /// Of one LoRA slot per unit of `max_lora_rank`.
    pub lora_slot_bytes_per_rank: f64,
    /// Stacked LoRA tensors of one size per slot and unit of rank, each rounded as PyTorch's allocator does.
    #[serde(default)]
    pub lora_tensors: Vec<LoraTensors>,
    /// Once, when LoRA is on.
    #[serde(default)]
    pub lora_fixed_bytes: f64,
    /// Activations, CUDA context and graphs.
    pub overhead_bytes: f64,
    /// The same per unit of `max_num_seqs` (the sampler's profile run).
    #[serde(default)]
    pub overhead_bytes_per_seq: f64,
    /// Their lower limit.
    #[serde(default)]
    pub overhead_min_bytes: f64,
    /// The same per LoRA slot.
    #[serde(default)]
    pub overhead_bytes_per_slot: f64,
    /// Free memory that loading the model needs beside weights and slots.
    #[serde(default)]
    pub load_reserve_bytes: f64,
}

/// What the simulator needs of a profile. Other keys (provenance, ranges, errors, ...) are for people and for Python.
#[derive(Clone, Debug, Deserialize)]
pub struct Profile {
    /// Format version: 1.
    pub schema: u32,
    /// `model@gpu`.
    pub name: String,
    /// Duration of a step without adapter loads.
    pub step_time: Terms,
    /// Adapter loads.
    #[serde(default)]
    pub load_time: LoadTime,
    /// HTTP server, tokenizer, detokenizer.
    #[serde(default)]
    pub frontend: Frontend,
    /// Async scheduling.
    #[serde(default)]
    pub host: Host,
    /// Memory model.
    pub memory: Memory,
}

impl Profile {
    /// Reads and checks a profile's JSON.
    pub fn parse(name: &str, json: &str) -> Result<Self> {
        let profile: Self = serde_json::from_str(json).map_err(|cause| TwinError::Schema {
            what: format!("profile {name:?}"),
            cause: cause.to_string(),
        })?;
        if profile.schema != 1 {
            return invalid(format!(
                "profile {name:?}: schema ({}) must be 1: refit it with this version of pytwin",
                profile.schema
            ));
        }
        let groups = [
            ("step_time", &profile.step_time.terms),
            ("load_time.disk", &profile.load_time.disk),
            ("load_time.memory", &profile.load_time.memory),
            ("frontend.ingress", &profile.frontend.ingress),
            ("frontend.egress", &profile.frontend.egress),
            ("frontend.first_request", &profile.frontend.first_request),
            ("frontend.poll", &profile.frontend.poll),
            ("host.async_schedule", &profile.host.async_schedule),
        ];
        for (which, terms) in groups {
            check_terms(&format!("profile {name:?} {which}"), terms)?;
        }
        if profile.memory.kv_bytes_per_token <= 0.0 {
            return invalid(format!(
                "profile {name:?}: memory.kv_bytes_per_token ({}) must be > 0",
                profile.memory.kv_bytes_per_token
            ));
        }
        Ok(profile)
    }
}
