//! Several servers behind a router, on one clock.
//!
//! * [`cluster`] reads one JSON document ([`spec`]) and runs it: for each arrival every replica that has something to tell is brought up to it,
//!   the [`router`] looks at what it has been told and chooses, and the request goes into the [`feed`] of its replica.
//! * A [`replica`] is the engine, event loop and driver of a single simulation; only its traffic is not known beforehand.
//! * [`outcome`] adds up what came of them.
//! * [`signals`] are what replicas tell the router, and how late it hears of it.
//!
//! One replica gets every request at the instant at which it arrives, and is the single simulation to the bit: a run paused in
//! front of an unknown arrival goes on as if it had known (segments may be cut anywhere, docs/decisions/0009).

pub mod cluster;
pub mod feed;
pub mod outcome;
mod replica;
pub mod router;
pub mod signals;
pub mod spec;

pub use cluster::simulate_fleet;
pub use outcome::{FleetOutcome, ReplicaOutcome};
pub use router::RouterSpec;
pub use signals::Outbox;
pub use spec::FleetSpec;
