//! What a step, a load and the memory cost: pure functions of a calibrated profile.

pub mod features;
pub mod line;
pub mod load_time;
pub mod memory;
pub mod polynomial;
pub mod profile;
pub mod step_time;

pub use features::{ConfigFeatures, Feature, NUM_FEATURES, Values};
pub use line::Line;
pub use memory::{Infeasible, KvPlan};
pub use polynomial::Polynomial;
pub use profile::Profile;
pub use step_time::{CostModel, step_values};
