//! The second half of an iteration: the model's output comes back (vLLM update_from_output()).

use super::batch::Batch;
use super::request::{NEVER, NOT_MEMBER, Request, RequestId, Status};
use super::scheduler::Scheduler;
use crate::time::Picoseconds;

/// Why a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token.
    Stop,
    /// `max_tokens` or `max_model_len`.
    Length,
}

impl FinishReason {
    /// As vLLM prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// A request that ended in this update, as it was then.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its last state.
    pub request: Request,
    /// Why it ended.
    pub reason: FinishReason,
}

/// What an update did; reused from step to step.
#[derive(Debug, Default)]
pub struct UpdateReport {
    /// Requests that got a token, in batch order (kept for traces only).
    pub outputs: Vec<u32>,
    /// Requests that ended, in batch order.
    pub finished: Vec<Finished>,
    /// Gap since a request's previous token, for those whose previous token did not come with the previous update.
    pub other_gaps: Vec<Picoseconds>,
    /// Requests whose previous token came with the previous update: they share one gap.
    pub regular_gaps: u32,
    /// Tokens delivered.
    pub tokens: u64,
    /// Prompt tokens of the requests that got their first token.
    pub prompt_tokens: u32,
    /// Whether to fill `outputs`.
    pub keep_outputs: bool,
}

impl UpdateReport {
    fn clear(&mut self) {
        self.outputs.clear();
        self.finished.clear();
        self.other_gaps.clear();
        self.regular_gaps = 0;
        self.tokens = 0;
        self.prompt_tokens = 0;
    }
}

impl Scheduler {
    /// Applies the output of `batch`, whose tokens reach the client at `now`; `previous` is when those of the update before did.
    /// `token` gives the value of request `serial`'s `n`-th output (prefix caching only).
    pub fn update(
        &mut self,
        batch: &Batch,
        now: Picoseconds,
        previous: Picoseconds,
        token: &dyn Fn(u32, u32) -> u32,
        report: &mut UpdateReport,
    ) {
        report.clear();
        let open = self.cohort.is_open();
        self.update_cohort(batch, now, report);
        let strays = std::iter::from_fn(|| self.cohort.take_stray()).collect::<Vec<_>>();
        for item in strays.iter().chain(&batch.items) {
            let request = &mut self.requests[item.id];
            if request.serial != item.serial || request.status == Status::Gone {
                continue; // finished or aborted while this step was in flight
            }
            request.in_flight_tokens -= item.num_tokens;
            let stale = request.stale_tokens > 0;
            if stale {
                request.stale_tokens -= item.num_tokens;
            }
            if !item.samples {
                continue;
            }
            request.num_tokens += 1;
            let first = request.first_token == Picoseconds::MAX;
            if first {
                request.first_token = now;
                report.prompt_tokens += request.prompt_tokens;
            } else if request.last_token == previous {
                report.regular_gaps += 1;
            } else {
                report.other_gaps.push(now - request.last_token);
            }
            if first || request.last_token != now {
                request.chunks += 1;
            }
            request.last_token = now;
            report.tokens += 1;
            if report.keep_outputs {
                report.outputs.push(item.serial);
            }
            let (serial, nth) = (request.serial, request.num_output_tokens());
            self.kv
                .append_token(item.id, request.adapter, || token(serial, nth));
            let was_running = request.status == Status::Running;
            if self.config.async_scheduling {
                if !stale {
                    request.num_output_placeholders -= 1;
                }
                if was_running {
                    let known = request.num_computed_tokens - request.num_output_placeholders;
                    self.kv.publish(item.id, &self.requests[item.id], known);
                }
            }
            if let Some(reason) = self.finish_reason(&self.requests[item.id]) {
                self.finish(item.id, was_running, reason, report);
            } else if self.requests[item.id].joined != NOT_MEMBER {
                self.cohort.own_token(&mut self.requests[item.id], now);
            } else if open && was_running && self.cohort.join(item.id, &mut self.requests[item.id], now) {
                self.hold_place(self.requests[item.id].adapter);
                self.admission_settled = false;
            }
        }
    }

    /// The members of the cohort get their tokens.
    fn update_cohort(&mut self, batch: &Batch, now: Picoseconds, report: &mut UpdateReport) {
        if batch.num_cohort == 0 {
            return;
        }
        // Members never miss a step, so their gap is the regular one.
        let seqs = self.cohort.advance(batch.num_cohort, now);
        report.regular_gaps += seqs;
        report.tokens += u64::from(seqs);
        while let Some(id) = self.cohort.pop_ended(&self.requests) {
            self.leave_cohort(id, false);
            if let Some(reason) = self.finish_reason(&self.requests[id]) {
                self.finish(id, true, reason, report);
            }
        }
    }

    fn finish_reason(&self, request: &Request) -> Option<FinishReason> {
        let outputs = request.num_output_tokens();
        let length = outputs >= request.max_tokens || request.num_tokens >= self.config.max_model_len;
        let stop = outputs == request.stop_at && request.stop_at != NEVER;
        match (length, stop) {
            (false, false) => None,
            (true, true) if self.rules.length_before_stop => Some(FinishReason::Length),
            (_, true) => Some(FinishReason::Stop),
            (true, false) => Some(FinishReason::Length),
        }
    }

    fn finish(&mut self, id: RequestId, was_running: bool, reason: FinishReason, report: &mut UpdateReport) {
        if self.requests[id].joined != NOT_MEMBER {
            self.leave_cohort(id, false); // with the token that was in flight when it joined
        }
        if was_running {
            self.running.remove(id, &self.requests);
        } else {
            self.dequeue(id); // async: preempted with its last token in flight
        }
        self.kv.release(id, &mut self.requests[id]);
        report.finished.push(Finished {
            request: self.requests[id].clone(),
            reason,
        });
        self.requests.remove(id);
        self.finished_pending = true;
        self.admission_settled = false;
    }
}
