//! Adapters in the worker: GPU slots over a CPU cache, two LRU tiers.
//!
//! vLLM `lora/worker_manager.py` LRUCacheWorkerLoRAManager._apply_adapters() and `lora/model_manager.py` (0.8.5: `lora/models.py`)
//! LRUCacheLoRAModelManager: at the start of every non-empty step each adapter of the batch is visited; what is not in CPU
//! memory is read from disk, what has no slot is copied into one, serially and blocking. Nothing is pinned: an adapter needed
//! later in the same step can be evicted and loaded again.

pub mod cpu_cache;
pub mod gpu_slots;

use cpu_cache::CpuCache;
use gpu_slots::GpuSlots;

use crate::rng::keyed;
use crate::rules::Rules;

/// Adapter number: 1 and up (0 is the base model and never loaded).
pub type AdapterId = u32;

/// What a visit did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoraEvent {
    /// Read from disk into CPU memory.
    Load(AdapterId),
    /// Dropped from CPU memory.
    EvictCpu(AdapterId),
    /// Lost its GPU slot.
    Deactivate(AdapterId),
    /// Copied into this GPU slot.
    Activate(AdapterId, u32),
}

/// Last visits, for LRU order. vLLM iterates a Python *set* of adapters, whose order differs between processes; here the order
/// of step `s` is given, or the adapters sorted by a hash keyed by (seed, s), so that a step in which nothing is loaded need
/// not work it out.
#[derive(Debug)]
pub struct Recency {
    seed: u64,
    step: Vec<u64>,
    position: Vec<Option<u32>>,
}

impl Recency {
    fn new(seed: u64, num_adapters: u32) -> Self {
        let n = num_adapters as usize + 1;
        Self {
            seed,
            step: vec![0; n],
            position: vec![None; n],
        }
    }

    fn touch(&mut self, adapter: AdapterId, step: u64, position: Option<u32>) {
        self.step[adapter as usize] = step;
        self.position[adapter as usize] = position;
    }

    fn hashed_position(&self, adapter: AdapterId, step: u64) -> u64 {
        keyed(self.seed, step, u64::from(adapter))
    }

    /// Sort key: smaller was visited longer ago.
    pub fn key(&self, adapter: AdapterId) -> (u64, u64) {
        let step = self.step[adapter as usize];
        let within =
            self.position[adapter as usize].map_or_else(|| self.hashed_position(adapter, step), u64::from);
        (step, within)
    }

    /// The least (or, for a mutation, most) recently visited of `adapters`.
    fn victim(&self, adapters: impl Iterator<Item = AdapterId>, least: bool) -> Option<AdapterId> {
        // Nearly always the step alone decides; the place within it costs a hash.
        adapters.reduce(|best, adapter| {
            let steps = self.step[adapter as usize].cmp(&self.step[best as usize]);
            let order = steps.then_with(|| self.key(adapter).cmp(&self.key(best)));
            if order.is_lt() == least { adapter } else { best }
        })
    }

    /// `adapters` from the least to the most recently visited.
    fn sorted(&self, adapters: impl Iterator<Item = AdapterId>) -> Vec<AdapterId> {
        let mut order: Vec<AdapterId> = adapters.collect();
        order.sort_by_cached_key(|&adapter| self.key(adapter));
        order
    }
}

/// The adapter caches of one worker.
#[derive(Debug)]
pub struct LoraManager {
    rules: Rules,
    gpu: GpuSlots,
    cpu: CpuCache,
    recency: Recency,
    visits: u64,
    order: Vec<AdapterId>,
}

impl LoraManager {
    /// Empty caches of `max_loras` slots and `max_cpu_loras` places for adapters `1..=num_adapters`.
    pub fn new(rules: Rules, max_loras: u32, max_cpu_loras: u32, num_adapters: u32, seed: u64) -> Self {
        Self {
            rules,
            gpu: GpuSlots::new(max_loras, num_adapters),
            cpu: CpuCache::new(max_cpu_loras, num_adapters),
            recency: Recency::new(seed, num_adapters),
            visits: 0,
            order: Vec::new(),
        }
    }

    /// Adds adapters before the first step, in order (`vllm serve --lora-modules`).
    pub fn preload(&mut self, adapters: impl Iterator<Item = AdapterId>) {
        let mut events = Vec::new();
        for adapter in adapters {
            self.visits += 1;
            self.visit(adapter, Some(0), &mut events);
        }
    }

    /// Visits the adapters of one step and appends what had to be done to `events`. `given` is the visiting order, where it is
    /// known; [`Self::last_order`] tells the one used.
    pub fn apply(
        &mut self,
        adapters: &[AdapterId],
        given: Option<&[AdapterId]>,
        events: &mut Vec<LoraEvent>,
    ) {
        self.visits += 1;
        self.order.clear();
        if let Some(given) = given {
            self.order.extend_from_slice(given);
            for position in 0..self.order.len() {
                self.visit(self.order[position], Some(position as u32), events);
            }
        } else if adapters.iter().all(|&adapter| self.gpu.holds(adapter)) && self.rules.touch_on_visit {
            for &adapter in adapters {
                self.recency.touch(adapter, self.visits, None);
            }
        } else {
            self.order.extend_from_slice(adapters);
            let (recency, visits) = (&self.recency, self.visits);
            self.order
                .sort_by_cached_key(|&adapter| recency.hashed_position(adapter, visits));
            for position in 0..self.order.len() {
                self.visit(self.order[position], None, events);
            }
        }
    }

    /// The order in which `adapters` of the latest step were visited.
    pub fn last_order(&self, adapters: &[AdapterId]) -> Vec<AdapterId> {
        if self.order.len() == adapters.len() {
            self.order.clone()
        } else {
            self.recency.sorted(adapters.iter().copied())
        }
    }

    /// What each GPU slot holds.
    pub fn slots(&self) -> &[Option<AdapterId>] {
        self.gpu.slots()
    }

    /// Adapters on the GPU, least recently visited first.
    pub fn gpu_lru(&self) -> Vec<AdapterId> {
        self.recency.sorted(self.gpu.slots().iter().flatten().copied())
    }

    /// Adapters in CPU memory, least recently visited first.
    pub fn cpu_lru(&self) -> Vec<AdapterId> {
        self.recency.sorted(self.cpu.iter())
    }

    fn visit(&mut self, adapter: AdapterId, position: Option<u32>, events: &mut Vec<LoraEvent>) {
        let least = self.rules.evict_least_recent;
        let mut inserted = false;
        if !self.cpu.holds(adapter) {
            inserted = true;
            events.push(LoraEvent::Load(adapter));
            if self.cpu.is_full()
                && let Some(victim) = self.recency.victim(self.cpu.iter(), least)
            {
                self.cpu.remove(victim);
                events.push(LoraEvent::EvictCpu(victim));
                if self.rules.cpu_eviction_frees_slot && self.gpu.free(victim) {
                    events.push(LoraEvent::Deactivate(victim));
                }
            }
            self.cpu.insert(adapter);
        }
        if !self.gpu.holds(adapter) {
            inserted = true;
            if self.gpu.is_full()
                && let Some(victim) = self
                    .recency
                    .victim(self.gpu.slots().iter().flatten().copied(), least)
            {
                self.gpu.free(victim);
                events.push(LoraEvent::Deactivate(victim));
            }
            let slot = self.gpu.take(adapter, self.rules.first_free_slot);
            events.push(LoraEvent::Activate(adapter, slot));
        }
        if inserted || self.rules.touch_on_visit {
            self.recency.touch(adapter, self.visits, position);
        }
    }
}
