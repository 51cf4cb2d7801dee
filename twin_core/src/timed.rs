//! The driver of simulated time: traffic in, costs from the profile, measures out.

mod connections;
mod segment;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::api_server::ApiServer;
use crate::cost::{CostModel, step_values};
use crate::early_stop::{EarlyStopSpec, StopReason, Watch};
use crate::engine::{Batch, NewRequest, Scheduler, UpdateReport};
use crate::error::{Result, TwinError};
use crate::fleet::Outbox;
use crate::lora::{AdapterId, LoraEvent, Moment};
use crate::metrics::Recorder;
use crate::policies::LoraLoading;
use crate::simulator::{Driver, Engine, Flow};
use crate::time::Picoseconds;
use crate::workload::Traffic;

/// Iterations between two looks at the cancel flag: a few milliseconds of work.
const CANCEL_EVERY: u64 = 4096;

/// What frames a run, beside traffic and costs.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    /// Adapters are numbered `1..=num_adapters`.
    pub num_adapters: u32,
    /// Requests in flight beyond which connections are refused.
    pub max_connections: Option<u32>,
    /// Pause between two polls of `/metrics`, if anybody polls.
    pub metrics_poll: Option<Picoseconds>,
    /// Prompts of this length and more are refused by the API server.
    pub max_model_len: u32,
    /// Prompts need token ids.
    pub prefix_caching: bool,
    /// The next step is scheduled while one is in flight.
    pub asynchronous: bool,
    /// When the client stops; `None` to wait for what is in flight.
    pub end: Option<Picoseconds>,
    /// When to stop before that.
    pub early_stop: EarlyStopSpec,
    /// Whether loads and compute of a step come one after the other.
    pub lora_loading: LoraLoading,
    /// Adapters that are loaded between two steps, in order of time (`/v1/load_lora_adapter`).
    pub loads: VecDeque<(Picoseconds, AdapterId)>,
    /// What a router is told.
    pub outbox: Option<Outbox>,
}

/// Time, traffic and measures of one run.
pub struct TimedDriver<'a, T: Traffic> {
    /// What arrives.
    pub traffic: T,
    cost: &'a CostModel,
    cancel: &'a AtomicBool,
    /// Measures so far.
    pub recorder: Recorder,
    api_server: ApiServer<'a>,
    /// Requests on their way from the client to the scheduler, with the instant at which the API server has dealt with them.
    ingress: VecDeque<(Picoseconds, NewRequest)>,
    in_flight: u32,
    max_connections: u32,
    max_model_len: u32,
    prefix_caching: bool,
    asynchronous: bool,
    lora_loading: LoraLoading,
    loads: VecDeque<(Picoseconds, AdapterId)>,
    /// What a router is told, where there is one that listens.
    pub outbox: Option<Outbox>,
    now: Picoseconds,
    /// Until then a router hears nothing of the steps to come, unless it sends a request; 0 where that is not known.
    calm_until: Picoseconds,
    /// When the GPU has done all that was launched.
    gpu_free: Picoseconds,
    /// When tokens last reached the client.
    delivered: Picoseconds,
    previous_delivered: Picoseconds,
    /// The client stops here; `None` when draining.
    end: Option<Picoseconds>,
    running: usize,
    waiting: usize,
    iterations: u64,
    arrivals: u64,
    looked_at: u64,
    cancelled: bool,
    watch: Option<Watch>,
    refused: bool,
    stopped: Option<(Picoseconds, StopReason)>,
}

impl<'a, T: Traffic> TimedDriver<'a, T> {
    /// A run of `traffic` under `cost`.
    pub fn new(
        traffic: T,
        cost: &'a CostModel,
        cancel: &'a AtomicBool,
        recorder: Recorder,
        conditions: Conditions,
    ) -> Self {
        Self {
            traffic,
            cost,
            cancel,
            recorder,
            api_server: ApiServer::new(cost, conditions.num_adapters, conditions.metrics_poll),
            ingress: VecDeque::new(),
            in_flight: 0,
            max_connections: conditions.max_connections.unwrap_or(u32::MAX),
            max_model_len: conditions.max_model_len,
            prefix_caching: conditions.prefix_caching,
            asynchronous: conditions.asynchronous,
            lora_loading: conditions.lora_loading,
            loads: conditions.loads,
            outbox: conditions.outbox,
            now: 0,
            calm_until: 0,
            gpu_free: 0,
            delivered: 0,
            previous_delivered: 0,
            end: conditions.end,
            running: 0,
            waiting: 0,
            iterations: 0,
            arrivals: 0,
            looked_at: 0,
            cancelled: false,
            watch: conditions
                .end
                .filter(|_| conditions.early_stop.is_on())
                .map(|end| Watch::new(conditions.early_stop, end)),
            refused: false,
            stopped: None,
        }
    }

