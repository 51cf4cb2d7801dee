//! Gathers what a run is asked for.

use super::adapters::{AdapterColumns, AdapterCounters};
use super::histogram::Histogram;
use super::objectives::Objectives;
use super::requests::{RequestColumns, RequestStatus, time_per_output_token};
use super::steps::StepColumns;
use super::timeseries::{Gauges, Sampler, TimeseriesColumns};
use crate::early_stop::Progress;
use crate::engine::{Batch, NewRequest, Request, Scheduler, UpdateReport};
use crate::error::{Result, invalid};
use crate::lora::LoraEvent;
use crate::time::Picoseconds;
use crate::workload::Unseen;

/// What to keep beside the summary.
#[derive(Clone, Copy, Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Collect {
    /// One row per request.
    pub requests: bool,
    /// One row per adapter.
    pub adapters: bool,
    /// Interval of the time series, s.
    pub timeseries_s: Option<f64>,
    /// One row per step.
    pub steps: bool,
    /// Keep every latency, so that quantiles are exact; memory then grows with the run.
    pub exact_quantiles: bool,
}

impl Collect {
    /// Checks the numbers.
    pub fn validate(&self) -> Result<()> {
        match self.timeseries_s {
            Some(period) if !(period >= 1e-3 && period.is_finite()) => {
                invalid(format!("timeseries_s ({period}) must be >= 0.001"))
            }
            _ => Ok(()),
        }
    }
}

/// Integrals over time, for means.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Integrals {
    pub running: u128,
    pub waiting: u128,
    pub blocks: u128,
    pub adapters: u128,
}

/// Measures of one run in the making.
#[derive(Debug)]
pub struct Recorder {
    pub(super) counters: Vec<AdapterCounters>,
    pub(super) ttft: Histogram,
    pub(super) tpot: Histogram,
    pub(super) e2el: Histogram,
    pub(super) gap_sum: u128,
    pub(super) gap_count: u64,
    pub(super) gaps: Histogram,
    pub(super) integrals: Integrals,
    pub(super) max_running: u32,
    pub(super) max_waiting: u32,
    pub(super) max_blocks: u32,
    pub(super) preemptions: u64,
    pub(super) steps: u64,
    pub(super) busy: Picoseconds,
    pub(super) load_time: Picoseconds,
    pub(super) tokens_scheduled: u64,
    prompt_tokens: u64,
    pub(super) generation_tokens: u64,
    held_until: Picoseconds,
    gauges: Gauges,
    blocks_used: u32,
    pub(super) objectives: Objectives,
    pub(super) sampler: Option<Sampler>,
    ttft_of_adapter: Vec<Histogram>,
    request_rows: Option<RequestColumns>,
    pub(super) step_rows: Option<StepColumns>,
}

impl Recorder {
    /// For adapters `0..=num_adapters`.
    pub fn new(num_adapters: u32, collect: Collect, objectives: Objectives) -> Self {
        let exact = collect.exact_quantiles;
        Self {
            counters: vec![AdapterCounters::default(); num_adapters as usize + 1],
            ttft_of_adapter: if collect.adapters {
                vec![Histogram::new(exact); num_adapters as usize + 1]
            } else {
                Vec::new()
            },
            ttft: Histogram::new(exact),
            tpot: Histogram::new(exact),
            e2el: Histogram::new(exact),
            gap_sum: 0,
            gap_count: 0,
            gaps: Histogram::new(exact),
            integrals: Integrals::default(),
            max_running: 0,
            max_waiting: 0,
            max_blocks: 0,
            preemptions: 0,
            steps: 0,
            busy: 0,
            load_time: 0,
            tokens_scheduled: 0,
            prompt_tokens: 0,
            generation_tokens: 0,
            held_until: 0,
            gauges: Gauges::default(),
            blocks_used: 0,
            objectives,
            sampler: collect
                .timeseries_s
                .map(|s| Sampler::new(crate::time::from_seconds(s))),
            request_rows: collect.requests.then(RequestColumns::default),
            step_rows: collect.steps.then(StepColumns::default),
        }
    }

    /// A request arrives at the server, or is refused.
    pub fn arrive(&mut self, new: &NewRequest, refused: bool) {
        let counter = &mut self.counters[new.adapter as usize];
        counter.arrived += 1;
        counter.refused += u64::from(refused);
        counter.slo_missed += u64::from(refused);
        counter.offered_tokens += u64::from(new.prompt_tokens) + u64::from(new.max_tokens);
        if let Some(rows) = &mut self.request_rows {
            rows.arrive(
                new,
                if refused {
                    RequestStatus::Refused
                } else {
                    RequestStatus::Unfinished
                },
            );
        }
    }

    /// Whether every request gets a row.
    pub fn keeps_requests(&self) -> bool {
        self.request_rows.is_some()
    }

