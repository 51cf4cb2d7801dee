//! The JSON document of a fleet.

use serde::Deserialize;

use super::router::RouterSpec;
use crate::config::EngineConfig;
use crate::error::{Result, TwinError, invalid};
use crate::lora::AdapterId;
use crate::metrics::{Collect, ObjectivesSpec};
use crate::workload::WorkloadSpec;

/// More replicas than any router here has.
const MOST_REPLICAS: usize = 10_000;

/// One server of the fleet.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaSpec {
    /// Profile's name in the library.
    pub profile: String,
    /// Server settings.
    pub engine: EngineConfig,
    /// Adapters that it serves from its start on; all if left out.
    #[serde(default)]
    pub adapters: Option<Vec<AdapterId>>,
    /// When it is started, s.
    #[serde(default)]
    pub start_s: f64,
    /// How long it then takes until it takes requests, s.
    #[serde(default)]
    pub startup_s: f64,
    /// When it is sent no more requests and ends with those that it has, s.
    #[serde(default)]
    pub stop_s: Option<f64>,
}

/// What happens to an adapter on a replica.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum AdapterAction {
    /// `/v1/load_lora_adapter`: from then on its requests may come; the engine stands still while it loads.
    Load,
    /// `/v1/unload_lora_adapter`: from then on none come.
    Unload,
}

/// An adapter is loaded or unloaded while the fleet runs.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterEvent {
    /// When, s.
    pub at_s: f64,
    /// Where: number of the replica, from 0.
    pub replica: u32,
    /// Whom.
    pub adapter: AdapterId,
    /// What.
    pub action: AdapterAction,
}

/// Replicas, router, traffic.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetSpec {
    /// Servers.
    pub replicas: Vec<ReplicaSpec>,
    /// Who gets which request.
    pub router: RouterSpec,
    /// Age of what the router reads from the replicas' metrics, ms.
    #[serde(default)]
    pub signal_delay_ms: f64,
    /// Loads and unloads, in order of time.
    #[serde(default)]
    pub events: Vec<AdapterEvent>,
    /// Seed of all random streams.
    #[serde(default)]
    pub seed: u64,
    /// Simulate even where a memory model says that a server cannot start.
    #[serde(default)]
    pub ignore_memory: bool,
    /// Traffic of the whole fleet.
    pub workload: WorkloadSpec,
    /// Frames to keep.
    #[serde(default)]
    pub collect: Collect,
    /// What a request must keep to, to count as served well.
    #[serde(default)]
    pub objectives: ObjectivesSpec,
    /// Touch every request in every step: the same results, slower.
    #[serde(default)]
    pub exact: bool,
}

impl FleetSpec {
    /// Reads a document.
    pub fn parse(json: &str) -> Result<Self> {
        let spec: Self = serde_json::from_str(json).map_err(|cause| TwinError::Schema {
            what: "fleet".into(),
            cause: cause.to_string(),
        })?;
        spec.workload.validate()?;
        spec.objectives.validate()?;
        spec.collect.validate()?;
        let replicas = spec.replicas.len();
        if !(1..=MOST_REPLICAS).contains(&replicas) {
            return invalid(format!("replicas ({replicas}) must be from 1 to {MOST_REPLICAS}"));
        }
        for (number, replica) in spec.replicas.iter().enumerate() {
            replica.validate().map_err(|error| on_replica(number, &error))?;
            if replica.engine.policies.needs_future() && replicas > 1 {
                return invalid(format!(
                    "replica {number}: lora_eviction=clairvoyant needs a fleet of one replica: what a router will send is not known"
                ));
            }
        }
        if !(0.0..=1e9).contains(&spec.signal_delay_ms) {
            return invalid(format!(
                "signal_delay_ms ({}) must be >= 0 and <= 1e9",
                spec.signal_delay_ms
            ));
        }
        spec.validate_events()?;
        Ok(spec)
    }

    /// Checks what refers to adapters, of which there are `num_adapters`.
    pub fn validate_adapters(&self, num_adapters: u32) -> Result<()> {
        let known = |what: String, adapter: AdapterId| {
            if (1..=num_adapters).contains(&adapter) {
                return Ok(());
            }
            invalid(format!(
                "{what}: adapter ({adapter}) must be one of the workload's, 1 to {num_adapters}"
            ))
        };
        for (number, replica) in self.replicas.iter().enumerate() {
            for &adapter in replica.adapters.iter().flatten() {
                known(format!("replica {number}"), adapter)?;
            }
        }
        for event in &self.events {
            known(format!("event at {} s", event.at_s), event.adapter)?;
        }
        self.router.validate(self.replicas.len() as u32, num_adapters)
    }

    fn validate_events(&self) -> Result<()> {
        let mut before = 0.0;
        for event in &self.events {
            if !(event.at_s >= before && event.at_s <= 8_640_000.0) {
                return invalid(format!(
                    "event at_s ({}) must be >= {before}, the time of the one before it: sort events by time",
                    event.at_s
                ));
            }
            before = event.at_s;
            if event.replica as usize >= self.replicas.len() {
                return invalid(format!(
                    "event at {} s: replica ({}) must be < {}, the number of replicas",
                    event.at_s,
                    event.replica,
                    self.replicas.len()
                ));
            }
        }
        Ok(())
    }
}

/// An error with the replica that it is of.
pub fn on_replica(number: usize, error: &TwinError) -> TwinError {
    TwinError::Invalid(format!("replica {number}: {error}"))
}

impl ReplicaSpec {
    fn validate(&self) -> Result<()> {
        self.engine.validate()?;
        for (name, value) in [("start_s", self.start_s), ("startup_s", self.startup_s)] {
            if !(0.0..=8_640_000.0).contains(&value) {
                return invalid(format!("{name} ({value}) must be >= 0 and <= 8640000 (100 days)"));
            }
        }
        let ready = self.start_s + self.startup_s;
        match self.stop_s {
            Some(stop) if !(stop >= ready && stop <= 8_640_000.0) => invalid(format!(
                "stop_s ({stop}) must be >= start_s + startup_s ({ready}): it would stop before it serves"
            )),
            _ => Ok(()),
        }
    }
}
