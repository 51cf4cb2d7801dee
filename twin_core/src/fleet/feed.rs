//! The traffic of one replica: what the router has sent it so far.

use std::collections::VecDeque;

use crate::engine::NewRequest;
use crate::time::Picoseconds;
use crate::workload::{Traffic, Unseen};

/// Requests on their way to one replica. Those that arrive before `known_until` are all in it.
#[derive(Debug)]
pub struct Feed {
    queue: VecDeque<NewRequest>,
    known_until: Picoseconds,
    next_serial: u32,
    unseen: Vec<Unseen>,
    mean_tokens: Option<Vec<f64>>,
}

impl Feed {
    /// An empty feed of adapters `0..=num_adapters`. `mean_tokens` are those of each adapter's requests where the traffic is drawn
    /// from laws: what refused requests would have brought is then counted as there.
    pub fn new(num_adapters: u32, mean_tokens: Option<Vec<f64>>) -> Self {
        Self {
            queue: VecDeque::new(),
            known_until: 0,
            next_serial: 0,
            unseen: vec![Unseen::default(); num_adapters as usize + 1],
            mean_tokens,
        }
    }

    /// The next request, numbered anew: serials are places in the replica's own frames.
    pub fn push(&mut self, mut request: NewRequest) {
        request.serial = self.next_serial;
        request.order.1 = self.next_serial;
        self.next_serial += 1;
        self.queue.push_back(request);
    }

    /// From now on everything that arrives before `until` is known.
    pub fn know_until(&mut self, until: Picoseconds) {
        self.known_until = until;
    }
}

impl Traffic for Feed {
    fn known_until(&self) -> Picoseconds {
        self.known_until
    }

    fn peek(&self) -> Option<Picoseconds> {
        self.queue.front().map(|request| request.arrival)
    }

    fn next(&mut self) -> Option<NewRequest> {
        self.queue.pop_front()
    }

    fn refuse(&mut self, request: &NewRequest) {
        self.unseen[request.adapter as usize].add(request);
    }

    fn unseen(&self) -> Vec<Unseen> {
        match &self.mean_tokens {
            Some(means) => self
                .unseen
                .iter()
                .zip(means)
                .map(|(unseen, &mean)| Unseen::of_mean(unseen.requests, mean))
                .collect(),
            None => self.unseen.clone(),
        }
    }
}