    /// The row of a request that found no free connection; it is counted in [`Self::unseen`].
    pub fn refuse_unseen(&mut self, new: &NewRequest) {
        if let Some(rows) = &mut self.request_rows {
            rows.arrive(new, RequestStatus::Refused);
        }
    }

    /// Requests of each adapter that found no free connection.
    pub fn unseen(&mut self, of_adapters: &[Unseen]) {
        for (counter, unseen) in self.counters.iter_mut().zip(of_adapters) {
            counter.arrived += unseen.requests;
            counter.refused += unseen.requests;
            counter.slo_missed += unseen.requests;
            counter.offered_tokens += unseen.tokens;
        }
    }

    /// The state of the queues held until `until`; from then on it is that of `scheduler` with `adapters` in the batch.
    pub fn observe(&mut self, until: Picoseconds, scheduler: &Scheduler, adapters: usize) {
        self.hold(until);
        self.observe_held(scheduler, adapters);
    }

    /// The same where the state before has been held until then.
    #[inline]
    pub(super) fn observe_held(&mut self, scheduler: &Scheduler, adapters: usize) {
        let kv = &scheduler.kv;
        self.blocks_used = kv.num_usable_blocks() - kv.num_free_blocks();
        self.gauges.running = scheduler.running.len() as u32;
        self.gauges.waiting = scheduler.num_waiting() as u32;
        self.gauges.adapters_active = adapters as u32;
        // The others are only sampled. (Copying counts that were just written costs dozens of cycles.)
        if self.sampler.is_some() {
            self.gauges.kv_usage = kv.usage();
            self.gauges.preemptions = self.preemptions;
            self.gauges.prompt_tokens = self.prompt_tokens;
            self.gauges.generation_tokens = self.generation_tokens;
        }
        self.max_running = self.max_running.max(self.gauges.running);
        self.max_waiting = self.max_waiting.max(self.gauges.waiting);
        self.max_blocks = self.max_blocks.max(self.blocks_used);
    }

    /// Integrates the present gauges up to `until`.
    #[inline]
    pub fn hold(&mut self, until: Picoseconds) {
        if until <= self.held_until {
            return;
        }
        if let Some(sampler) = &mut self.sampler {
            sampler.hold(until, &self.gauges);
        }
        let span = u128::from(until - self.held_until);
        self.integrals.running += span * u128::from(self.gauges.running);
        self.integrals.waiting += span * u128::from(self.gauges.waiting);
        self.integrals.blocks += span * u128::from(self.blocks_used);
        self.integrals.adapters += span * u128::from(self.gauges.adapters_active);
        self.held_until = until;
    }

    /// A step of `load` + compute begins at `start` and ends at `batch.end`.
    pub fn step(&mut self, start: Picoseconds, load: Picoseconds, batch: &Batch, scheduler: &Scheduler) {
        self.preemptions += batch.preempted.len() as u64;
        if batch.is_empty() {
            return;
        }
        self.steps += 1;
        self.busy += batch.end - start;
        self.load_time += load;
        self.tokens_scheduled += u64::from(batch.totals.tokens);
        if let Some(rows) = &mut self.step_rows {
            rows.push(start, load, batch, scheduler);
        }
    }

    /// Adapter caches at work.
    pub fn lora(&mut self, events: &[LoraEvent]) {
        for event in events {
            match *event {
                LoraEvent::Load(adapter) => self.counters[adapter as usize].loads_disk += 1,
                LoraEvent::Activate(adapter, _) => self.counters[adapter as usize].loads_memory += 1,
                LoraEvent::EvictCpu(_) | LoraEvent::Deactivate(_) => {}
            }
        }
    }

    /// Adapters loaded between two steps, for which the engine stood still for `time`.
    pub fn load(&mut self, events: &[LoraEvent], time: Picoseconds) {
        self.lora(events);
        self.load_time += time;
    }

    /// Tokens reached the client, `regular_gap` after those of the update before.
    pub fn update(&mut self, report: &UpdateReport, regular_gap: Picoseconds) {
        self.generation_tokens += report.tokens;
        self.prompt_tokens += u64::from(report.prompt_tokens);
        // Tokens that leave together are one chunk: no gap between them.
        if report.regular_gaps > 0 && regular_gap > 0 {
            self.gaps.add(regular_gap, u64::from(report.regular_gaps));
        }
        for &gap in &report.other_gaps {
            self.gaps.add(gap, 1);
        }
        for finished in &report.finished {
            self.finish(&finished.request);
        }
    }

