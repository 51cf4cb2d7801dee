//! Traffic: what arrives when, for which adapter, how long.

pub mod adapter_laws;
pub mod arrivals;
pub mod generated;
pub mod lengths;
mod merge;
pub mod replay;
pub mod spec;

pub use adapter_laws::AdapterLaws;
pub use generated::Generated;
pub use lengths::{LengthSampler, LengthTable};
pub use replay::{Replay, Trace};
pub use spec::{ArrivalLaw, LengthLaw, WorkloadSpec};

use crate::engine::NewRequest;
use crate::time::Picoseconds;

/// Requests of one adapter that were refused unseen, because no connection was free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unseen {
    /// How many.
    pub requests: u64,
    /// Prompt and requested output tokens that they would have brought.
    pub tokens: u64,
}

impl Unseen {
    /// Counts a request whose lengths are known.
    pub fn add(&mut self, request: &NewRequest) {
        self.requests += 1;
        self.tokens += u64::from(request.prompt_tokens) + u64::from(request.max_tokens);
    }

    /// So many requests of that mean length.
    pub fn of_mean(requests: u64, mean_tokens: f64) -> Self {
        Self {
            requests,
            tokens: (requests as f64 * mean_tokens).round() as u64,
        }
    }
}

/// A source of requests in order of arrival.
///
/// Nobody looks into a request that finds no free connection: its lengths need not be known, and where the traffic is drawn
/// from laws they are not drawn. What the refused would have brought is then their number times the law's mean.
pub trait Traffic {
    /// Before this instant every request is known; those of a source that is complete in itself always are.
    fn known_until(&self) -> Picoseconds {
        Picoseconds::MAX
    }
    /// Mean prompt + requested output tokens of each adapter's requests, where they are drawn from laws.
    fn mean_tokens(&self) -> Option<Vec<f64>> {
        None
    }
    /// When the next request arrives; `None` when there is none before the end.
    fn peek(&self) -> Option<Picoseconds>;
    /// Takes the next request.
    fn next(&mut self) -> Option<NewRequest>;
    /// Counts a request that was taken as refused unseen.
    fn refuse(&mut self, request: &NewRequest);
    /// Takes all requests up to and at `until` and refuses them unseen. Returns how many there were.
    fn refuse_until(&mut self, until: Picoseconds) -> u64 {
        let mut count = 0;
        while self.peek().is_some_and(|at| at <= until)
            && let Some(request) = self.next()
        {
            self.refuse(&request);
            count += 1;
        }
        count
    }
    /// The requests refused unseen so far, by adapter.
    fn unseen(&self) -> Vec<Unseen>;
}
