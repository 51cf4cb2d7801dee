//! Admission with ageing: a what-if rule against starvation (vLLM has none).
//!
//! Adapters that hold the `max_loras` places keep them for as long as requests for them keep coming; others wait without end.
//! With ageing, each adapter whose first waiting request has waited for too long closes one that holds a place: the one with
//! the fewest requests running. Nobody of a closed adapter is admitted until its running requests have ended; the place is then
//! free, and goes to the head of the queue by the ordinary rule.

use super::scheduler::Scheduler;
use crate::time::Picoseconds;

/// Which adapters are closed.
#[derive(Debug)]
pub struct Ageing {
    limit: Picoseconds,
    closed: Vec<bool>,
    list: Vec<u32>,
}

impl Ageing {
    /// Nobody closed yet; requests of adapters `1..=num_adapters` are old after `limit`.
    pub fn new(limit: Picoseconds, num_adapters: u32) -> Self {
        Self {
            limit,
            closed: vec![false; num_adapters as usize + 1],
            list: Vec::new(),
        }
    }

    /// Whether nobody of the adapter may come in.
    pub fn is_closed(&self, adapter: u32) -> bool {
        self.closed[adapter as usize]
    }
}

impl Scheduler {
    /// Closes as many adapters as there are ones without a place whose first request is old, and opens those that have given
    /// up theirs.
    pub(super) fn close_for_aged(&mut self, now: Picoseconds) {
        let Some(mut ageing) = self.ageing.take() else {
            return;
        };
        let places = &self.places;
        let closed = &mut ageing.closed;
        ageing.list.retain(|&adapter| {
            let holds = places.holds(adapter);
            closed[adapter as usize] = holds;
            holds
        });
        if !self.waiting.is_empty() && places.list().len() >= self.config.max_loras as usize {
            let old = (1..ageing.closed.len() as u32)
                .filter(|&adapter| !places.holds(adapter))
                .filter_map(|adapter| self.waiting.head(adapter))
                .filter(|&id| now.saturating_sub(self.requests[id].arrival) > ageing.limit)
                .count();
            while ageing.list.len() < old
                && let Some(adapter) = places
                    .list()
                    .iter()
                    .copied()
                    .filter(|&adapter| !ageing.is_closed(adapter))
                    .min_by_key(|&adapter| (places.holders(adapter), adapter))
            {
                ageing.closed[adapter as usize] = true;
                ageing.list.push(adapter);
                self.waiting.set_open(adapter, false);
            }
        }
        self.ageing = Some(ageing);
    }
}
