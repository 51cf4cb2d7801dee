//! Requests that plainly decode, kept as one: the fast mode of the scheduler.
//!
//! Most of the time every running request gains one token a step. Nothing about a member then needs to be touched: its token
//! count is a shared clock plus a constant, the step at which it ends is known when it joins (a heap), how many members need a
//! new KV block in a step is a ring of counts by (tokens mod block_size), and the sum of contexts grows by the number of
//! members. [`Cohort::settle`] writes everything back whenever the general rules are needed (an abort, prefills in the middle of
//! the running list), so both modes make the same decisions to the bit; the property tests in `tests/fidelity.rs` hold them to it.
//!
//! There are two clocks: steps scheduled and steps that have come back. They differ by the steps in flight, which under async
//! scheduling are one when a step is scheduled. A member that leaves meanwhile is still in the step in flight: its token is then
//! not the cohort's ([`Cohort::left`]), and where it stays alive it gets it by itself ([`Cohort::take_stray`]).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::batch::{BatchItem, Kind};
use super::request::{NOT_MEMBER, Request, RequestId, Requests};
use crate::config::EngineConfig;
use crate::time::Picoseconds;

/// Steps that the general path keeps the requests after it was needed: in a phase of preemptions joining and settling by turns
/// would cost more than it saves.
const REST: u32 = 12;
/// More steps than are ever in flight.
const IN_FLIGHT: usize = 4;

/// Requests in the state "running, one token a step".
#[derive(Debug)]
pub struct Cohort {
    enabled: bool,
    asynchronous: bool,
    block_size: u32,
    max_model_len: u32,
    /// Steps scheduled.
    scheduled: u64,
    /// Steps that have come back.
    returned: u64,
    /// Members that the next step schedules: all but those whose last token is in flight.
    len: u32,
    /// Members whose last token is in flight.
    complete: u32,
    /// Scheduled members that need a block when scheduled % block_size is the index.
    block_phase: Vec<u32>,
    /// (steps returned when it has all its tokens, member). Entries of members that left before are stale: see
    /// [`Self::drop_stale`].
    ends: BinaryHeap<Reverse<(u64, RequestId)>>,
    /// Entries taken from `ends` ahead of time, because the last token is in flight.
    ending: Vec<(u64, RequestId)>,
    /// Sum over the members of the positions of their next step.
    context_tokens: u64,
    lora_seqs: u32,
    /// Members that have left since a step in flight was scheduled, by step modulo [`IN_FLIGHT`].
    left: [u32; IN_FLIGHT],
    /// Those of them that still get its token.
    strays: Vec<(u64, BatchItem)>,
    /// Instants at which the members got tokens.
    deliveries: u64,
    /// When the members got their latest token.
    latest_token: Picoseconds,
    rest: u32,
}

impl Cohort {
    /// An empty cohort; one that is not enabled stays empty.
    pub fn new(enabled: bool, config: &EngineConfig) -> Self {
        let block_size = config.block_size;
        Self {
            enabled,
            asynchronous: config.async_scheduling,
            block_size,
            max_model_len: config.max_model_len,
            scheduled: 0,
            returned: 0,
            len: 0,
            complete: 0,
            block_phase: vec![0; if enabled { block_size as usize } else { 0 }],
            ends: BinaryHeap::new(),
            ending: Vec::new(),
            context_tokens: 0,
            lora_seqs: 0,
            left: [0; IN_FLIGHT],
            strays: Vec::new(),
            deliveries: 0,
            latest_token: 0,
            rest: 0,
        }
    }

    /// Members that the next step schedules.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Members.
    pub fn members(&self) -> usize {
        self.len as usize + self.complete as usize
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.members() == 0
    }

    /// Sum of the members' positions in the coming step.
    pub fn context_tokens(&self) -> u64 {
        self.context_tokens
    }

    /// Scheduled members with an adapter.
    pub fn lora_seqs(&self) -> u32 {
        self.lora_seqs
    }

    /// KV blocks that the coming step needs.
    pub fn blocks_needed(&self) -> u32 {
        self.block_phase[(self.scheduled % u64::from(self.block_size)) as usize]
    }

