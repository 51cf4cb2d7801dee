//! One request, as the scheduler sees it, and the slab that holds those in flight.

use crate::time::Picoseconds;

/// Index of a request in the [`Requests`] slab. Reused after a request has left: compare [`Request::serial`] across steps.
pub type RequestId = u32;

/// "Never": a `stop_at` that no output reaches, an instant that has not come.
pub const NEVER: u32 = u32::MAX;

/// [`Request::joined`] of a request outside the cohort.
pub const NOT_MEMBER: u64 = u64::MAX;

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// In the waiting queue, never scheduled.
    Waiting,
    /// In the running list.
    Running,
    /// In the waiting queue after a preemption.
    Preempted,
    /// Left: its slot is free.
    Gone,
}

/// What arrives: everything that is known of a request before it is scheduled.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRequest {
    /// Position in the order of arrival, unique in a run.
    pub serial: u32,
    /// Adapter, 0 for the base model.
    pub adapter: u32,
    /// Tokens of the prompt, at least 1.
    pub prompt_tokens: u32,
    /// Most output tokens, at least 1.
    pub max_tokens: u32,
    /// The output token that is a stop token, or [`NEVER`].
    pub stop_at: u32,
    /// Priority (policy `priority` only): lower first.
    pub priority: i64,
    /// Tie-break after priority, in vLLM `arrival_time` then `request_id`: any number that orders as they do.
    pub order: (f64, u32),
    /// When the client sent it.
    pub arrival: Picoseconds,
    /// Prompt token ids; empty unless prefix caching needs them.
    pub prompt: Vec<u32>,
}

/// State of one request. Field names are vLLM's (`v1/request.py`).
#[derive(Clone, Debug)]
pub struct Request {
    /// Prompt plus known outputs.
    pub num_tokens: u32,
    /// Tokens whose KV is computed, or scheduled to be.
    pub num_computed_tokens: u32,
    /// Async scheduling: outputs in flight, not yet known.
    pub num_output_placeholders: u32,
    /// Tokens scheduled whose output has not come back.
    pub in_flight_tokens: u32,
    /// Tokens in flight when it was preempted: their output is stale.
    pub stale_tokens: u32,
    /// KV blocks held.
    pub num_blocks: u32,
    /// Adapter, 0 for the base model.
    pub adapter: u32,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Most output tokens.
    pub max_tokens: u32,
    /// The output token that is a stop token, or [`NEVER`].
    pub stop_at: u32,
    /// Order of arrival.
    pub serial: u32,
    /// Times it was preempted.
    pub num_preemptions: u32,
    /// Where it is.
    pub status: Status,
    /// Place in the running list (see [`super::running`]).
    pub running_at: u32,
    /// Priority: lower first.
    pub priority: i64,
    /// `arrival_time`, then a number that orders as `request_id` does.
    pub order: (f64, u32),
    /// When the client sent it.
    pub arrival: Picoseconds,
    /// When its first token reached the client; `Picoseconds::MAX` before.
    pub first_token: Picoseconds,
    /// When its latest token reached the client.
    pub last_token: Picoseconds,
    /// Deliveries to the client: tokens that leave at one instant are one chunk.
    pub chunks: u32,
    /// The cohort's count of deliveries when it joined.
    pub joined_deliveries: u64,
    /// The first step of the cohort (see [`super::cohort`]) in which it is a member; the token counts above are without those
    /// steps. [`NOT_MEMBER`] outside.
    pub joined: u64,
    /// How many steps the cohort will have got back when it has all its tokens.
    pub ends: u64,
    /// The first step of the cohort for which it is not scheduled any more, where that is known.
    pub scheduled_until: u64,
    /// Whether that step has come.
    pub complete: bool,
}

impl Request {
    /// Known output tokens.
    pub fn num_output_tokens(&self) -> u32 {
        self.num_tokens - self.prompt_tokens
    }

    /// Known tokens and those in flight.
    pub fn num_tokens_with_placeholders(&self) -> u32 {
        self.num_tokens + self.num_output_placeholders
    }
}

impl From<&NewRequest> for Request {
    fn from(new: &NewRequest) -> Self {
        Self {
            num_tokens: new.prompt_tokens,
            num_computed_tokens: 0,
            num_output_placeholders: 0,
            in_flight_tokens: 0,
            stale_tokens: 0,
            num_blocks: 0,
            adapter: new.adapter,
            prompt_tokens: new.prompt_tokens,
            max_tokens: new.max_tokens,
            stop_at: new.stop_at,
            serial: new.serial,
            num_preemptions: 0,
            status: Status::Waiting,
            running_at: 0,
            priority: new.priority,
            order: new.order,
            arrival: new.arrival,
            first_token: Picoseconds::MAX,
            last_token: 0,
            chunks: 0,
            joined_deliveries: 0,
            joined: NOT_MEMBER,
            ends: 0,
            scheduled_until: 0,
            complete: false,
        }
    }
}

/// Requests in flight, densely stored; slots of departed requests are reused, so memory follows the load and not the traffic.
#[derive(Debug, Default)]
pub struct Requests {
    slots: Vec<Request>,
    free: Vec<RequestId>,
}

impl Requests {
    /// Stores a request and returns its slot.
    pub fn insert(&mut self, request: Request) -> RequestId {
        if let Some(id) = self.free.pop() {
            self.slots[id as usize] = request;
            id
        } else {
            self.slots.push(request);
            (self.slots.len() - 1) as RequestId
        }
    }

    /// Gives the slot back.
    pub fn remove(&mut self, id: RequestId) {
        self.slots[id as usize].status = Status::Gone;
        self.free.push(id);
    }

    /// Requests in flight.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether none is in flight.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Requests in flight, in slot order.
    pub fn iter(&self) -> impl Iterator<Item = &Request> {
        self.slots.iter().filter(|request| request.status != Status::Gone)
    }
}

impl std::ops::Index<RequestId> for Requests {
    type Output = Request;
    fn index(&self, id: RequestId) -> &Request {
        &self.slots[id as usize]
    }
}

impl std::ops::IndexMut<RequestId> for Requests {
    fn index_mut(&mut self, id: RequestId) -> &mut Request {
        &mut self.slots[id as usize]
    }
}
