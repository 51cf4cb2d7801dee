//! Traffic that is given: a recorded or hand-made list of requests.

use std::sync::Arc;

use super::{Traffic, Unseen};
use crate::engine::{NEVER, NewRequest};
use crate::error::{Result, invalid};
use crate::time::{Picoseconds, from_seconds};

/// A list of requests in order of arrival.
#[derive(Debug)]
pub struct Trace {
    arrival: Vec<Picoseconds>,
    adapter: Vec<u32>,
    prompt_tokens: Vec<u32>,
    output_tokens: Vec<u32>,
    num_adapters: u32,
}

impl Trace {
    /// A trace from columns of equal length; arrivals must not go back in time.
    pub fn new(
        arrival_s: &[f64],
        adapter: &[u32],
        prompt_tokens: &[u32],
        output_tokens: &[u32],
    ) -> Result<Self> {
        let n = arrival_s.len();
        if adapter.len() != n || prompt_tokens.len() != n || output_tokens.len() != n {
            return invalid("the columns of a trace must have one length");
        }
        for row in 0..n {
            if !(0.0..=8_640_000.0).contains(&arrival_s[row]) {
                return invalid(format!(
                    "row {row}: arrival_s ({}) must be >= 0 and <= 8640000 (100 days)",
                    arrival_s[row]
                ));
            }
            if row > 0 && arrival_s[row] < arrival_s[row - 1] {
                return invalid(format!(
                    "row {row}: arrival_s ({}) goes back behind {}: sort the trace by arrival_s",
                    arrival_s[row],
                    arrival_s[row - 1]
                ));
            }
            if prompt_tokens[row] == 0 || output_tokens[row] == 0 {
                return invalid(format!("row {row}: prompt_tokens and output_tokens must be >= 1"));
            }
        }
        Ok(Self {
            arrival: arrival_s.iter().map(|&seconds| from_seconds(seconds)).collect(),
            adapter: adapter.to_vec(),
            prompt_tokens: prompt_tokens.to_vec(),
            output_tokens: output_tokens.to_vec(),
            num_adapters: adapter.iter().copied().max().unwrap_or(0),
        })
    }

    /// The largest adapter number.
    pub fn num_adapters(&self) -> u32 {
        self.num_adapters
    }
}

/// Reads a trace up to `end`.
#[derive(Debug)]
pub struct Replay {
    trace: Arc<Trace>,
    end: Picoseconds,
    row: usize,
    unseen: Vec<Unseen>,
}

impl Replay {
    /// The requests of `trace` before `end`.
    pub fn new(trace: Arc<Trace>, end: Picoseconds) -> Self {
        let unseen = vec![Unseen::default(); trace.num_adapters as usize + 1];
        Self {
            trace,
            end,
            row: 0,
            unseen,
        }
    }
}

impl Traffic for Replay {
    fn peek(&self) -> Option<Picoseconds> {
        self.trace
            .arrival
            .get(self.row)
            .copied()
            .filter(|&at| at < self.end)
    }

    fn next(&mut self) -> Option<NewRequest> {
        let arrival = self.peek()?;
        let row = self.row;
        self.row += 1;
        Some(NewRequest {
            serial: row as u32,
            adapter: self.trace.adapter[row],
            prompt_tokens: self.trace.prompt_tokens[row],
            max_tokens: self.trace.output_tokens[row],
            stop_at: NEVER,
            priority: 0,
            order: (row as f64, row as u32),
            arrival,
            prompt: Vec::new(),
        })
    }

    fn refuse(&mut self, request: &NewRequest) {
        self.unseen[request.adapter as usize].add(request);
    }

    fn unseen(&self) -> Vec<Unseen> {
        self.unseen.clone()
    }
}
