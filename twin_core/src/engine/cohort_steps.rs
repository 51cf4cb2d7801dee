//! The cohort's part of the scheduler: its steps, and who leaves it.

use super::batch::Batch;
use super::request::{NOT_MEMBER, RequestId};
use super::scheduler::Scheduler;
use crate::config::SchedulingPolicy;
use crate::time::Picoseconds;

impl Scheduler {
    /// Schedules the cohort, where the general rules would let every member decode; else settles it. Returns the position in
    /// `running` from which on requests must be looked at one by one.
    ///
    /// The members come first in `running`, the others (in their prefill) behind them. Where blocks run out, FCFS preempts from
    /// the end of `running` until those that are left find theirs; whom it meets on the way does not matter, so the members are
    /// counted and not visited.
    pub(super) fn schedule_cohort(&mut self, batch: &mut Batch, budget: &mut u32) -> usize {
        if self.cohort.is_empty() {
            return 0;
        }
        while let Some(id) = self.cohort.pop_complete(&mut self.requests) {
            self.release_place(self.requests[id].adapter);
            self.admission_settled = false;
        }
        let others = self.running.len() - self.cohort.members();
        let in_front = self.first_behind_members(others).is_some();
        // By priority it may preempt anybody, so it must not come to that: whatever the others take has to be there, too.
        let most = self.cohort.blocks_needed() + *budget / self.config.block_size + others as u32;
        let countable =
            self.config.scheduling_policy == SchedulingPolicy::Fcfs || most <= self.kv.num_free_blocks();
        if !in_front || self.cohort.len() > *budget || !countable {
            self.settle();
            return 0;
        }
        while !self.kv.take_counted(self.cohort.blocks_needed()) {
            self.preempt(batch, budget, 0);
        }
        batch.num_cohort = self.cohort.len();
        *budget -= batch.num_cohort;
        batch.totals.context_tokens = self.cohort.context_tokens();
        batch.totals.lora_seqs = self.cohort.lora_seqs();
        if batch.num_cohort > 0 {
            self.cohort.schedule();
        }
        let others = self.running.len() - self.cohort.members();
        self.first_behind_members(others).unwrap_or(0)
    }

    /// The position in `running` behind which there are the `others` that are not members of the cohort, and nobody else.
    fn first_behind_members(&self, others: usize) -> Option<usize> {
        let mut at = self.running.end();
        let mut found = 0;
        while found < others {
            at -= 1;
            if let Some(id) = self.running.get(at) {
                if self.requests[id].joined != NOT_MEMBER {
                    return None;
                }
                found += 1;
            }
        }
        Some(at)
    }

    /// How many steps like the one just scheduled could follow before a request ends or the general rules are needed.
    pub fn repeatable(&self, batch: &Batch) -> u64 {
        let plain = batch.num_cohort > 0
            && batch.num_cohort as usize == self.running.len()
            && batch.preempted.is_empty()
            && (self.waiting.is_empty() || self.admission_settled);
        if plain { self.cohort.repeatable() } else { 0 }
    }

    /// How many of `steps` more steps of the cohort find the blocks that they need.
    pub fn with_free_blocks(&self, steps: u64) -> u64 {
        self.cohort.with_blocks(steps, self.kv.num_free_blocks())
    }

    /// The blocks that `steps` more steps of the cohort take: (first of those steps, stride, how many, blocks in each).
    pub fn coming_blocks(&self, steps: u64) -> impl Iterator<Item = (u64, u64, u64, u32)> + '_ {
        self.cohort.coming_blocks(steps)
    }

    /// Makes `batch` the last of `steps` more steps like it: see [`crate::simulator::Engine::repeat`].
    pub(crate) fn repeat(
        &mut self,
        batch: &mut Batch,
        steps: u64,
        blocks: u32,
        (first, latest): (Picoseconds, Picoseconds),
    ) {
        let taken = self.kv.take_counted(blocks);
        debug_assert!(taken, "with_free_blocks() says how many steps there are");
        self.cohort.repeat(steps, first, latest);
        batch.totals.context_tokens += steps * u64::from(batch.num_cohort);
    }

    /// A member leaves the cohort; `alive` if it is to get the tokens in flight.
    pub(super) fn leave_cohort(&mut self, id: RequestId, alive: bool) {
        let request = &mut self.requests[id];
        let scheduled = !request.complete;
        let adapter = request.adapter;
        self.cohort.leave(id, request, alive);
        if scheduled {
            self.release_place(adapter);
        }
    }

    /// Writes the state of the requests in the cohort back, so that [`Self::requests`] can be read.
    pub fn settle(&mut self) {
        let (places, waiting) = (&mut self.places, &mut self.waiting);
        self.cohort.settle(&mut self.requests, |adapter| {
            if places.release(adapter) {
                waiting.set_open(adapter, false);
            }
        });
        self.admission_settled = false;
    }
}
