//! When adapters were last visited: the order that LRU goes by.

use super::AdapterId;
use crate::rng::keyed;

/// Last visits, for LRU order. vLLM iterates a Python *set* of adapters, whose order differs between processes; here the order
/// of step `s` is given, or the adapters sorted by a hash keyed by (seed, s), so that a step in which nothing is loaded need
/// not work it out. Nor need it touch adapters that stay from batch to batch: their last visit is the latest step's.
#[derive(Debug)]
pub(super) struct Recency {
    seed: u64,
    pub(super) step: Vec<u64>,
    position: Vec<Option<u32>>,
    /// Adapters of the latest batch, which were visited in step `latest` if not later.
    pub(super) in_batch: Vec<bool>,
    pub(super) latest: u64,
}

impl Recency {
    pub(super) fn new(seed: u64, num_adapters: u32) -> Self {
        let n = num_adapters as usize + 1;
        Self {
            seed,
            step: vec![0; n],
            position: vec![None; n],
            in_batch: vec![false; n],
            latest: 0,
        }
    }

    pub(super) fn touch(&mut self, adapter: AdapterId, step: u64, position: Option<u32>) {
        self.step[adapter as usize] = step;
        self.position[adapter as usize] = position;
    }

    pub(super) fn join_batch(&mut self, adapter: AdapterId) {
        self.in_batch[adapter as usize] = true;
    }

    pub(super) fn leave_batch(&mut self, adapter: AdapterId) {
        (self.step[adapter as usize], self.position[adapter as usize]) = self.last_visit(adapter);
        self.in_batch[adapter as usize] = false;
    }

    /// Step of the last visit, and the place in it where it is known.
    fn last_visit(&self, adapter: AdapterId) -> (u64, Option<u32>) {
        let step = self.step[adapter as usize];
        if self.in_batch[adapter as usize] && step < self.latest {
            (self.latest, None)
        } else {
            (step, self.position[adapter as usize])
        }
    }

    pub(super) fn hashed_position(&self, adapter: AdapterId, step: u64) -> u64 {
        keyed(self.seed, step, u64::from(adapter))
    }

    /// Sort key: smaller was visited longer ago.
    pub(super) fn key(&self, adapter: AdapterId) -> (u64, u64) {
        let (step, position) = self.last_visit(adapter);
        (
            step,
            position.map_or_else(|| self.hashed_position(adapter, step), u64::from),
        )
    }

    /// The least (or, for a mutation, most) recently visited of `adapters`.
    pub(super) fn victim(&self, adapters: impl Iterator<Item = AdapterId>, least: bool) -> Option<AdapterId> {
        // Nearly always the step alone decides; the place within it costs a hash.
        adapters.reduce(|best, adapter| {
            let steps = self.last_visit(adapter).0.cmp(&self.last_visit(best).0);
            let order = steps.then_with(|| self.key(adapter).cmp(&self.key(best)));
            if order.is_lt() == least { adapter } else { best }
        })
    }

    /// The least recently visited of those `adapters` that may be it. That is asked of few.
    pub(super) fn least_recent(
        &self,
        adapters: impl Iterator<Item = AdapterId>,
        may_be: impl Fn(AdapterId) -> bool,
    ) -> Option<AdapterId> {
        let mut best: Option<(AdapterId, u64, Option<u64>)> = None;
        for adapter in adapters {
            let (step, _) = self.last_visit(adapter);
            let mut within = None;
            if let Some((found, least, place)) = &mut best {
                if step > *least {
                    continue;
                }
                if step == *least {
                    let place = *place.get_or_insert_with(|| self.key(*found).1);
                    let mine = self.key(adapter).1;
                    if mine > place {
                        continue;
                    }
                    within = Some(mine);
                }
            }
            if may_be(adapter) {
                best = Some((adapter, step, within));
            }
        }
        best.map(|(adapter, ..)| adapter)
    }

    /// `adapters` from the least to the most recently visited.
    pub(super) fn sorted(&self, adapters: impl Iterator<Item = AdapterId>) -> Vec<AdapterId> {
        let mut order: Vec<AdapterId> = adapters.collect();
        order.sort_by_cached_key(|&adapter| self.key(adapter));
        order
    }
}
