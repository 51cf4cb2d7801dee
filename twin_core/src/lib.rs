//! A discrete-event simulator of a vLLM server that serves LoRA adapters.
//!
//! # A tour
//! Data flows one way: [`workload`] → [`simulator`] (the one event loop) → [`metrics`].
//!
//! * [`simulation`] reads one JSON document and runs it; [`sweep`] runs many on all cores.
//! * [`simulator`] is vLLM's iteration: take in arrivals, schedule, load adapters, launch, wait, update. Its [`simulator::Driver`]
//!   gives it time and traffic: [`timed`] in simulated time with costs from a profile, [`trace`] in iterations, to compare
//!   every decision with vLLM's own code.
//! * Where a step repeats itself, [`timed`] lets many pass at once, in closed form (docs/decisions/0009).
//! * [`engine`] decides who runs ([`engine::scheduler`], [`engine::admission`], [`engine::update`]); [`kv_cache`] hands out PagedAttention blocks; [`lora`]
//!   keeps adapters in GPU slots over CPU memory. [`rules`] holds what differs between vLLM versions, as data.
//! * [`policies`] are what-if rules beside vLLM's own: eviction, loading, admission.
//! * [`fleet`] puts many engines behind a router, on one clock.
//! * [`cost`] turns what a step did into time, and a configuration into KV blocks, by a calibrated profile.
//! * [`surrogate`] answers without simulating: a mean-field estimate from the same profile, and trees trained on simulations.
//! * [`early_stop`] ends a run whose outcome is settled, on request.
//! * [`time`] is integer picoseconds; [`rng`] gives each purpose and adapter a random stream of its own.
//!
//! The crate knows no Python, no clock, no files and no global state: the same document gives the same bits.

pub mod api_server;
pub mod config;
pub mod cost;
pub mod early_stop;
pub mod engine;
pub mod error;
pub mod fleet;
pub mod kv_cache;
pub mod lora;
pub mod metrics;
pub mod policies;
pub mod rng;
pub mod rules;
pub mod server;
pub mod simulation;
pub mod simulator;
pub mod surrogate;
pub mod sweep;
pub mod time;
pub mod timed;
pub mod trace;
pub mod workload;
