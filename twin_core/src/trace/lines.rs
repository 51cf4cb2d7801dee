//! The lines of a trace.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::case::CaseConfig;
use crate::error::{Result, TwinError};
use crate::lora::{AdapterId, LoraEvent};

/// A JSON object in insertion order.
pub(super) struct Object<V>(pub Vec<(String, V)>);

impl<V: Serialize> Serialize for Object<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// What schedule() decided.
#[derive(Serialize)]
pub(super) struct Scheduled {
    pub scheduled: Vec<(String, u32, u32, &'static str)>,
    pub total_tokens: u32,
    pub preempted: Vec<String>,
    pub blocks: Object<(u32, Vec<u32>)>,
    pub free_head: Vec<u32>,
    pub free_blocks: u32,
    pub running: Vec<String>,
    pub waiting: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loras: Option<Vec<AdapterId>>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub worker: Option<Worker>,
}

/// What the worker's adapter caches did.
#[derive(Serialize)]
pub(super) struct Worker {
    pub lora_order: Vec<AdapterId>,
    pub lora_events: Vec<serde_json::Value>,
    pub lora_slots: Vec<Option<AdapterId>>,
    pub lora_gpu_lru: Vec<AdapterId>,
    pub lora_cpu_lru: Vec<AdapterId>,
}

/// What the output brought.
#[derive(Serialize)]
pub(super) struct Updated {
    pub output: Vec<String>,
    pub finished: Object<&'static str>,
    pub free_blocks_after: u32,
}

/// One engine iteration.
#[derive(Serialize)]
pub(super) struct Step {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub i: u64,
    pub added: Vec<String>,
    pub aborted: Vec<String>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub scheduled: Option<Scheduled>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub updated: Option<Updated>,
}

/// The first line.
#[derive(Serialize)]
pub(super) struct Header<'a> {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub vllm: &'static str,
    pub config: &'a CaseConfig,
    pub requests: usize,
    /// The reference's PYTHONHASHSEED; the twin has none.
    pub hash_seed: Option<u32>,
}

/// The last line.
#[derive(Serialize)]
pub(super) struct Summary {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub steps: u64,
    pub preemptions: u64,
    pub tokens: u64,
    pub unfinished: usize,
    /// The reference's run time; the core has no clock.
    pub seconds: Option<f64>,
}

/// A line.
pub(super) fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|cause| TwinError::Schema {
        what: "trace".into(),
        cause: cause.to_string(),
    })
}

/// An event of the adapter caches.
pub(super) fn event_json(event: &LoraEvent) -> serde_json::Value {
    match *event {
        LoraEvent::Load(adapter) => serde_json::json!(["load", adapter]),
        LoraEvent::EvictCpu(adapter) => serde_json::json!(["evict_cpu", adapter]),
        LoraEvent::Deactivate(adapter) => serde_json::json!(["deactivate", adapter]),
        LoraEvent::Activate(adapter, slot) => serde_json::json!(["activate", adapter, slot]),
    }
}