    /// Whether requests that got a token in this step may join. Counts down the rest after a general step.
    pub fn is_open(&mut self) -> bool {
        self.rest = self.rest.saturating_sub(1);
        self.enabled && self.rest == 0
    }

    /// A request whose prompt is computed joins, if it is in step with the others; it has just got a token at `now`. Under async
    /// scheduling its next one is in flight, by itself: see [`Self::own_token`].
    pub fn join(&mut self, id: RequestId, request: &mut Request, now: Picoseconds) -> bool {
        let in_flight = request.num_output_placeholders;
        let outputs = request.num_output_tokens() + in_flight;
        let longest = request.max_tokens.min(self.max_model_len - request.prompt_tokens);
        // `NEVER` is the largest number; a stop token that has gone by (it was not one then) ends nothing.
        let end = if request.stop_at >= outputs {
            longest.min(request.stop_at)
        } else {
            longest
        };
        if in_flight != u32::from(self.asynchronous) || outputs >= end {
            return false;
        }
        request.joined = self.scheduled;
        request.joined_deliveries = self.deliveries;
        request.ends = self.scheduled + u64::from(end - outputs);
        // vLLM counts the outputs in flight; of a stop token it learns when the next step is already under way.
        request.scheduled_until = if end == longest { request.ends } else { u64::MAX };
        self.ends.push(Reverse((request.ends, id)));
        let phase = self.block_phase_of(request);
        self.block_phase[phase] += 1;
        self.context_tokens += u64::from(request.num_computed_tokens);
        self.lora_seqs += u32::from(request.adapter != 0);
        self.len += 1;
        self.latest_token = now;
        true
    }

    /// A member got at `now` the token that was in flight when it joined.
    pub fn own_token(&mut self, request: &mut Request, now: Picoseconds) {
        request.joined_deliveries = self.deliveries;
        self.latest_token = now;
    }

    /// The members have been scheduled.
    pub fn schedule(&mut self) {
        self.scheduled += 1;
        self.context_tokens += u64::from(self.len);
    }

    /// A step of `scheduled` members comes back at `now`. Returns how many of them are still members and get a token.
    pub fn advance(&mut self, scheduled: u32, now: Picoseconds) -> u32 {
        let left = std::mem::take(&mut self.left[self.returned as usize % IN_FLIGHT]);
        self.returned += 1;
        self.deliveries += u64::from(now != self.latest_token);
        self.latest_token = now;
        scheduled - left
    }

    /// A request that left the cohort while the step that has just come back was in flight, and gets its token of that step.
    pub fn take_stray(&mut self) -> Option<BatchItem> {
        let at = self.strays.iter().position(|&(step, _)| step < self.returned)?;
        Some(self.strays.swap_remove(at).1)
    }

