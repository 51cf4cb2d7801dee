//! Measures of a run. They observe; nothing in the engine depends on them.

pub mod adapters;
pub mod alike;
pub mod histogram;
pub mod objectives;
pub mod recorder;
pub mod requests;
pub mod segment;
pub mod steps;
pub mod summary;
pub mod timeseries;

pub use adapters::AdapterColumns;
pub use objectives::{Objectives, ObjectivesSpec};
pub use recorder::{Collect, Recorder};
pub use requests::{RequestColumns, RequestStatus};
pub use segment::Segment;
pub use steps::StepColumns;
pub use summary::{Metric, Summary};
pub use timeseries::TimeseriesColumns;
