//! Eviction by other rules than vLLM's: see [`crate::policies`].
//!
//! Whatever the rule, an adapter of the batch is never evicted while another one can be, and a pinned one only if all the rest
//! are of the batch or pinned.

use std::sync::Arc;

use super::AdapterId;
use crate::engine::{Batch, Kind, Scheduler};
use crate::policies::{EvictionPolicy, Policies};
use crate::time::{PS_PER_S, Picoseconds};

/// What a rule may look at when a step is scheduled.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// The instant.
    pub now: Picoseconds,
    /// Who runs and waits.
    pub scheduler: &'a Scheduler,
}

/// When requests of each adapter (0 = base model) arrive, in order: what only a clairvoyant knows.
pub type Future = Arc<Vec<Vec<Picoseconds>>>;

/// Chooses whom to evict.
#[derive(Debug)]
pub struct Evictor {
    policy: EvictionPolicy,
    half_life: f64,
    pinned: Vec<bool>,
    /// Seconds that a reload takes.
    reload_s: Vec<f64>,
    /// Uses, each half as much after a half-life, and when they were last counted.
    uses: Vec<(f64, Picoseconds)>,
    /// `cost_aware`: value at the last use, and the level of the latest eviction.
    value: Vec<f64>,
    level: f64,
    future: Option<Future>,
    /// First arrival of each adapter that has not come yet.
    next: Vec<usize>,
}

impl Evictor {
    /// For adapters `1..=reload.len()`, each of which takes `reload` to load again.
    pub fn new(policies: &Policies, reload: &[Picoseconds], future: Option<Future>) -> Self {
        let n = reload.len() + 1;
        let mut pinned = vec![false; n];
        for &adapter in &policies.pinned_loras {
            pinned[adapter as usize] = true;
        }
        let seconds = reload.iter().map(|&ps| ps as f64 / PS_PER_S as f64);
        Self {
            policy: policies.lora_eviction,
            half_life: policies.lfu_half_life_s * PS_PER_S as f64,
            pinned,
            reload_s: std::iter::once(0.0).chain(seconds).collect(),
            uses: vec![(0.0, 0); n],
            value: vec![0.0; n],
            level: 0.0,
            future,
            next: vec![0; n],
        }
    }

    /// Counts the requests that begin to run with this step.
    pub fn use_batch(&mut self, batch: &Batch, moment: Moment<'_>) {
        for item in batch.items.iter().filter(|item| item.kind == Kind::New) {
            let adapter = moment.scheduler.requests[item.id].adapter as usize;
            let uses = self.decayed(adapter, moment.now) + 1.0;
            self.uses[adapter] = (uses, moment.now);
            self.value[adapter] = self.level + uses * self.reload_s[adapter];
        }
    }

    /// Whom of `held` to evict; `keep` tells the adapters of the batch. `age` orders by last use, least recent first.
    pub fn victim<A: Ord>(
        &mut self,
        held: impl Iterator<Item = AdapterId>,
        keep: impl Fn(AdapterId) -> bool,
        age: impl Fn(AdapterId) -> A,
        moment: Moment<'_>,
    ) -> Option<AdapterId> {
        let mut best: Option<(u32, f64, A, AdapterId)> = None;
        for adapter in held {
            // What must not go sorts behind what should not, and that behind the rest.
            let class = if keep(adapter) {
                2
            } else {
                u32::from(self.pinned[adapter as usize])
            };
            let worth = self.worth(adapter, moment);
            let mine = (class, worth, age(adapter), adapter);
            let before = |(c, w, a, id): &(u32, f64, A, AdapterId)| {
                mine.0
                    .cmp(c)
                    .then(mine.1.total_cmp(w))
                    .then_with(|| mine.2.cmp(a))
                    .then(mine.3.cmp(id))
                    .is_lt()
            };
            if best.as_ref().is_none_or(before) {
                best = Some(mine);
            }
        }
        let (_, worth, _, adapter) = best?;
        if self.policy == EvictionPolicy::CostAware {
            self.level = self.level.max(worth);
        }
        Some(adapter)
    }

    /// The least worth goes first.
    fn worth(&mut self, adapter: AdapterId, moment: Moment<'_>) -> f64 {
        let at = adapter as usize;
        match self.policy {
            EvictionPolicy::Lru => 0.0,
            EvictionPolicy::Lfu => self.decayed(at, moment.now),
            EvictionPolicy::CostAware => self.value[at],
            EvictionPolicy::Clairvoyant if moment.scheduler.waits(adapter) => 0.0,
            EvictionPolicy::Clairvoyant => -self.next_arrival(at, moment.now),
        }
    }

    fn decayed(&self, adapter: usize, now: Picoseconds) -> f64 {
        let (uses, at) = self.uses[adapter];
        uses * (-((now - at) as f64) / self.half_life).exp2()
    }

    /// Picoseconds; infinite when there is none.
    fn next_arrival(&mut self, adapter: usize, now: Picoseconds) -> f64 {
        let Some(future) = &self.future else {
            return f64::INFINITY;
        };
        let arrivals = &future[adapter];
        let next = &mut self.next[adapter];
        while arrivals.get(*next).is_some_and(|&at| at <= now) {
            *next += 1;
        }
        arrivals.get(*next).map_or(f64::INFINITY, |&at| at as f64)
    }
}