    /// When tokens last reached the client.
    pub fn last_delivery(&self) -> Picoseconds {
        self.delivered
    }

    /// The instant before which a router that sends nothing hears nothing, where `batch` is waited for.
    pub fn silent_until(&self, batch: &Batch) -> Picoseconds {
        self.now.max(batch.end).max(self.calm_until)
    }

    /// A request that was not known has been sent: the steps to come may be others.
    pub fn disturb(&mut self) {
        self.calm_until = 0;
    }

    /// When and why the run was stopped before its time.
    pub fn stopped(&self) -> Option<(Picoseconds, StopReason)> {
        self.stopped
    }

    /// Requests have finished: a look at whether the run may end.
    fn watch(&mut self) {
        let Some(watch) = self.watch.as_mut().filter(|watch| watch.is_due(self.delivered)) else {
            return;
        };
        let backlog = self.waiting > 0 || self.refused;
        self.refused = false;
        let progress = self.recorder.progress(self.delivered, self.arrivals, backlog);
        self.stopped = watch.look(progress).map(|reason| (self.delivered, reason));
    }

    fn ingress_delay(&self) -> Picoseconds {
        self.cost.ingress(self.running, self.waiting)
    }

    /// When the next request becomes visible to the scheduler.
    fn next_visible(&self) -> Option<Picoseconds> {
        let turn = match self.ingress.front() {
            Some(&(turn, _)) => turn,
            // A full server lets nobody in, and the arrivals at hand may be long past.
            None if self.is_full() => return None,
            None => self.traffic.peek()?,
        };
        Some(turn + self.ingress_delay())
    }

    fn jump_to_next(&mut self) -> Flow {
        let load = self.loads.front().map(|&(at, _)| at);
        let next = match (self.next_visible(), load) {
            (Some(visible), Some(load)) => Some(visible.min(load)),
            (visible, load) => visible.or(load),
        };
        // Whatever is to come before the next event is known only up to there.
        let known = self.traffic.known_until();
        match next {
            Some(at) if self.end.is_some_and(|end| at >= end) => Flow::Stop,
            Some(at) if at < known => {
                self.now = self.now.max(at);
                Flow::Continue
            }
            None if known == Picoseconds::MAX => Flow::Stop,
            _ => Flow::Pause,
        }
    }

    /// At the end of the run: connections up to the end are still counted, gauges are integrated to the end.
    /// Returns (waiting on the way, the recorder).
    pub fn finish(mut self, end: Picoseconds, scheduler: &Scheduler) -> Result<(u64, Recorder)> {
        self.accept(end);
        if self.is_full() {
            self.refuse(end);
        }
        if self.cancelled {
            return Err(TwinError::Interrupted);
        }
        self.recorder.unseen(&self.traffic.unseen());
        self.recorder.hold(end);
        for request in scheduler.requests.iter() {
            self.recorder.unfinished(request, end);
        }
        for (_, new) in &self.ingress {
            self.recorder.on_the_way(new, end);
        }
        Ok((self.ingress.len() as u64, self.recorder))
    }
}