    fn finish(&mut self, request: &Request) {
        let counter = &mut self.counters[request.adapter as usize];
        counter.finished += 1;
        counter.input_tokens += u64::from(request.prompt_tokens);
        counter.output_tokens += u64::from(request.num_output_tokens());
        let ttft = request.first_token - request.arrival;
        counter.ttft.0 += u128::from(ttft);
        counter.ttft.1 += 1;
        if self.objectives.met(request) {
            counter.slo_met += 1;
        } else {
            counter.slo_missed += 1;
        }
        self.ttft.add(ttft, 1);
        if let Some(histogram) = self.ttft_of_adapter.get_mut(request.adapter as usize) {
            histogram.add(ttft, 1);
        }
        self.e2el.add(request.last_token - request.arrival, 1);
        if let Some(tpot) = time_per_output_token(request) {
            counter.tpot.0 += u128::from(tpot);
            counter.tpot.1 += 1;
            self.tpot.add(tpot, 1);
            self.gap_sum += u128::from(request.last_token - request.first_token);
            self.gap_count += u64::from(request.chunks - 1);
        }
        if let Some(rows) = &mut self.request_rows {
            rows.leave(request, RequestStatus::Finished);
        }
    }

    /// A request is still on its way to the scheduler at the end.
    pub fn on_the_way(&mut self, new: &NewRequest, end: Picoseconds) {
        let missed = self
            .objectives
            .missed_in_flight(new.arrival, Picoseconds::MAX, end);
        self.counters[new.adapter as usize].slo_missed += u64::from(missed);
    }

    /// A request is still in flight at the end.
    pub fn unfinished(&mut self, request: &Request, end: Picoseconds) {
        let missed = self
            .objectives
            .missed_in_flight(request.arrival, request.first_token, end);
        self.counters[request.adapter as usize].slo_missed += u64::from(missed);
        if let Some(rows) = &mut self.request_rows {
            rows.leave(request, RequestStatus::Unfinished);
        }
    }

    /// The run up to `at`, where `arrived` requests have been sent; `backlog` as [`Progress`] has it.
    pub fn progress(&self, at: Picoseconds, arrived: u64, backlog: bool) -> Progress {
        let mut progress = Progress {
            at,
            arrived,
            scheduled_tokens: self.tokens_scheduled,
            ttft: self.ttft.sum(),
            tpot: self.tpot.sum(),
            backlog,
            ..Progress::default()
        };
        for counter in &self.counters {
            progress.accepted.0 += counter.arrived;
            progress.accepted.1 += counter.offered_tokens;
            progress.finished.0 += counter.finished;
            progress.finished.1 += counter.input_tokens + counter.output_tokens;
        }
        progress
    }

    /// Adds the scalars that another server measured over the same time; largest values are those of any server. Frames stay
    /// with their server.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counters.iter_mut().zip(&other.counters) {
            mine.add(theirs);
        }
        for (mine, theirs) in self.ttft_of_adapter.iter_mut().zip(&other.ttft_of_adapter) {
            mine.merge(theirs);
        }
        self.ttft.merge(&other.ttft);
        self.tpot.merge(&other.tpot);
        self.e2el.merge(&other.e2el);
        self.gaps.merge(&other.gaps);
        self.gap_sum += other.gap_sum;
        self.gap_count += other.gap_count;
        self.integrals.running += other.integrals.running;
        self.integrals.waiting += other.integrals.waiting;
        self.integrals.blocks += other.integrals.blocks;
        self.integrals.adapters += other.integrals.adapters;
        self.max_running = self.max_running.max(other.max_running);
        self.max_waiting = self.max_waiting.max(other.max_waiting);
        self.max_blocks = self.max_blocks.max(other.max_blocks);
        self.preemptions += other.preemptions;
        self.steps += other.steps;
        self.busy += other.busy;
        self.load_time += other.load_time;
        self.tokens_scheduled += other.tokens_scheduled;
        self.prompt_tokens += other.prompt_tokens;
        self.generation_tokens += other.generation_tokens;
    }

    /// Requests that arrived, refused ones included.
    pub fn arrived(&self) -> u64 {
        self.counters.iter().map(|c| c.arrived).sum()
    }

    /// Prompt and output tokens of the finished requests.
    pub fn served_tokens(&self) -> u64 {
        self.counters
            .iter()
            .map(|c| c.input_tokens + c.output_tokens)
            .sum()
    }

    /// The frames that were asked for.
    pub fn into_frames(self, ranks: &[u32], rates: &[f64], adapters: bool) -> Frames {
        Frames {
            requests: self.request_rows,
            adapters: adapters
                .then(|| AdapterColumns::gather(&self.counters, self.ttft_of_adapter, ranks, rates)),
            timeseries: self.sampler.map(Sampler::finish),
            steps: self.step_rows,
        }
    }
}

/// The frames of a run.
#[derive(Clone, Debug, Default)]
pub struct Frames {
    /// One row per request.
    pub requests: Option<RequestColumns>,
    /// One row per adapter.
    pub adapters: Option<AdapterColumns>,
    /// Sampled gauges.
    pub timeseries: Option<TimeseriesColumns>,
    /// One row per step.
    pub steps: Option<StepColumns>,
}
