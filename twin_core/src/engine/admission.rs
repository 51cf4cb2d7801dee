//! The waiting half of schedule(): who is admitted.

use super::batch::{Batch, Kind};
use super::request::{RequestId, Status};
use super::scheduler::{Scheduler, cut, is_waiting};
use super::waiting::QueueKey;
use crate::kv_cache::Admission;

/// The next admissible request of one adapter: its key and its place in the adapter's queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    key: QueueKey,
    id: RequestId,
    adapter: u32,
    at: usize,
}

/// What became of a candidate.
enum Outcome {
    Admitted,
    Skipped,
    Stop,
}

impl Scheduler {
    pub(super) fn schedule_waiting(&mut self, batch: &mut Batch, budget: &mut u32, threshold: u32) {
        if self.waiting.is_empty() || *budget == 0 {
            return;
        }
        let mut from = 0;
        loop {
            if !self.may_admit(*budget) {
                return;
            }
            if self.places_full(batch) {
                break;
            }
            // Some place is free: nobody is skipped for an adapter, so the head of the whole queue is next.
            let requests = &self.requests;
            let Some((at, id)) = self.waiting.first(from, |id, key| is_waiting(requests, id, key)) else {
                return;
            };
            match self.try_admit(batch, budget, threshold, id) {
                Outcome::Admitted => from = at,
                Outcome::Skipped => from = at + 1,
                Outcome::Stop => return,
            }
        }
        if !self.rules.skip_blocked_adapter {
            return self.admit_in_line(batch, budget, threshold);
        }
        self.admit_among_places(batch, budget, threshold);
    }

    fn may_admit(&self, budget: u32) -> bool {
        budget > 0 && !self.waiting.is_empty() && self.running.len() < self.config.max_running() as usize
    }

    fn places_full(&self, batch: &Batch) -> bool {
        self.config.lora_enabled() && batch.adapters.len() >= self.config.max_loras as usize
    }

    /// All places are taken: only requests of the adapters that hold them, and of the base model, can come in.
    fn admit_among_places(&mut self, batch: &mut Batch, budget: &mut u32, threshold: u32) {
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.clear();
        let base = self.rules.base_model_unblocked.then_some(0);
        for adapter in base.into_iter().chain(batch.adapters.iter().copied()) {
            candidates.extend(self.candidate(adapter, 0));
        }
        while self.may_admit(*budget) {
            let Some(best) = (0..candidates.len()).reduce(|a, b| {
                if candidates[b].key < candidates[a].key {
                    b
                } else {
                    a
                }
            }) else {
                break;
            };
            let Candidate { id, adapter, at, .. } = candidates[best];
            let next = match self.try_admit(batch, budget, threshold, id) {
                Outcome::Admitted => self.candidate(adapter, at),
                Outcome::Skipped => self.candidate(adapter, at + 1),
                Outcome::Stop => break,
            };
            match next {
                Some(next) => candidates[best] = next,
                None => {
                    candidates.swap_remove(best);
                }
            }
        }
        self.candidates = candidates;
    }

    fn candidate(&self, adapter: u32, at: usize) -> Option<Candidate> {
        self.waiting
            .of_adapter(adapter, at)
            .map(|(key, id)| Candidate { key, id, adapter, at })
    }

    /// A mutation: strict head-of-line order under `max_loras`.
    fn admit_in_line(&mut self, batch: &mut Batch, budget: &mut u32, threshold: u32) {
        while self.may_admit(*budget) {
            let requests = &self.requests;
            let Some((_, id)) = self.waiting.first(0, |id, key| is_waiting(requests, id, key)) else {
                return;
            };
            let adapter = self.requests[id].adapter;
            if adapter != 0 && !batch.adapters.contains(&adapter) {
                return;
            }
            if !matches!(self.try_admit(batch, budget, threshold, id), Outcome::Admitted) {
                return;
            }
        }
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
        self.running.push(id);
        self.push_admitted(batch, id, num_tokens, kind);
        self.hold_place(batch, id);
        *budget -= num_tokens;
        Outcome::Admitted
    }
}
