//! Simulated time: integer picoseconds, so that sums of step times are exact and an arrival is never seen a step early.

/// A point in simulated time or a duration, in picoseconds. `u64` holds 213 days.
pub type Picoseconds = u64;

/// Picoseconds in one second.
pub const PS_PER_S: u64 = 1_000_000_000_000;
/// Picoseconds in one millisecond.
pub const PS_PER_MS: u64 = 1_000_000_000;
/// Picoseconds in one microsecond.
pub const PS_PER_US: u64 = 1_000_000;

/// Seconds to picoseconds, rounded to nearest; saturates at the ends of `u64` (negative and NaN give 0).
pub fn from_seconds(seconds: f64) -> Picoseconds {
    (seconds * PS_PER_S as f64).round() as u64
}

/// Picoseconds to seconds.
pub fn to_seconds(time: Picoseconds) -> f64 {
    time as f64 / PS_PER_S as f64
}

/// Picoseconds to milliseconds.
pub fn to_ms(time: Picoseconds) -> f64 {
    time as f64 / PS_PER_MS as f64
}
