//! Requests that plainly decode, kept as one: the fast mode of the scheduler.
//!
//! Most of the time every running request gains one token a step. Nothing about a member then needs to be touched: its token
//! count is a shared clock plus a constant, the step at which it ends is known when it joins (a heap), how many members need a
//! new KV block in a step is a ring of counts by (tokens mod block_size), and the sum of contexts grows by the number of
//! members. [`Cohort::settle`] writes everything back whenever the general rules are needed (an abort, prefills in the middle of
//! the running list), so both modes make the same decisions to the bit; the property tests in `tests/fidelity.rs` hold them to it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::request::{NOT_MEMBER, Request, RequestId, Requests};
use crate::time::Picoseconds;

/// Steps that the general path keeps the requests after it was needed: in a phase of preemptions joining and settling by turns
/// would cost more than it saves.
const REST: u32 = 12;

/// Requests in the state "running, one token a step".
#[derive(Debug)]
pub struct Cohort {
    enabled: bool,
    block_size: u32,
    max_model_len: u32,
    /// Steps that the cohort has made.
    clock: u64,
    len: u32,
    /// Members that need a block when clock % block_size is the index.
    block_phase: Vec<u32>,
    /// (clock at which it has all its tokens, member). Entries of members that left before are stale: see [`Self::drop_stale`].
    ends: BinaryHeap<Reverse<(u64, RequestId)>>,
    /// Sum over the members of the positions of their next step.
    context_tokens: u64,
    lora_seqs: u32,
    /// Instants at which the members got tokens.
    deliveries: u64,
    /// When the members got their latest token.
    latest_token: Picoseconds,
    rest: u32,
}

impl Cohort {
    /// An empty cohort.
    pub fn new(enabled: bool, block_size: u32, max_model_len: u32) -> Self {
        Self {
            enabled,
            block_size,
            max_model_len,
            clock: 0,
            len: 0,
            block_phase: vec![0; if enabled { block_size as usize } else { 0 }],
            ends: BinaryHeap::new(),
            context_tokens: 0,
            lora_seqs: 0,
            deliveries: 0,
            latest_token: 0,
            rest: 0,
        }
    }

    /// Members.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sum of the members' positions in the coming step.
    pub fn context_tokens(&self) -> u64 {
        self.context_tokens
    }

    /// Members with an adapter.
    pub fn lora_seqs(&self) -> u32 {
        self.lora_seqs
    }

    /// KV blocks that the coming step needs.
    pub fn blocks_needed(&self) -> u32 {
        self.block_phase[(self.clock % u64::from(self.block_size)) as usize]
    }

    /// Whether requests that got a token in this step may join. Counts down the rest after a general step.
    pub fn is_open(&mut self) -> bool {
        self.rest = self.rest.saturating_sub(1);
        self.enabled && self.rest == 0
    }

    /// A request whose prompt is computed joins; it has just got a token at `now`.
    pub fn join(&mut self, id: RequestId, request: &mut Request, now: Picoseconds) {
        request.joined = self.clock;
        request.joined_deliveries = self.deliveries;
        let outputs = request.num_output_tokens();
        let longest = request.max_tokens.min(self.max_model_len - request.prompt_tokens);
        // `NEVER` is the largest number; a stop token that has gone by (it was not one then) ends nothing.
        let end = if request.stop_at > outputs {
            longest.min(request.stop_at)
        } else {
            longest
        };
        request.ends = self.clock + u64::from(end - outputs);
        self.ends.push(Reverse((request.ends, id)));
        let phase = self.block_phase_of(request);
        self.block_phase[phase] += 1;
        self.context_tokens += u64::from(request.num_tokens - 1);
        self.lora_seqs += u32::from(request.adapter != 0);
        self.len += 1;
        self.latest_token = now;
    }

    /// Every member has got a token at `now`.
    pub fn advance(&mut self, now: Picoseconds) {
        self.clock += 1;
        self.deliveries += u64::from(now != self.latest_token);
        self.context_tokens += u64::from(self.len);
        self.latest_token = now;
    }

    /// How many further steps there are before the one in which a member gets its last token, that one included.
    pub fn repeatable(&self) -> u64 {
        let next = self.ends.peek().map_or(self.clock, |&Reverse((end, _))| end);
        next.saturating_sub(self.clock + 1)
    }

