//! Adapters in the worker: GPU slots over a CPU cache, two LRU tiers.
//!
//! vLLM `lora/worker_manager.py` LRUCacheWorkerLoRAManager._apply_adapters() and `lora/model_manager.py` (0.8.5: `lora/models.py`)
//! LRUCacheLoRAModelManager: at the start of every non-empty step each adapter of the batch is visited; what is not in CPU
//! memory is read from disk, what has no slot is copied into one, serially and blocking. Nothing is pinned: an adapter needed
//! later in the same step can be evicted and loaded again.

pub mod cpu_cache;
pub mod eviction;
pub mod gpu_slots;
mod recency;

pub use eviction::{Evictor, Future, Moment};

use cpu_cache::CpuCache;
use gpu_slots::GpuSlots;
use recency::Recency;

use crate::engine::Batch;
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

/// The adapter caches of one worker.
#[derive(Debug)]
pub struct LoraManager {
    rules: Rules,
    gpu: GpuSlots,
    cpu: CpuCache,
    recency: Recency,
    /// A rule of eviction other than vLLM's.
    evictor: Option<Evictor>,
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
            evictor: None,
            visits: 0,
            order: Vec::new(),
        }
    }

    /// Evicts by another rule from now on.
    pub fn evict_by(&mut self, evictor: Evictor) {
        self.evictor = Some(evictor);
    }

    /// Adds adapters before the first step, in order (`vllm serve --lora-modules`).
    pub fn preload(&mut self, adapters: impl Iterator<Item = AdapterId>) {
        let mut events = Vec::new();
        for adapter in adapters {
            self.visits += 1;
            self.visit(adapter, Some(0), &mut events);
        }
    }

    /// Loads one adapter between two steps (`/v1/load_lora_adapter`): a visit of its own.
    pub fn load(&mut self, adapter: AdapterId, moment: Moment<'_>, events: &mut Vec<LoraEvent>) {
        self.visits += 1;
        if self.evictor.is_some() {
            self.visit_by_rule(adapter, &[], moment, events);
        } else {
            self.visit(adapter, Some(0), events);
        }
    }

    /// Visits the adapters of one step by the rule of eviction in force.
    pub fn step(
        &mut self,
        batch: &Batch,
        given: Option<&[AdapterId]>,
        moment: Moment<'_>,
        events: &mut Vec<LoraEvent>,
    ) {
        if self.evictor.is_some() {
            self.apply_by_rule(batch, moment, events);
        } else {
            self.apply(batch, given, events);
        }
    }

    /// Visits the adapters of one step and appends what had to be done to `events`. `given` is the visiting order, where it is
    /// known; [`Self::last_order`] tells the one used.
    pub fn apply(&mut self, batch: &Batch, given: Option<&[AdapterId]>, events: &mut Vec<LoraEvent>) {
        for &adapter in &batch.left_adapters {
            self.recency.leave_batch(adapter);
        }
        self.visits += 1;
        self.order.clear();
        if let Some(given) = given {
            self.order.extend_from_slice(given);
            for position in 0..self.order.len() {
                self.visit(self.order[position], Some(position as u32), events);
            }
        } else if !self.all_have_slots(batch) && !self.load_missing(batch, events) {
            self.order.extend_from_slice(&batch.adapters);
            let (recency, visits) = (&self.recency, self.visits);
            self.order
                .sort_by_cached_key(|&adapter| recency.hashed_position(adapter, visits));
            for position in 0..self.order.len() {
                self.visit(self.order[position], None, events);
            }
        }
        if self.rules.touch_on_visit {
            self.recency.latest = self.visits;
            for &adapter in &batch.joined_adapters {
                self.recency.join_batch(adapter);
            }
        }
    }

    /// Loads what the batch lacks in the order of the visits. Adapters of the batch keep their slots, so that those which stay
    /// from the batch before need not be looked at.
    fn apply_by_rule(&mut self, batch: &Batch, moment: Moment<'_>, events: &mut Vec<LoraEvent>) {
        for &adapter in &batch.left_adapters {
            self.recency.leave_batch(adapter);
        }
        self.visits += 1;
        self.order.clear();
        if let Some(evictor) = self.evictor.as_mut() {
            evictor.use_batch(batch, moment);
        }
        let joined = &batch.joined_adapters;
        let mut missing: Vec<AdapterId> = joined
            .iter()
            .copied()
            .filter(|&adapter| !self.gpu.holds(adapter))
            .collect();
        missing.sort_by_cached_key(|&adapter| self.recency.hashed_position(adapter, self.visits));
        for adapter in missing {
            self.visit_by_rule(adapter, joined, moment, events);
        }
        self.recency.latest = self.visits;
        for &adapter in joined {
            self.recency.join_batch(adapter);
        }
    }

    /// A visit in which the rule says who is evicted; `joined` are adapters to keep beside those that stay in the batch.
    fn visit_by_rule(
        &mut self,
        adapter: AdapterId,
        joined: &[AdapterId],
        moment: Moment<'_>,
        events: &mut Vec<LoraEvent>,
    ) {
        let Some(mut evictor) = self.evictor.take() else {
            return;
        };
        let recency = &self.recency;
        let keep = |other: AdapterId| recency.in_batch[other as usize] || joined.contains(&other);
        let age = |other: AdapterId| recency.key(other);
        if !self.cpu.holds(adapter) {
            events.push(LoraEvent::Load(adapter));
            if self.cpu.is_full()
                && let Some(victim) = evictor.victim(self.cpu.iter(), keep, age, moment)
            {
                self.cpu.remove(victim);
                events.push(LoraEvent::EvictCpu(victim));
                if self.gpu.free(victim) {
                    events.push(LoraEvent::Deactivate(victim));
                }
            }
            self.cpu.insert(adapter);
        }
        if !self.gpu.holds(adapter) {
            let held = self.gpu.slots().iter().flatten().copied();
            if self.gpu.is_full()
                && let Some(victim) = evictor.victim(held, keep, age, moment)
            {
                self.gpu.free(victim);
                events.push(LoraEvent::Deactivate(victim));
            }
            events.push(LoraEvent::Activate(adapter, self.gpu.take(adapter, true)));
        }
        self.recency.touch(adapter, self.visits, None);
        self.evictor = Some(evictor);
    }

    /// The adapters that stay from the batch before got slots then at the latest, and LRU takes none from them between two
    /// steps: only those that join must be looked at. (A mutation may take one.)
    fn all_have_slots(&self, batch: &Batch) -> bool {
        let looked_at = if self.rules_of_lru() {
            &batch.joined_adapters
        } else {
            &batch.adapters
        };
        looked_at.iter().all(|&adapter| self.gpu.holds(adapter))
    }

    /// Loads what the batch lacks in the order of the visits, without those that only move an adapter to the recent end. False,
    /// and nothing done, where CPU memory has no room: then every visit counts.
    fn load_missing(&mut self, batch: &Batch, events: &mut Vec<LoraEvent>) -> bool {
        let joined = &batch.joined_adapters;
        let loads = joined.iter().filter(|&&adapter| !self.cpu.holds(adapter)).count();
        if !self.rules_of_lru() || self.cpu.num_free() < loads {
            return false;
        }
        let mut missing = std::mem::take(&mut self.order);
        missing.extend(joined.iter().filter(|&&adapter| !self.gpu.holds(adapter)));
        let visits = self.visits;
        let position = |recency: &Recency, adapter| recency.hashed_position(adapter, visits);
        while let Some(next) = (0..missing.len()).min_by_key(|&at| position(&self.recency, missing[at])) {
            let adapter = missing.swap_remove(next);
            let (recency, now) = (&self.recency, position(&self.recency, adapter));
            let in_batch = |other| recency.in_batch[other as usize] || joined.contains(&other);
            // An adapter that is still to be visited in this step may lose its slot, and then lacks one.
            let victim = self.gpu.is_full().then(|| {
                recency.least_recent(self.gpu.slots().iter().flatten().copied(), |other| {
                    recency.step[other as usize] < visits
                        && !(in_batch(other) && position(recency, other) < now)
                })
            });
            let victim = victim.flatten();
            missing.extend(victim.filter(|&victim| in_batch(victim)));
            self.visit_over(adapter, None, victim, events);
        }
        self.order = missing;
        true
    }

    /// Whether both tiers are LRU caches (mutations make them something else).
    fn rules_of_lru(&self) -> bool {
        self.rules.touch_on_visit && self.rules.evict_least_recent && self.rules.cpu_eviction_frees_slot
    }

    /// `steps` more steps with the same adapters as the latest.
    pub fn repeat(&mut self, steps: u64) {
        self.visits += steps;
        self.recency.latest = self.visits;
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
        self.visit_over(adapter, position, None, events);
    }

    /// A visit for which the adapter that has to give up its slot may be known.
    fn visit_over(
        &mut self,
        adapter: AdapterId,
        position: Option<u32>,
        victim: Option<AdapterId>,
        events: &mut Vec<LoraEvent>,
    ) {
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
                && let Some(victim) = victim.or_else(|| {
                    self.recency
                        .victim(self.gpu.slots().iter().flatten().copied(), least)
                })
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

#[cfg(test)]
mod tests;
