//! The engine core: requests, queues and the two halves of an iteration, schedule and update.

pub mod admission;
mod ageing;
pub mod batch;
pub mod cohort;
mod cohort_steps;
pub mod places;
pub mod request;
pub mod running;
pub mod scheduler;
mod tournament;
pub mod update;
pub mod waiting;

pub use batch::{Batch, BatchItem, BatchTotals, Kind};
pub use request::{NEVER, NewRequest, Request, RequestId, Requests, Status};
pub use scheduler::Scheduler;
pub use update::{FinishReason, Finished, UpdateReport};
