//! One row per step, on request.

use crate::engine::{Batch, Scheduler};
use crate::time::{Picoseconds, to_ms, to_seconds};

/// Columns of the step frame.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct StepColumns {
    pub start_s: Vec<f64>,
    pub duration_ms: Vec<f64>,
    pub prefill_tokens: Vec<u32>,
    pub decode_seqs: Vec<u32>,
    pub context_tokens: Vec<u64>,
    pub adapters: Vec<u32>,
    pub running: Vec<u32>,
    pub waiting: Vec<u32>,
    pub load_ms: Vec<f64>,
    pub preempted: Vec<u32>,
    pub kv_blocks_used: Vec<u32>,
}

impl StepColumns {
    /// A step begins.
    pub fn push(&mut self, start: Picoseconds, load: Picoseconds, batch: &Batch, scheduler: &Scheduler) {
        let totals = &batch.totals;
        self.start_s.push(to_seconds(start));
        self.duration_ms.push(to_ms(batch.end - start));
        self.prefill_tokens.push(totals.prefill_tokens);
        self.decode_seqs.push(totals.decode_seqs);
        self.context_tokens.push(totals.context_tokens);
        self.adapters.push(batch.adapters.len() as u32);
        self.running.push(totals.running);
        self.waiting.push(totals.waiting);
        self.load_ms.push(to_ms(load));
        self.preempted.push(batch.preempted.len() as u32);
        self.kv_blocks_used
            .push(scheduler.kv.num_usable_blocks() - scheduler.kv.num_free_blocks());
    }
}
