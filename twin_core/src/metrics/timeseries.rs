//! Gauges sampled at a fixed interval, like vLLM's /metrics.

use crate::time::{Picoseconds, to_seconds};

/// The gauges at one instant.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Gauges {
    pub running: u32,
    pub waiting: u32,
    pub kv_usage: f64,
    pub adapters_active: u32,
    pub preemptions: u64,
    pub prompt_tokens: u64,
    pub generation_tokens: u64,
}

/// Columns of the time series.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct TimeseriesColumns {
    pub t_s: Vec<f64>,
    pub running: Vec<u32>,
    pub waiting: Vec<u32>,
    pub kv_usage: Vec<f64>,
    pub adapters_active: Vec<u32>,
    pub preemptions: Vec<u64>,
    pub prompt_tokens: Vec<u64>,
    pub generation_tokens: Vec<u64>,
}

/// Samples gauges every `period`.
#[derive(Clone, Debug)]
pub struct Sampler {
    period: Picoseconds,
    pub(super) next: Picoseconds,
    columns: TimeseriesColumns,
}

impl Sampler {
    /// First sample at 0.
    pub fn new(period: Picoseconds) -> Self {
        Self {
            period: period.max(1),
            next: 0,
            columns: TimeseriesColumns::default(),
        }
    }

    /// The gauges held until `until` (exclusive).
    pub fn hold(&mut self, until: Picoseconds, gauges: &Gauges) {
        while self.next < until {
            let columns = &mut self.columns;
            columns.t_s.push(to_seconds(self.next));
            columns.running.push(gauges.running);
            columns.waiting.push(gauges.waiting);
            columns.kv_usage.push(gauges.kv_usage);
            columns.adapters_active.push(gauges.adapters_active);
            columns.preemptions.push(gauges.preemptions);
            columns.prompt_tokens.push(gauges.prompt_tokens);
            columns.generation_tokens.push(gauges.generation_tokens);
            self.next += self.period;
        }
    }

    /// The columns.
    pub fn finish(self) -> TimeseriesColumns {
        self.columns
    }
}
