//! The HTTP front of the server: one Python event loop, hence one serial resource.
//!
//! Two kinds of work block it for long enough to matter, and with it every arrival and every token on its way out: what an
//! adapter's first request costs (vLLM 0.8.5 loads a tokenizer per adapter, `transformers_utils/tokenizer_group.py`), and the
//! rendering of `/metrics`, which in 0.8.5 grows with the distinct sets of adapters that have ever run (a label set of
//! `vllm:lora_requests_info` each, `v1/metrics/loggers.py`) when somebody polls it.

use std::collections::HashSet;

use crate::cost::CostModel;
use crate::rng::keyed;
use crate::time::Picoseconds;

/// A client that polls `/metrics`, waiting `period` after each answer.
#[derive(Debug)]
struct Poll {
    period: Picoseconds,
    next: Picoseconds,
    label_sets: HashSet<u64>,
}

/// When the API server is busy.
#[derive(Debug)]
pub struct ApiServer<'a> {
    cost: &'a CostModel,
    busy_until: Picoseconds,
    seen: Vec<bool>,
    unseen: usize,
    poll: Option<Poll>,
}

impl<'a> ApiServer<'a> {
    /// An idle front of adapters `0..=num_adapters`, polled every `poll_period` if anybody does.
    pub fn new(cost: &'a CostModel, num_adapters: u32, poll_period: Option<Picoseconds>) -> Self {
        Self {
            cost,
            busy_until: 0,
            seen: vec![false; num_adapters as usize + 1],
            unseen: num_adapters as usize,
            poll: poll_period.map(|period| Poll {
                period: period.max(1),
                next: 0,
                label_sets: HashSet::new(),
            }),
        }
    }

    /// When it turns to a request of `adapter` that arrives at `at` (arrivals come in order).
    pub fn turn(&mut self, at: Picoseconds, adapter: u32) -> Picoseconds {
        self.advance(at);
        let turn = at.max(self.busy_until);
        if adapter != 0 && !std::mem::replace(&mut self.seen[adapter as usize], true) {
            self.unseen -= 1;
            self.busy_until = turn + self.cost.first_request();
            return self.busy_until;
        }
        turn
    }

    /// Whether no arrival can block it any more: every adapter has had its first request, or that costs nothing.
    pub fn knows_all(&self) -> bool {
        self.unseen == 0 || self.cost.first_request() == 0
    }

    /// When it has done all that it was given.
    pub fn busy_until(&self) -> Picoseconds {
        self.busy_until
    }

    /// When it is polled next, if anybody polls.
    pub fn next_poll(&self) -> Option<Picoseconds> {
        self.poll.as_ref().map(|poll| poll.next)
    }

    /// When tokens that are ready at `ready` leave.
    pub fn deliver(&mut self, ready: Picoseconds) -> Picoseconds {
        self.advance(ready);
        ready.max(self.busy_until)
    }

    /// A step ran these adapters.
    pub fn ran(&mut self, adapters: &[u32]) {
        if let Some(poll) = &mut self.poll {
            // A set's fingerprint does not depend on the order of its members.
            let set = adapters
                .iter()
                .fold(0, |set, &adapter| set ^ keyed(0, 0, u64::from(adapter)));
            poll.label_sets.insert(set);
        }
    }

    /// Answers the polls that come by `until`.
    fn advance(&mut self, until: Picoseconds) {
        let Some(poll) = &mut self.poll else { return };
        while poll.next <= until {
            let start = poll.next.max(self.busy_until);
            self.busy_until = start + self.cost.poll(poll.label_sets.len());
            poll.next = self.busy_until + poll.period;
        }
    }
}
