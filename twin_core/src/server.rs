//! One server made ready to run: what a single simulation and each replica of a fleet have in common.

use crate::config::EngineConfig;
use crate::cost::{CostModel, KvPlan, Profile};
use crate::engine::scheduler::Fidelity;
use crate::error::{Result, invalid};
use crate::lora::{AdapterId, Evictor, Future};
use crate::rules::Rules;
use crate::simulator::Engine;
use crate::time::{Picoseconds, from_seconds};
use crate::timed::Conditions;

/// Settings, profile and adapters of one server.
#[derive(Clone, Copy, Debug)]
pub struct Server<'a> {
    /// Its settings.
    pub config: &'a EngineConfig,
    /// Its costs.
    pub profile: &'a Profile,
    /// KV blocks.
    pub num_blocks: u32,
    /// Rank by adapter, index 0 for the base model.
    pub ranks: &'a [u32],
    /// How many of the adapters it ever serves.
    pub served: u32,
}

/// KV blocks of a server. Where it would not start they are what one longest request needs: a server that really started had
/// at least those.
pub fn plan(profile: &Profile, config: &EngineConfig) -> KvPlan {
    let mut plan = profile.memory.plan(config);
    if plan.infeasible.is_some() {
        let least = config.max_model_len.div_ceil(config.block_size) + 1;
        plan.num_blocks = plan.num_blocks.max(least);
    }
    plan
}

impl Server<'_> {
    /// Largest adapter number.
    pub fn num_adapters(&self) -> u32 {
        self.ranks.len() as u32 - 1
    }

    /// Rules between the server and the adapters that it serves.
    pub fn check(&self, served: impl Iterator<Item = AdapterId>) -> Result<()> {
        let config = self.config;
        if self.served > 0 && !config.lora_enabled() {
            return invalid(format!(
                "max_loras (0) turns LoRA off, but the workload has {} adapters: set max_loras >= 1",
                self.served
            ));
        }
        for adapter in served {
            let rank = self.ranks[adapter as usize];
            if rank == 0 || rank > config.max_lora_rank {
                return invalid(format!(
                    "adapter rank ({rank}) must be >= 1 and <= max_lora_rank ({}): raise max_lora_rank",
                    config.max_lora_rank
                ));
            }
        }
        let pinned = config.policies.pinned_loras.iter();
        if let Some(adapter) = pinned.copied().find(|&adapter| adapter > self.num_adapters()) {
            return invalid(format!(
                "pinned_loras ({adapter}) must be an adapter of the workload, 1 to {}",
                self.num_adapters()
            ));
        }
        Ok(())
    }

    /// Its costs.
    pub fn cost(&self) -> CostModel {
        CostModel::new(self.profile, self.config, &self.ranks[1..], self.served)
    }

    /// An idle engine with `preloaded` adapters in its caches; `future` is what a clairvoyant eviction looks at.
    pub fn engine(
        &self,
        fidelity: Fidelity,
        seed: u64,
        cost: &CostModel,
        preloaded: impl Iterator<Item = AdapterId>,
        future: Option<Future>,
    ) -> Engine {
        let config = self.config;
        let rules = Rules::of(config.engine_version);
        let mut engine = Engine::new(
            config,
            rules,
            self.num_blocks,
            self.num_adapters(),
            fidelity,
            seed,
        );
        if let Some(lora) = engine.lora.as_mut() {
            if config.lora_preload {
                lora.preload(preloaded);
            }
            if config.policies.evicts_otherwise() {
                let reload: Vec<Picoseconds> = (1..self.ranks.len() as u32)
                    .map(|adapter| cost.loads.reload(adapter, config.max_cpu_loras < self.served))
                    .collect();
                lora.evict_by(Evictor::new(&config.policies, &reload, future));
            }
        }
        engine
    }

    /// What frames its run up to `end`.
    pub fn conditions(&self, end: Option<Picoseconds>) -> Conditions {
        let config = self.config;
        Conditions {
            num_adapters: self.num_adapters(),
            max_connections: config.max_connections,
            metrics_poll: config.metrics_poll_s.map(from_seconds),
            max_model_len: config.max_model_len,
            prefix_caching: config.enable_prefix_caching,
            asynchronous: config.async_scheduling,
            lora_loading: config.policies.lora_loading,
            end,
            ..Conditions::default()
        }
    }

    /// KV blocks, those that may be handed out, and tokens that all hold.
    pub fn kv(&self) -> (u64, u64, u64) {
        let blocks = u64::from(self.num_blocks);
        (
            blocks,
            blocks.saturating_sub(1).max(1),
            blocks * u64::from(self.config.block_size),
        )
    }
}
