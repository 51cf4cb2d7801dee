//! What-if rules beside vLLM's own. The defaults are vLLM's; anything else asks what a server would do if it were changed.

use serde::Deserialize;

use crate::error::{Result, invalid};

/// Which adapter gives up its place, in GPU slots and in CPU memory alike.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum EvictionPolicy {
    /// The least recently used (vLLM).
    #[default]
    Lru,
    /// The least frequently used; uses count half as much after each `lfu_half_life_s`.
    Lfu,
    /// GreedyDual with frequency (Cherkasova 1998): uses times the time of a reload, above a level that rises with each eviction.
    CostAware,
    /// The one whose next request comes last (Belady 1966): needs to know the future, so a bound and not a policy.
    Clairvoyant,
}

/// How adapter loads and compute share a step.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum LoraLoading {
    /// Loads first, then the step (vLLM).
    #[default]
    Blocking,
    /// Loads run beside the step's compute; the step ends with the later of the two.
    Overlapped,
}

/// The rules of one server.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Policies {
    /// Who is evicted.
    pub lora_eviction: EvictionPolicy,
    /// Ageing of `lfu` and `cost_aware` counts, s.
    pub lfu_half_life_s: f64,
    /// Adapters that keep their slots once they have them.
    pub pinned_loras: Vec<u32>,
    /// Loads and compute.
    pub lora_loading: LoraLoading,
    /// A request that has waited for so long for its adapter's place makes another adapter give one up; never in vLLM.
    pub admission_ageing_s: Option<f64>,
}

impl Default for Policies {
    fn default() -> Self {
        Self {
            lora_eviction: EvictionPolicy::Lru,
            lfu_half_life_s: 300.0,
            pinned_loras: Vec::new(),
            lora_loading: LoraLoading::Blocking,
            admission_ageing_s: None,
        }
    }
}

impl Policies {
    /// Whether adapters are evicted by another rule than vLLM's.
    pub fn evicts_otherwise(&self) -> bool {
        self.lora_eviction != EvictionPolicy::Lru || !self.pinned_loras.is_empty()
    }

    /// Whether the arrivals to come must be known.
    pub fn needs_future(&self) -> bool {
        self.lora_eviction == EvictionPolicy::Clairvoyant
    }

    /// Checks the numbers, for a server of `max_loras` slots.
    pub fn validate(&self, max_loras: u32) -> Result<()> {
        if !(self.lfu_half_life_s > 0.0 && self.lfu_half_life_s.is_finite()) {
            return invalid(format!("lfu_half_life_s ({}) must be > 0", self.lfu_half_life_s));
        }
        if let Some(limit) = self.admission_ageing_s
            && !(0.0..=1e6).contains(&limit)
        {
            return invalid(format!(
                "admission_ageing_s ({limit}) must be >= 0 and <= 1000000"
            ));
        }
        if self.pinned_loras.contains(&0) {
            return invalid("pinned_loras (0) must be adapters: 0 is the base model");
        }
        if !self.pinned_loras.is_empty() && self.pinned_loras.len() >= max_loras as usize {
            return invalid(format!(
                "pinned_loras ({} of them) must be fewer than max_loras ({max_loras}): the others need a slot",
                self.pinned_loras.len()
            ));
        }
        Ok(())
    }
}
