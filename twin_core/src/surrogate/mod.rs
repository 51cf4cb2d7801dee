//! Answers without a simulation: a mean-field estimate of a server, and trees trained on what the twin simulated.
//!
//! [`mean_field`] solves for the running batch that a configuration settles in, from the same profile that the twin uses;
//! [`features`] turns that and the configuration into named numbers; [`trees`] evaluates tree models on them, as
//! scikit-learn and LightGBM do. What is learned from these numbers, and how well it holds, is Python's (`pytwin.learn`).

pub mod features;
pub mod mean_field;
pub mod trees;

pub use features::{FEATURES, Query, features};
pub use trees::TreeModel;