impl<T: Traffic> Driver for TimedDriver<'_, T> {
    fn idle(&mut self) -> Flow {
        (self.running, self.waiting) = (0, 0);
        self.jump_to_next()
    }

    fn between_steps(&mut self, engine: &mut Engine) {
        while let Some(&(at, adapter)) = self.loads.front()
            && at <= self.now
        {
            self.loads.pop_front();
            if let Some(lora) = engine.lora.as_mut() {
                let moment = Moment {
                    now: self.now,
                    scheduler: &engine.scheduler,
                };
                let mut events = Vec::new();
                lora.load(adapter, moment, &mut events);
                let time = events.iter().map(|&event| self.cost.loads.of(event)).sum();
                self.now = self.now.max(self.gpu_free) + time;
                self.recorder.load(&events, time);
                if let Some(outbox) = &mut self.outbox {
                    outbox.lora(&events, self.now);
                }
            }
        }
    }

    fn knows(&self, batch: Option<&Batch>) -> bool {
        let until = batch.map_or(self.now, |batch| self.now.max(batch.end));
        until < self.traffic.known_until()
    }

    fn now(&self) -> Picoseconds {
        self.now
    }

    fn deliver(&mut self, scheduler: &mut Scheduler) {
        self.accept(self.now);
        if self.ingress.is_empty() {
            return;
        }
        let delay = self.ingress_delay();
        while self
            .ingress
            .front()
            .is_some_and(|&(turn, _)| turn + delay <= self.now)
            && let Some((_, mut new)) = self.ingress.pop_front()
        {
            if self.prefix_caching && new.prompt.is_empty() {
                new.prompt = unshared_prompt(&new);
            }
            scheduler.add_request(&new);
            if let Some(outbox) = &mut self.outbox {
                outbox.begins(new.adapter, self.now);
            }
        }
    }

    fn launched(&mut self, engine: &mut Engine, batch: &mut Batch, events: &[LoraEvent]) {
        self.calm_until = 0;
        let scheduler = &engine.scheduler;
        self.recorder.observe(self.now, scheduler, batch.adapters.len());
        let (running, waiting) = (scheduler.running.len(), scheduler.num_waiting());
        (self.running, self.waiting) = (running, waiting);
        if let Some(outbox) = &mut self.outbox {
            outbox.lora(events, self.now);
            outbox.load(scheduler, self.now);
        }
        if batch.is_empty() {
            batch.end = self.now.max(self.gpu_free);
            self.recorder.step(self.now, 0, batch, scheduler);
            return;
        }
        self.recorder.lora(events);
        self.api_server.ran(&batch.adapters);
        let load: Picoseconds = events.iter().map(|&event| self.cost.loads.of(event)).sum();
        let values = step_values(batch, running, waiting);
        let launch = if self.asynchronous {
            self.now + self.cost.host(&values)
        } else {
            self.now
        };
        let start = launch.max(self.gpu_free);
        let duration = self.cost.step(&values);
        batch.end = start
            + match self.lora_loading {
                LoraLoading::Blocking => load + duration,
                LoraLoading::Overlapped => load.max(duration),
            };
        batch.egress = self.cost.egress(&values);
        self.gpu_free = batch.end;
        self.recorder.step(start, load, batch, scheduler);
        self.now = launch;
        self.repeat(engine, batch, &values, duration);
    }

    fn stalled(&mut self) -> Flow {
        self.jump_to_next()
    }

    fn completed(&mut self, batch: &Batch) -> Option<(Picoseconds, Picoseconds)> {
        let returned = self.now.max(batch.end);
        self.accept(returned);
        if !batch.is_empty() {
            let ready = returned + batch.egress;
            self.previous_delivered = self.delivered;
            // Tokens cannot overtake those of the step before.
            self.delivered = self.api_server.deliver(ready).max(self.delivered);
        }
        if self.end.is_some_and(|end| self.delivered.max(returned) > end) {
            return None;
        }
        self.now = returned;
        Some((self.delivered, self.previous_delivered))
    }

    fn token(&self, serial: u32, nth: u32) -> u32 {
        unshared_token(serial, u64::from(nth) << 32)
    }

    fn updated(&mut self, engine: &Engine, report: &UpdateReport) {
        if !report.finished.is_empty() && self.is_full() {
            self.refuse(self.now);
        }
        self.in_flight -= report.finished.len() as u32;
        self.recorder
            .update(report, self.delivered - self.previous_delivered);
        if !report.finished.is_empty() {
            let scheduler = &engine.scheduler;
            (self.running, self.waiting) = (scheduler.running.len(), scheduler.num_waiting());
            if let Some(outbox) = &mut self.outbox {
                for finished in &report.finished {
                    outbox.ends(finished.request.adapter, self.now);
                    outbox.left(1, self.delivered);
                }
                outbox.load(scheduler, self.now);
            }
            self.watch();
        }
    }

    fn iterated(&mut self) -> Result<Flow> {
        self.iterations += 1;
        let look = self.iterations.is_multiple_of(CANCEL_EVERY);
        if self.cancelled || (look && self.cancel.load(Ordering::Relaxed)) {
            return Err(TwinError::Interrupted);
        }
        Ok(if self.stopped.is_some() {
            Flow::Stop
        } else {
            Flow::Continue
        })
    }
}

/// A token that no other request has at this place: values matter by equality only.
fn unshared_token(serial: u32, place: u64) -> u32 {
    crate::rng::keyed(1, u64::from(serial), place) as u32
}

/// A prompt that shares no prefix with any other: only a preempted request finds its own blocks again.
fn unshared_prompt(new: &NewRequest) -> Vec<u32> {
    (0..u64::from(new.prompt_tokens))
        .map(|place| unshared_token(new.serial, place))
        .collect()
}
