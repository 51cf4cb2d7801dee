//! The waiting half of schedule(): who is admitted.

use super::batch::{Batch, Kind};
use super::request::{RequestId, Status};
use super::scheduler::{Scheduler, cut};
use crate::kv_cache::Admission;

/// What became of a candidate.
enum Outcome {
    Admitted,
    Skipped,
    Stop,
}

impl Scheduler {
    /// Until the `max_loras` places are full nobody is skipped for an adapter, so the head of the whole queue is next; after
    /// that only requests of the adapters that hold them, and of the base model, can come in.
    pub(super) fn schedule_waiting(&mut self, batch: &mut Batch, budget: &mut u32, threshold: u32) {
        while *budget > 0 && self.running.len() < self.config.max_running() as usize {
            let full = self.places_full();
            let Some(id) = self.waiting.first(full && self.rules.skip_blocked_adapter) else {
                break;
            };
            let adapter = self.requests[id].adapter;
            if full && !self.rules.skip_blocked_adapter && adapter != 0 && !self.places.holds(adapter) {
                break; // a mutation: strict head-of-line order under max_loras
            }
            match self.try_admit(batch, budget, threshold, id) {
                Outcome::Admitted => {}
                Outcome::Skipped => self.waiting.pass_over(adapter),
                Outcome::Stop => break,
            }
        }
        self.waiting.end_step();
    }

    fn places_full(&self) -> bool {
        self.config.lora_enabled() && self.places.list().len() >= self.config.max_loras as usize
    }

    fn try_admit(&mut self, batch: &mut Batch, budget: &mut u32, threshold: u32, id: RequestId) -> Outcome {
        if self.requests[id].stale_tokens > 0 {
            return Outcome::Skipped; // its output of before the preemption is still to come
        }
        let mut hits = std::mem::take(&mut self.hits);
        self.kv.lookup(id, &self.requests[id], &mut hits);
        let outcome = self.try_admit_with(batch, budget, threshold, id, &hits);
        self.hits = hits;
        outcome
    }

    fn try_admit_with(
        &mut self,
        batch: &mut Batch,
        budget: &mut u32,
        threshold: u32,
        id: RequestId,
        hits: &[u32],
    ) -> Outcome {
        let cached = hits.len() as u32 * self.config.block_size;
        let mut num_tokens = cut(self.requests[id].num_tokens - cached, threshold);
        if !self.config.enable_chunked_prefill && num_tokens > *budget {
            return Outcome::Stop;
        }
        num_tokens = num_tokens.min(*budget);
        let admission = Admission {
            others_running: !self.running.is_empty(),
        };
        if !self
            .kv
            .admit(id, &mut self.requests[id], num_tokens, hits, admission)
        {
            return if self.rules.allocation_failure_breaks {
                Outcome::Stop
            } else {
                Outcome::Skipped
            };
        }
        self.dequeue(id);
        let request = &mut self.requests[id];
        let kind = if request.status == Status::Waiting {
            Kind::New
        } else {
            Kind::Resumed
        };
        request.status = Status::Running;
        request.num_computed_tokens = cached;
        self.running.push(id, &mut self.requests);
        self.push_admitted(batch, id, num_tokens, kind);
        self.hold_item_place(id);
        *budget -= num_tokens;
        Outcome::Admitted
    }
}
