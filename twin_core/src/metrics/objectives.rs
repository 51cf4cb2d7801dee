//! Service-level objectives: which requests met them, which missed, and which cannot be judged yet.

use serde::Deserialize;

use super::requests::time_per_output_token;
use crate::engine::Request;
use crate::error::{Result, invalid};
use crate::time::{PS_PER_MS, Picoseconds};

/// Objectives as a document states them.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectivesSpec {
    /// Longest time to first token, ms.
    pub ttft_ms: f64,
    /// Longest mean time per output token after the first, ms.
    pub tpot_ms: f64,
}

impl Default for ObjectivesSpec {
    fn default() -> Self {
        Self {
            ttft_ms: 3000.0,
            tpot_ms: 200.0,
        }
    }
}

impl ObjectivesSpec {
    /// Both must be positive; above a billion ms nothing is ever missed.
    pub fn validate(&self) -> Result<()> {
        for (name, value) in [("ttft_ms", self.ttft_ms), ("tpot_ms", self.tpot_ms)] {
            if !(value > 0.0 && value <= 1e9) {
                return invalid(format!(
                    "objectives.{name} ({value}) must be > 0 and <= 1e9 milliseconds"
                ));
            }
        }
        Ok(())
    }
}

/// The same in picoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Objectives {
    /// Longest time to first token.
    pub ttft: Picoseconds,
    /// Longest time per output token.
    pub tpot: Picoseconds,
}

impl From<ObjectivesSpec> for Objectives {
    fn from(spec: ObjectivesSpec) -> Self {
        let ps = |ms: f64| (ms * PS_PER_MS as f64).round() as Picoseconds;
        Self {
            ttft: ps(spec.ttft_ms),
            tpot: ps(spec.tpot_ms),
        }
    }
}

impl Default for Objectives {
    fn default() -> Self {
        ObjectivesSpec::default().into()
    }
}

impl Objectives {
    /// Whether a finished request met both. An output of one token has no TPOT to miss.
    pub fn met(&self, request: &Request) -> bool {
        request.first_token - request.arrival <= self.ttft
            && time_per_output_token(request).is_none_or(|tpot| tpot <= self.tpot)
    }

    /// Whether a request still in flight at `end` has missed already: its first token came late, or is late.
    pub fn missed_in_flight(&self, arrival: Picoseconds, first_token: Picoseconds, end: Picoseconds) -> bool {
        first_token.min(end).saturating_sub(arrival) > self.ttft
    }
}
