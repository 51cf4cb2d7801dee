//! vLLM's scheduler: state, arrivals, aborts, and the running half of schedule().
//!
//! There is no prefill or decode phase: each request has `num_computed_tokens` and catches up with its known tokens under one
//! token budget (vLLM 0.32 and 0.8.5 `v1/core/sched/scheduler.py`).

use super::ageing::Ageing;
use super::batch::{Batch, BatchItem, Kind};
use super::cohort::Cohort;
use super::places::Places;
use super::request::{NOT_MEMBER, NewRequest, Request, RequestId, Requests, Status};
use super::running::RunningList;
use super::waiting::WaitingQueue;
use crate::config::{EngineConfig, SchedulingPolicy};
use crate::kv_cache::KvCacheManager;
use crate::rules::Rules;
use crate::time::{Picoseconds, from_seconds};

/// How much is kept of a run; decisions and times are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fidelity {
    /// Block ids, and every request touched in every step.
    Exact,
    /// Block counts, and requests that plainly decode kept as one (not under prefix caching, which needs block ids).
    Fast,
}

impl Fidelity {
    /// As documents ask for it.
    pub fn of(exact: bool) -> Self {
        if exact { Self::Exact } else { Self::Fast }
    }
}

/// Scheduler state of one engine.
#[derive(Debug)]
pub struct Scheduler {
    pub(super) config: EngineConfig,
    pub(super) rules: Rules,
    /// Requests in flight.
    pub requests: Requests,
    /// Running requests in order of admission.
    pub running: RunningList,
    pub(super) waiting: WaitingQueue,
    /// KV blocks.
    pub kv: KvCacheManager,
    /// Running requests that plainly decode, in fast mode.
    pub(super) cohort: Cohort,
    /// Admission with ageing, where it is asked for.
    pub(super) ageing: Option<Ageing>,
    /// The last step admitted nobody, and nothing has happened since that could change it.
    pub(super) admission_settled: bool,
    /// Ids finished since the last schedule(): vLLM runs one more (empty) schedule to tell the workers.
    pub(super) finished_pending: bool,
    /// Adapters of the cohort and of the items of the step.
    pub(super) places: Places,
    /// Adapters of the items of the latest step, whose places go back when the next one is scheduled.
    item_adapters: Vec<u32>,
    /// The set of adapters in the latest batch that was not empty.
    was_in_batch: Vec<bool>,
    pub(super) hits: Vec<u32>,
}

impl Scheduler {
    /// A scheduler over `num_blocks` KV blocks for adapters `1..=num_adapters`.
    pub fn new(
        config: &EngineConfig,
        rules: Rules,
        num_blocks: u32,
        num_adapters: u32,
        fidelity: Fidelity,
    ) -> Self {
        let fast = fidelity == Fidelity::Fast
            && !config.enable_prefix_caching
            && rules == Rules::of(config.engine_version);
        let with_ids = fidelity == Fidelity::Exact;
        let mut waiting = WaitingQueue::new(config.scheduling_policy, num_adapters);
        waiting.set_open(0, rules.base_model_unblocked);
        Self {
            config: config.clone(),
            rules,
            requests: Requests::default(),
            running: RunningList::default(),
            waiting,
            kv: KvCacheManager::new(config, rules, num_blocks, with_ids),
            cohort: Cohort::new(fast, config),
            ageing: config
                .policies
                .admission_ageing_s
                .filter(|_| config.lora_enabled())
                .map(|limit| Ageing::new(from_seconds(limit), num_adapters)),
            admission_settled: false,
            finished_pending: false,
            places: Places::new(num_adapters),
            item_adapters: Vec::new(),
            was_in_batch: vec![false; num_adapters as usize + 1],
            hits: Vec::new(),
        }
    }

    /// Requests that wait.
    pub fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Waiting requests, in queue order.
    pub fn waiting_ids(&self) -> Vec<RequestId> {
        self.waiting.ids()
    }

    /// Whether there is anything to schedule, or finished ids still to be told (vLLM has_requests()).
    pub fn has_requests(&self) -> bool {
        self.has_unfinished() || self.finished_pending
    }

    /// Whether any request runs or waits.
    pub fn has_unfinished(&self) -> bool {
        !self.running.is_empty() || !self.waiting.is_empty()
    }

    /// A request arrives.
    pub fn add_request(&mut self, new: &NewRequest) -> RequestId {
        let id = self.requests.insert(Request::from(new));
        self.kv.begin(id, new.adapter, &new.prompt);
        self.enqueue(id, false);
        self.admission_settled = false;
        id
    }

