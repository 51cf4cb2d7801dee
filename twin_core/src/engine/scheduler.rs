//! vLLM's scheduler: state, arrivals, aborts, and the running half of schedule().
//!
//! There is no prefill or decode phase: each request has `num_computed_tokens` and catches up with its known tokens under one
//! token budget (vLLM 0.32 and 0.8.5 `v1/core/sched/scheduler.py`).

use super::batch::{Batch, BatchItem, Kind};
use super::cohort::Cohort;
use super::request::{NOT_MEMBER, NewRequest, Request, RequestId, Requests, Status};
use super::waiting::WaitingQueue;
use crate::config::{EngineConfig, SchedulingPolicy};
use crate::kv_cache::KvCacheManager;
use crate::rules::Rules;

/// How much is kept of a run; decisions and times are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fidelity {
    /// Block ids, and every request touched in every step.
    Exact,
    /// Block counts, and requests that plainly decode kept as one (where async scheduling, prefix caching or priorities do
    /// not ask for more).
    Fast,
}

/// Scheduler state of one engine.
#[derive(Debug)]
pub struct Scheduler {
    pub(super) config: EngineConfig,
    pub(super) rules: Rules,
    /// Requests in flight.
    pub requests: Requests,
    /// Running requests in order of admission.
    pub running: Vec<RequestId>,
    pub(super) waiting: WaitingQueue,
    /// KV blocks.
    pub kv: KvCacheManager,
    /// Running requests that plainly decode, in fast mode.
    pub(super) cohort: Cohort,
    /// The last step admitted nobody, and nothing has happened since that could change it.
    pub(super) admission_settled: bool,
    /// Ids finished since the last schedule(): vLLM runs one more (empty) schedule to tell the workers.
    pub(super) finished_pending: bool,
    /// Step in which an adapter was last counted into the batch's set.
    pub(super) adapter_stamp: Vec<u64>,
    pub(super) stamp: u64,
    pub(super) hits: Vec<u32>,
    pub(super) candidates: Vec<super::admission::Candidate>,
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
            && !config.async_scheduling
            && !config.enable_prefix_caching
            && config.scheduling_policy == SchedulingPolicy::Fcfs
            && rules == Rules::of(config.engine_version);
        let with_ids = fidelity == Fidelity::Exact;
        Self {
            config: config.clone(),
            rules,
            requests: Requests::default(),
            running: Vec::new(),
            waiting: WaitingQueue::new(config.scheduling_policy, num_adapters),
            kv: KvCacheManager::new(config, rules, num_blocks, with_ids),
            cohort: Cohort::new(fast, config.block_size, config.max_model_len, num_adapters),
            admission_settled: false,
            finished_pending: false,
            adapter_stamp: vec![0; num_adapters as usize + 1],
            stamp: 0,
            hits: Vec::new(),
            candidates: Vec::new(),
        }
    }

    /// Requests that wait.
    pub fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Waiting requests, in queue order.
    pub fn waiting_ids(&self) -> Vec<RequestId> {
        self.waiting
            .iter(|id, key| is_waiting(&self.requests, id, key))
            .collect()
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
            self.running.retain(|&other| other != id);
        } else {
            self.dequeue(id);
        }
        self.kv.release(id, &mut self.requests[id]);
        self.requests.remove(id);
        self.finished_pending = true;
    }

    pub(super) fn enqueue(&mut self, id: RequestId, at_head: bool) {
        let request = &mut self.requests[id];
        request.queue_key = self
            .waiting
            .push(id, request.adapter, request.priority, request.order, at_head);
    }

    pub(super) fn dequeue(&mut self, id: RequestId) {
        let request = &self.requests[id];
        self.waiting.remove(id, request.adapter, request.queue_key);
    }

    /// Writes the state of the requests in the cohort back, so that [`Self::requests`] can be read.
    pub fn settle(&mut self) {
        self.cohort.settle(&mut self.requests);
        self.admission_settled = false;
    }

    /// Decides the next step into `batch`.
    pub fn schedule(&mut self, batch: &mut Batch) {
        batch.clear();
        let mut budget = self.config.token_budget();
        let threshold = self.prefill_threshold();
        let first = self.schedule_cohort(batch, &mut budget);
        self.schedule_running(batch, &mut budget, threshold, first);
        self.collect_adapters(batch);
        let none_preempted = batch.preempted.is_empty() || !self.rules.no_admission_after_preemption;
        if none_preempted && !self.admission_settled {
            self.schedule_waiting(batch, &mut budget, threshold);
            // Whoever is admitted is an item of the batch.
            self.admission_settled = batch.items.is_empty() && batch.num_cohort > 0;
        }
        self.finished_pending = false;
        self.commit(batch);
    }

    /// Schedules the cohort, where the general rules would let every member decode; else settles it. Returns the index in
    /// `running` from which on requests must be looked at one by one.
    ///
    /// The members come first in `running`, at most one request (in the middle of its prefill) behind them: if that one finds
    /// no block it is its own victim, so no member is ever touched.
    fn schedule_cohort(&mut self, batch: &mut Batch, budget: &mut u32) -> usize {
        let members = self.cohort.len();
        if members == 0 {
            return 0;
        }
        let others = self.running.len() - members as usize;
        let last_is_member = self
            .running
            .last()
            .is_some_and(|&id| self.requests[id].joined != NOT_MEMBER);
        let in_front = others == 0 || (others == 1 && !last_is_member);
        let needed = self.cohort.blocks_needed();
        if !in_front || members > *budget || !self.kv.take_counted(needed) {
            self.settle();
            return 0;
        }
        batch.num_cohort = members;
        *budget -= members;
        members as usize
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
        let mut index = first;
        while index < self.running.len() && *budget > 0 {
            let id = self.running[index];
            let request = &self.requests[id];
            let placeholders = request.num_output_placeholders;
            if placeholders > 0
                && self.rules.skip_complete_in_flight
                && request.num_computed_tokens + 2
                    >= request.prompt_tokens + request.max_tokens + placeholders
            {
                index += 1;
                continue;
            }
            let room = self
                .config
                .max_model_len
                .saturating_sub(request.num_computed_tokens + self.rules.reserved_positions);
            let missing = request.num_tokens_with_placeholders() - request.num_computed_tokens;
            let num_tokens = cut(missing, threshold).min(*budget).min(room);
            if num_tokens == 0 {
                index += 1;
                continue;
            }
            while !self.kv.grow(id, &mut self.requests[id], num_tokens) {
                let victim = self.preempt(batch, budget, &mut index);
                if victim == id {
                    return;
                }
            }
            batch.items.push(self.item(id, num_tokens, Kind::Continued));
            *budget -= num_tokens;
            index += 1;
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

    /// Preempts one running request and puts it back into the queue; `index` is the one being scheduled.
    fn preempt(&mut self, batch: &mut Batch, budget: &mut u32, index: &mut usize) -> RequestId {
        let at = match self.config.scheduling_policy {
            SchedulingPolicy::Fcfs if self.rules.preempt_last => self.running.len() - 1,
            SchedulingPolicy::Fcfs => 0,
            SchedulingPolicy::Priority => self.lowest_priority(),
        };
        let victim = self.running.remove(at);
        if at < *index {
            *index -= 1;
            if let Some(scheduled) = batch.items.iter().position(|item| item.id == victim) {
                let item = batch.items.remove(scheduled);
                if self.rules.return_budget {
                    *budget += item.num_tokens;
                }
            }
        }
        self.kv.release(victim, &mut self.requests[victim]);
        let request = &mut self.requests[victim];
        request.status = Status::Preempted;
        request.num_computed_tokens = 0;
        request.stale_tokens = request.in_flight_tokens;
        request.num_output_placeholders = 0;
        request.num_preemptions += 1;
        self.enqueue(victim, self.rules.requeue_at_head);
        batch.preempted.push(victim);
        victim
    }

    /// Index in `running` of the largest (priority, arrival time), the first of equals.
    fn lowest_priority(&self) -> usize {
        let mut worst = 0;
        for at in 1..self.running.len() {
            let (a, b) = (
                &self.requests[self.running[at]],
                &self.requests[self.running[worst]],
            );
            if (a.priority, a.order.0) > (b.priority, b.order.0) {
                worst = at;
            }
        }
        worst
    }

    /// The adapters of the running requests in the batch: they hold the `max_loras` places.
    fn collect_adapters(&mut self, batch: &mut Batch) {
        self.stamp += 1;
        if batch.num_cohort > 0 {
            batch.adapters.extend_from_slice(self.cohort.adapters());
        }
        for at in 0..batch.items.len() {
            self.hold_place(batch, batch.items[at].id);
        }
        if !self.rules.adapters_of_scheduled_only {
            for at in 0..self.running.len() {
                self.hold_place(batch, self.running[at]);
            }
        }
    }

    pub(super) fn hold_place(&mut self, batch: &mut Batch, id: RequestId) {
        let adapter = self.requests[id].adapter;
        let stamp = &mut self.adapter_stamp[adapter as usize];
        if adapter != 0 && *stamp != self.stamp && !(batch.num_cohort > 0 && self.cohort.uses(adapter)) {
            *stamp = self.stamp;
            batch.adapters.push(adapter);
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
            totals.context_tokens += self.cohort.context_tokens();
            totals.lora_seqs += self.cohort.lora_seqs();
        }
        totals.running = self.running.len() as u32;
        totals.waiting = self.waiting.len() as u32;
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

/// Whether a queue entry is current: the slot's request waits under this very key.
pub(super) fn is_waiting(requests: &Requests, id: RequestId, key: super::waiting::QueueKey) -> bool {
    let request = &requests[id];
    matches!(request.status, Status::Waiting | Status::Preempted) && request.queue_key == key
}
