//! Time of adapter loads: in-step, serial and blocking, as in vLLM.

use super::features::{ConfigFeatures, Feature, NUM_FEATURES};
use super::polynomial::Polynomial;
use super::profile::LoadTime;
use crate::lora::{AdapterId, LoraEvent};
use crate::time::Picoseconds;

/// Load times of every adapter of one server.
#[derive(Clone, Debug)]
pub struct LoadTimes {
    disk: Vec<Picoseconds>,
    memory: Vec<Picoseconds>,
}

impl LoadTimes {
    /// For adapters `1..=ranks.len()` of those ranks.
    pub fn new(load_time: &LoadTime, config: &ConfigFeatures, ranks: &[u32]) -> Self {
        let disk = Polynomial::compile(&load_time.disk, config);
        let memory = Polynomial::compile(&load_time.memory, config);
        let eval = |polynomial: &Polynomial| {
            ranks
                .iter()
                .map(|&rank| {
                    let mut values = [0; NUM_FEATURES];
                    values[Feature::Rank as usize] = i64::from(rank);
                    values[Feature::RankPadding as usize] = (config.max_lora_rank() - i64::from(rank)).max(0);
                    polynomial.eval(&values)
                })
                .collect()
        };
        Self {
            disk: eval(&disk),
            memory: eval(&memory),
        }
    }

    /// Disk to CPU memory.
    pub fn disk(&self, adapter: AdapterId) -> Picoseconds {
        self.disk[adapter as usize - 1]
    }

    /// CPU memory to a GPU slot.
    pub fn memory(&self, adapter: AdapterId) -> Picoseconds {
        self.memory[adapter as usize - 1]
    }

    /// To have it in a slot again once it was evicted, from disk where memory does not hold all.
    pub fn reload(&self, adapter: AdapterId, from_disk: bool) -> Picoseconds {
        self.memory(adapter) + if from_disk { self.disk(adapter) } else { 0 }
    }

    /// What one event costs.
    pub fn of(&self, event: LoraEvent) -> Picoseconds {
        match event {
            LoraEvent::Load(adapter) => self.disk(adapter),
            LoraEvent::Activate(adapter, _) => self.memory(adapter),
            LoraEvent::EvictCpu(_) | LoraEvent::Deactivate(_) => 0,
        }
    }
}