    /// The client gives up: the request leaves at once, wherever it is.
    pub fn abort(&mut self, id: RequestId) {
        self.settle();
        if self.requests[id].status == Status::Running {
            self.running.remove(id, &self.requests);
        } else {
            self.dequeue(id);
        }
        self.kv.release(id, &mut self.requests[id]);
        self.requests.remove(id);
        self.finished_pending = true;
    }

    pub(super) fn enqueue(&mut self, id: RequestId, at_head: bool) {
        let request = &self.requests[id];
        self.waiting
            .push(id, request.adapter, request.priority, request.order, at_head);
    }

    pub(super) fn dequeue(&mut self, id: RequestId) {
        self.waiting.remove(id, self.requests[id].adapter);
    }

    /// Whether requests of the adapter wait.
    pub fn waits(&self, adapter: u32) -> bool {
        self.waiting.head(adapter).is_some()
    }

    /// Decides the next step into `batch`, at the instant `now`.
    pub fn schedule(&mut self, batch: &mut Batch, now: Picoseconds) {
        batch.clear();
        self.running.compact(&mut self.requests);
        for at in 0..self.item_adapters.len() {
            self.release_place(self.item_adapters[at]);
        }
        self.item_adapters.clear();
        let mut budget = self.config.token_budget();
        let threshold = self.prefill_threshold();
        let first = self.schedule_cohort(batch, &mut budget);
        self.schedule_running(batch, &mut budget, threshold, first);
        self.hold_places(batch);
        let none_preempted = batch.preempted.is_empty() || !self.rules.no_admission_after_preemption;
        if none_preempted && !self.admission_settled {
            self.close_for_aged(now);
            self.schedule_waiting(batch, &mut budget, threshold);
            // Whoever is admitted is an item of the batch. With ageing, time alone changes who is.
            self.admission_settled = batch.items.is_empty() && batch.num_cohort > 0 && self.ageing.is_none();
        }
        self.finished_pending = false;
        self.commit(batch);
    }

    /// `long_prefill_token_threshold` for this step; 0 = no cut.
    fn prefill_threshold(&self) -> u32 {
        let eligible = (self.running.len() + self.waiting.len()) as u32;
        let threshold = self.config.long_prefill_token_threshold;
        if threshold == 0 || (eligible <= 1 && !self.rules.threshold_when_alone) {
            0
        } else if self.config.long_prefill_token_threshold_adaptive {
            threshold.max(self.config.max_num_batched_tokens / eligible.max(1))
        } else {
            threshold
        }
    }

    fn schedule_running(&mut self, batch: &mut Batch, budget: &mut u32, threshold: u32, first: usize) {
        let mut at = first;
        while at < self.running.end() && *budget > 0 {
            let Some(id) = self.running.get(at) else {
                at += 1;
                continue;
            };
            let request = &self.requests[id];
            let placeholders = request.num_output_placeholders;
            if placeholders > 0
                && self.rules.skip_complete_in_flight
                && request.num_computed_tokens + 2
                    >= request.prompt_tokens + request.max_tokens + placeholders
            {
                at += 1;
                continue;
            }
            let room = self
                .config
                .max_model_len
                .saturating_sub(request.num_computed_tokens + self.rules.reserved_positions);
            let missing = request.num_tokens_with_placeholders() - request.num_computed_tokens;
            let num_tokens = cut(missing, threshold).min(*budget).min(room);
            if num_tokens == 0 {
                at += 1;
                continue;
            }
            while !self.kv.grow(id, &mut self.requests[id], num_tokens) {
                let victim = self.preempt(batch, budget, at);
                if victim == Some(id) {
                    return;
                }
            }
            batch.items.push(self.item(id, num_tokens, Kind::Continued));
            *budget -= num_tokens;
            at += 1;
        }
    }

    fn item(&self, id: RequestId, num_tokens: u32, kind: Kind) -> BatchItem {
        let request = &self.requests[id];
        BatchItem {
            id,
            serial: request.serial,
            num_tokens,
            position: request.num_computed_tokens,
            samples: false,
            kind,
        }
    }

    pub(super) fn push_admitted(&self, batch: &mut Batch, id: RequestId, num_tokens: u32, kind: Kind) {
        batch.items.push(self.item(id, num_tokens, kind));
    }