    /// How many of `steps` further steps find their blocks among `free`.
    pub fn with_blocks(&self, steps: u64, free: u32) -> u64 {
        let size = u64::from(self.block_size);
        // As many steps as a block has tokens need one block for each member.
        let turns = steps / size;
        if (turns + 1) * u64::from(self.len) <= u64::from(free) {
            return steps;
        }
        let turns = turns.min(u64::from(free / self.len));
        let mut left = free - turns as u32 * self.len;
        let mut found = turns * size;
        while found < steps {
            let needed = self.block_phase[((self.clock + 1 + found) % size) as usize];
            if needed > left {
                break;
            }
            left -= needed;
            found += 1;
        }
        found
    }

    /// The blocks that `steps` further steps take: (first of those steps, stride, how many, blocks in each).
    pub fn coming_blocks(&self, steps: u64) -> impl Iterator<Item = (u64, u64, u64, u32)> + '_ {
        let size = u64::from(self.block_size);
        let phase = (self.clock + 1) % size;
        let (turns, rest) = (steps / size, steps % size);
        (0..steps.min(size)).map(move |first| {
            let at = if phase + first < size {
                phase + first
            } else {
                phase + first - size
            };
            (
                first,
                size,
                turns + u64::from(first < rest),
                self.block_phase[at as usize],
            )
        })
    }

    /// Every member has got `steps` tokens, the first at `first` and the last at `latest`, each at an instant of its own.
    pub fn repeat(&mut self, steps: u64, first: Picoseconds, latest: Picoseconds) {
        self.clock += steps;
        self.deliveries += steps - u64::from(first == self.latest_token);
        self.context_tokens += steps * u64::from(self.len);
        self.latest_token = latest;
    }

    /// A member that has all its tokens leaves, its state written back; `None` when there is no other.
    pub fn pop_ended(&mut self, requests: &mut Requests) -> Option<RequestId> {
        loop {
            let &Reverse((end, id)) = self.ends.peek()?;
            if end > self.clock {
                return None;
            }
            self.ends.pop();
            if is_current(&requests[id], end) {
                self.leave(&mut requests[id]);
                return Some(id);
            }
        }
    }

    /// A member leaves, its state written back.
    pub fn leave(&mut self, request: &mut Request) {
        let phase = self.block_phase_of(request);
        self.block_phase[phase] -= 1;
        self.write_back(request);
        self.context_tokens -= u64::from(request.num_tokens - 1);
        self.lora_seqs -= u32::from(request.adapter != 0);
        self.len -= 1;
    }

    /// Members that leave before their end stay in the heap until it comes; this keeps it proportional to the members.
    pub fn drop_stale(&mut self, requests: &Requests) {
        if self.ends.len() > 2 * self.len as usize + 64 {
            self.ends
                .retain(|&Reverse((end, id))| is_current(&requests[id], end));
        }
    }

    /// Writes every member's state back and dissolves the cohort; `each` is told the members' adapters.
    pub fn settle(&mut self, requests: &mut Requests, mut each: impl FnMut(u32)) {
        self.rest = REST;
        let mut ends = std::mem::take(&mut self.ends);
        for Reverse((end, id)) in ends.drain() {
            if is_current(&requests[id], end) {
                self.write_back(&mut requests[id]);
                each(requests[id].adapter);
            }
        }
        self.ends = ends;
        self.block_phase.fill(0);
        self.context_tokens = 0;
        self.lora_seqs = 0;
        self.len = 0;
    }

    fn write_back(&self, request: &mut Request) {
        request.num_tokens += (self.clock - request.joined) as u32;
        request.num_computed_tokens = request.num_tokens - 1;
        request.num_blocks = request.num_computed_tokens.div_ceil(self.block_size);
        request.chunks += (self.deliveries - request.joined_deliveries) as u32;
        request.last_token = self.latest_token;
        request.joined = NOT_MEMBER;
    }

    /// The member needs a block in the steps in which its computed tokens fill its blocks: `joined + (tokens - 1)` counted
    /// down to a multiple of the block size.
    fn block_phase_of(&self, request: &Request) -> usize {
        let size = u64::from(self.block_size);
        let full = u64::from(request.num_tokens - 1) % size;
        ((request.joined + size - full) % size) as usize
    }
}

/// Whether an entry of the heap is a member's.
fn is_current(request: &Request, end: u64) -> bool {
    request.joined != NOT_MEMBER && request.ends == end
}