    /// How many further steps there are before the one in which a member gets its last token, that one included.
    pub fn repeatable(&self) -> u64 {
        let next = self.ends.peek().map_or(0, |&Reverse((end, _))| end);
        next.saturating_sub(self.scheduled)
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
            let needed = self.block_phase[((self.scheduled + found) % size) as usize];
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
        let phase = self.scheduled % size;
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

    /// `steps` more steps are scheduled, and as many come back, each at an instant of its own: the first at `first`, the last at
    /// `latest`.
    pub fn repeat(&mut self, steps: u64, first: Picoseconds, latest: Picoseconds) {
        self.scheduled += steps;
        self.returned += steps;
        self.deliveries += steps - u64::from(first == self.latest_token);
        self.context_tokens += steps * u64::from(self.len);
        self.latest_token = latest;
    }

    /// A member whose last token is in flight is not scheduled any more; `None` when there is no other. (Of one whose last token
    /// is a stop token nobody knows that yet.)
    pub fn pop_complete(&mut self, requests: &mut Requests) -> Option<RequestId> {
        loop {
            let &Reverse((end, id)) = self.ends.peek()?;
            if end > self.scheduled {
                return None;
            }
            self.ends.pop();
            let request = &mut requests[id];
            // A stale entry may look like the current one, which is then there twice.
            if is_current(request, end) && !request.complete {
                self.ending.push((end, id));
                if request.scheduled_until == end {
                    self.unschedule(request);
                    request.complete = true;
                    self.complete += 1;
                    return Some(id);
                }
            }
        }
    }

    /// A member that has all its tokens; `None` when there is no other. It is to [`Self::leave`].
    pub fn pop_ended(&mut self, requests: &Requests) -> Option<RequestId> {
        loop {
            let (end, id) = if let Some(ending) = self.ending.pop() {
                ending
            } else {
                let &Reverse((end, id)) = self.ends.peek()?;
                if end > self.returned {
                    return None;
                }
                self.ends.pop();
                (end, id)
            };
            if is_current(&requests[id], end) {
                return Some(id);
            }
        }
    }

    /// A member leaves, its state written back; `alive` if it is to get the tokens in flight.
    pub fn leave(&mut self, id: RequestId, request: &mut Request, alive: bool) {
        if request.complete {
            self.complete -= 1;
        } else {
            self.unschedule(request);
        }
        self.write_back(id, request, alive);
    }

    /// Members that leave before their end stay in the heap until it comes; this keeps it proportional to the members.
    pub fn drop_stale(&mut self, requests: &Requests) {
        if self.ends.len() > 2 * self.members() + 64 {
            self.ends
                .retain(|&Reverse((end, id))| is_current(&requests[id], end));
        }
    }

    /// Writes every member's state back and dissolves the cohort; `each` is told the adapters of those that were scheduled.
    pub fn settle(&mut self, requests: &mut Requests, mut each: impl FnMut(u32)) {
        self.rest = REST;
        let mut ends = std::mem::take(&mut self.ends);
        let mut ending = std::mem::take(&mut self.ending);
        for (end, id) in ends.drain().map(|Reverse(entry)| entry).chain(ending.drain(..)) {
            let request = &mut requests[id];
            if is_current(request, end) {
                if !request.complete {
                    each(request.adapter);
                }
                self.leave(id, request, true);
            }
        }
        (self.ends, self.ending) = (ends, ending);
    }

    fn unschedule(&mut self, request: &Request) {
        let phase = self.block_phase_of(request);
        self.block_phase[phase] -= 1;
        self.context_tokens -= u64::from(request.num_computed_tokens) + self.scheduled - request.joined;
        self.lora_seqs -= u32::from(request.adapter != 0);
        self.len -= 1;
    }

    fn write_back(&mut self, id: RequestId, request: &mut Request, alive: bool) {
        let scheduled = self
            .scheduled
            .min(if request.complete { request.ends } else { u64::MAX });
        let returned = self.returned.max(request.joined);
        let (steps, known) = (
            (scheduled - request.joined) as u32,
            (returned - request.joined) as u32,
        );
        request.num_computed_tokens += steps;
        request.num_tokens += known;
        request.num_blocks = request.num_computed_tokens.div_ceil(self.block_size);
        if known > 0 {
            request.chunks += (self.deliveries - request.joined_deliveries) as u32;
            request.last_token = self.latest_token;
        }
        for step in returned..scheduled {
            self.left[step as usize % IN_FLIGHT] += 1;
            if alive {
                self.strays.push((step, stray(id, request)));
            }
        }
        request.in_flight_tokens += steps - known;
        request.num_output_placeholders += steps - known;
        request.joined = NOT_MEMBER;
        request.complete = false;
    }

    /// The member needs a block in the steps in which its computed tokens fill its blocks: `joined + computed` counted down to a
    /// multiple of the block size.
    fn block_phase_of(&self, request: &Request) -> usize {
        let size = u64::from(self.block_size);
        let full = u64::from(request.num_computed_tokens) % size;
        ((request.joined + size - full) % size) as usize
    }
}

/// Whether an entry of the heap is a member's.
fn is_current(request: &Request, end: u64) -> bool {
    request.joined != NOT_MEMBER && request.ends == end
}

/// One token in flight of a request that is not in the cohort any more. (Where it lies no longer matters.)
fn stray(id: RequestId, request: &Request) -> BatchItem {
    BatchItem {
        id,
        serial: request.serial,
        num_tokens: 1,
        position: 0,
        samples: true,
        kind: Kind::Continued,
    }
}
