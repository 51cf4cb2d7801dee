//! Errors that reach a user: each names the value, the rule and the way out, in one line.

use thiserror::Error;

/// Why a simulation could not be set up.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum TwinError {
    /// A setting breaks a rule.
    #[error("{0}")]
    Invalid(String),
    /// A name that the library of profiles, length tables and traces does not hold.
    #[error("unknown {kind} {name:?}: known are {known}")]
    Unknown {
        /// "profile", "length table" or "trace".
        kind: &'static str,
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A JSON document that does not fit its schema.
    #[error("{what}: {cause}")]
    Schema {
        /// Which document.
        what: String,
        /// What the parser says.
        cause: String,
    },
    /// The caller asked the run to stop (Ctrl-C).
    #[error("interrupted")]
    Interrupted,
}

/// Result of a fallible call of this crate.
pub type Result<T> = std::result::Result<T, TwinError>;

/// Shorthand for [`TwinError::Invalid`].
pub(crate) fn invalid<T>(message: impl Into<String>) -> Result<T> {
    Err(TwinError::Invalid(message.into()))
}
