//! One row per request.

use crate::engine::{NewRequest, Request};
use crate::time::{Picoseconds, to_ms, to_seconds};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RequestStatus {
    /// All tokens delivered in time.
    Finished = 0,
    /// Still in flight when the client stopped.
    Unfinished = 1,
    /// The connection was refused.
    Refused = 2,
    /// The client gave up before.
    Aborted = 3,
}

/// Columns of the request frame, in order of arrival.
#[derive(Clone, Debug, Default)]
pub struct RequestColumns {
    /// Adapter, 0 = base model.
    pub adapter: Vec<u32>,
    /// Send time, s.
    pub arrival_s: Vec<f64>,
    /// Prompt length.
    pub prompt_tokens: Vec<u32>,
    /// Tokens delivered.
    pub output_tokens: Vec<u32>,
    /// Time to first token; NaN if none came.
    pub ttft_ms: Vec<f64>,
    /// Time per output token after the first; NaN below two tokens.
    pub tpot_ms: Vec<f64>,
    /// End-to-end latency; NaN if it did not finish.
    pub e2el_ms: Vec<f64>,
    /// See [`RequestStatus`].
    pub status: Vec<u8>,
    /// Times preempted.
    pub preemptions: Vec<u32>,
}

/// Time per output token after the first, in picoseconds.
pub fn time_per_output_token(request: &Request) -> Option<Picoseconds> {
    let outputs = request.num_output_tokens();
    (outputs > 1).then(|| (request.last_token - request.first_token) / u64::from(outputs - 1))
}

impl RequestColumns {
    /// A request arrives; until it ends it counts as unfinished.
    pub fn arrive(&mut self, new: &NewRequest, status: RequestStatus) {
        self.adapter.push(new.adapter);
        self.arrival_s.push(to_seconds(new.arrival));
        self.prompt_tokens.push(new.prompt_tokens);
        self.output_tokens.push(0);
        self.ttft_ms.push(f64::NAN);
        self.tpot_ms.push(f64::NAN);
        self.e2el_ms.push(f64::NAN);
        self.status.push(status as u8);
        self.preemptions.push(0);
    }

    /// A request's last state, finished or not.
    pub fn leave(&mut self, request: &Request, status: RequestStatus) {
        let row = request.serial as usize;
        self.status[row] = status as u8;
        self.output_tokens[row] = request.num_output_tokens();
        self.preemptions[row] = request.num_preemptions;
        if request.first_token != Picoseconds::MAX {
            self.ttft_ms[row] = to_ms(request.first_token - request.arrival);
            self.tpot_ms[row] = time_per_output_token(request).map_or(f64::NAN, to_ms);
            if status == RequestStatus::Finished {
                self.e2el_ms[row] = to_ms(request.last_token - request.arrival);
            }
        }
    }
}
