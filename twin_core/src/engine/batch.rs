//! One step's batch: vLLM's SchedulerOutput.

use super::request::RequestId;
use crate::time::Picoseconds;

/// How a request came into the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// First time scheduled.
    New,
    /// Resumed after a preemption.
    Resumed,
    /// Was running.
    Continued,
}

/// One request's share of a step.
#[derive(Clone, Copy, Debug)]
pub struct BatchItem {
    /// Slot of the request.
    pub id: RequestId,
    /// Its serial: the slot may have been given to another by the time the output comes back.
    pub serial: u32,
    /// Tokens scheduled.
    pub num_tokens: u32,
    /// Position of the first of them.
    pub position: u32,
    /// Whether the step yields a token for it (false in the middle of a prefill).
    pub samples: bool,
    /// How it came in.
    pub kind: Kind,
}

/// Totals that the cost of a step depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchTotals {
    /// All tokens scheduled.
    pub tokens: u32,
    /// Tokens of requests that are not plain decodes.
    pub prefill_tokens: u32,
    /// Requests that are not plain decodes.
    pub prefill_seqs: u32,
    /// Requests that decode one token behind a computed prompt.
    pub decode_seqs: u32,
    /// Sum of the positions: KV entries read.
    pub context_tokens: u64,
    /// Requests with an adapter.
    pub lora_seqs: u32,
    /// Length of `running` after scheduling.
    pub running: u32,
    /// Length of the waiting queue after scheduling.
    pub waiting: u32,
}

/// A scheduled step. Reused from step to step: nothing is allocated once it has grown.
#[derive(Debug, Default)]
pub struct Batch {
    /// Requests in batch order, but for the cohort's.
    pub items: Vec<BatchItem>,
    /// Members of the cohort, all of which decode one token (0 in exact mode).
    pub num_cohort: u32,
    /// Preempted requests, in order (slots; they are waiting again).
    pub preempted: Vec<RequestId>,
    /// Distinct adapters of the batch.
    pub adapters: Vec<u32>,
    /// Those of them that the batch before (the latest that was not empty) did not have.
    pub joined_adapters: Vec<u32>,
    /// Adapters that only the batch before had.
    pub left_adapters: Vec<u32>,
    /// Totals for the cost model.
    pub totals: BatchTotals,
    /// When the step ends.
    pub end: Picoseconds,
    /// From then until its tokens reach the client.
    pub egress: Picoseconds,
}

impl Batch {
    /// Whether nothing is scheduled.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty() && self.num_cohort == 0
    }

    /// Empties the batch for the next step.
    pub fn clear(&mut self) {
        self.items.clear();
        self.num_cohort = 0;
        self.preempted.clear();
        self.adapters.clear();
        self.joined_adapters.clear();
        self.left_adapters.clear();
        self.totals = BatchTotals::default();
        self.end = 0;
        self.egress = 0;
    }
}
