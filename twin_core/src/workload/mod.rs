//! Traffic: what arrives when, for which adapter, how long.

pub mod arrivals;
pub mod generated;
pub mod lengths;
pub mod replay;
pub mod spec;

pub use generated::Generated;
pub use lengths::{LengthSampler, LengthTable};
pub use replay::{Replay, Trace};
pub use spec::{ArrivalLaw, LengthLaw, WorkloadSpec};

use crate::engine::NewRequest;
use crate::time::Picoseconds;

/// A source of requests in order of arrival.
pub trait Traffic {
    /// When the next request arrives; `None` when there is none before the end.
    fn peek(&self) -> Option<Picoseconds>;
    /// Takes the next request.
    fn next(&mut self) -> Option<NewRequest>;
}