    /// Preempts one running request and puts it back into the queue; those before position `at` are scheduled already.
    pub(super) fn preempt(&mut self, batch: &mut Batch, budget: &mut u32, at: usize) -> Option<RequestId> {
        let victim = match self.config.scheduling_policy {
            SchedulingPolicy::Fcfs if self.rules.preempt_last => self.running.last(),
            SchedulingPolicy::Fcfs => self.running.iter().next(),
            SchedulingPolicy::Priority => self.lowest_priority(),
        }?;
        self.running.remove(victim, &self.requests);
        if (self.requests[victim].running_at as usize) < at
            && let Some(scheduled) = batch.items.iter().position(|item| item.id == victim)
        {
            let item = batch.items.remove(scheduled);
            if self.rules.return_budget {
                *budget += item.num_tokens;
            }
        }
        if self.requests[victim].joined != NOT_MEMBER {
            self.leave_cohort(victim, true);
            self.cohort.drop_stale(&self.requests);
        }
        self.kv.release(victim, &mut self.requests[victim]);
        let request = &mut self.requests[victim];
        request.status = Status::Preempted;
        request.num_computed_tokens = 0;
        request.stale_tokens = request.in_flight_tokens;
        request.num_output_placeholders = 0;
        request.num_preemptions += 1;
        self.enqueue(victim, self.rules.requeue_at_head);
        self.admission_settled = false;
        batch.preempted.push(victim);
        Some(victim)
    }

    /// The running request of the largest (priority, arrival time), the first of equals.
    fn lowest_priority(&self) -> Option<RequestId> {
        self.running.iter().reduce(|worst, id| {
            let (a, b) = (&self.requests[id], &self.requests[worst]);
            if (a.priority, a.order.0) > (b.priority, b.order.0) {
                id
            } else {
                worst
            }
        })
    }

    /// The adapters of the running requests in the batch hold the `max_loras` places; those of the cohort do so while it lasts.
    fn hold_places(&mut self, batch: &Batch) {
        for item in &batch.items {
            self.hold_item_place(item.id);
        }
        if !self.rules.adapters_of_scheduled_only {
            for at in 0..self.running.end() {
                if let Some(id) = self.running.get(at) {
                    self.hold_item_place(id);
                }
            }
        }
    }

    pub(super) fn hold_item_place(&mut self, id: RequestId) {
        let adapter = self.requests[id].adapter;
        self.item_adapters.push(adapter);
        self.hold_place(adapter);
    }

    pub(super) fn hold_place(&mut self, adapter: u32) {
        if self.places.hold(adapter) {
            let closed = self
                .ageing
                .as_ref()
                .is_some_and(|ageing| ageing.is_closed(adapter));
            self.waiting.set_open(adapter, !closed);
        }
    }

    pub(super) fn release_place(&mut self, adapter: u32) {
        if self.places.release(adapter) {
            self.waiting.set_open(adapter, false);
        }
    }

    /// Advances the scheduled requests (vLLM `_update_after_schedule`) and adds up the step.
    fn commit(&mut self, batch: &mut Batch) {
        let asynchronous = self.config.async_scheduling;
        let totals = &mut batch.totals;
        for item in &mut batch.items {
            let request = &mut self.requests[item.id];
            request.num_computed_tokens += item.num_tokens;
            request.in_flight_tokens += item.num_tokens;
            item.samples = request.num_computed_tokens >= request.num_tokens_with_placeholders();
            if asynchronous && item.samples {
                request.num_output_placeholders += 1;
            }
            totals.tokens += item.num_tokens;
            totals.context_tokens += u64::from(item.position);
            totals.lora_seqs += u32::from(request.adapter != 0);
            if item.num_tokens == 1 && item.position >= request.prompt_tokens {
                totals.decode_seqs += 1;
            } else {
                totals.prefill_seqs += 1;
                totals.prefill_tokens += item.num_tokens;
            }
        }
        let members = batch.num_cohort;
        if members > 0 {
            totals.tokens += members;
            totals.decode_seqs += members;
        }
        totals.running = self.running.len() as u32;
        totals.waiting = self.waiting.len() as u32;
        if batch.is_empty() {
            return;
        }
        batch.adapters.extend_from_slice(self.places.list());
        let was_in_batch = &mut self.was_in_batch;
        self.places.drain_changes(|adapter, is_in_batch| {
            let was = std::mem::replace(&mut was_in_batch[adapter as usize], is_in_batch);
            match (was, is_in_batch) {
                (false, true) => batch.joined_adapters.push(adapter),
                (true, false) => batch.left_adapters.push(adapter),
                _ => {}
            }
        });
    }
}

/// A prefill cut to the threshold, where there is one.
pub(super) fn cut(num_tokens: u32, threshold: u32) -> u32 {
    if threshold == 0 {
        num_tokens
    } else {
        num_tokens.min(threshold)
    }
}
