//! The driver of the conformance suite: time is the iteration counter, every decision is written down.
//!
//! A *case* is a server configuration and a list of requests with the iteration at which each arrives; a *trace* is one JSON
//! object per engine iteration, in the format of the reference that drives vLLM's own scheduler (docs/conformance.md).

pub mod case;
mod lines;

use std::collections::{BTreeMap, HashMap, VecDeque};

pub use case::{Case, CaseAbort, CaseConfig, CaseRequest};
use lines::{Header, Object, Scheduled, Step, Summary, Updated, Worker, event_json, to_json};

use crate::config::EngineVersion;
use crate::engine::scheduler::Fidelity;
use crate::engine::{Batch, Kind, NEVER, NewRequest, RequestId, Scheduler, Status, UpdateReport};
use crate::error::{Result, TwinError, invalid};
use crate::lora::{AdapterId, LoraEvent};
use crate::rules::Rules;
use crate::simulator::{self, Driver, Engine, Flow};
use crate::time::Picoseconds;

/// Iterations without progress after which a case with nothing left to arrive is given up (vLLM would spin for ever).
const STALLED_AFTER: u32 = 8;
/// The same for iterations in which something is scheduled but no token comes out: a request that outgrows the KV cache is
/// preempted and resumed for ever. The longest honest wait is one prompt of `max_model_len` under a budget of one token.
const NO_OUTPUT_AFTER: u32 = 200_000;
const STOP_TOKEN: u32 = 7;

/// The iteration counter as clock, a case as traffic.
struct TraceDriver {
    requests: Vec<CaseRequest>,
    next: usize,
    aborts: VecDeque<CaseAbort>,
    order: BTreeMap<String, Vec<u32>>,
    serial_of: HashMap<String, u32>,
    slot: Vec<Option<RequestId>>,
    tie_rank: Vec<u32>,
    table_len: Vec<u32>,
    block_size: u32,
    write: bool,
    iteration: u64,
    stalled: u32,
    without_output: u32,
    step: Step,
    lines: Vec<String>,
    totals: (u64, u64, u64),
}

impl TraceDriver {
    fn new(case: &Case, write: bool) -> Self {
        let mut requests = case.requests.clone();
        requests.sort_by_key(|request| request.arrival_step);
        let mut aborts = case.aborts.clone();
        aborts.sort_by_key(|abort| abort.step);
        let mut by_id: Vec<u32> = (0..requests.len() as u32).collect();
        by_id.sort_by(|&a, &b| requests[a as usize].id.cmp(&requests[b as usize].id));
        let mut tie_rank = vec![0; requests.len()];
        for (rank, serial) in by_id.into_iter().enumerate() {
            tie_rank[serial as usize] = rank as u32;
        }
        Self {
            serial_of: requests
                .iter()
                .map(|request| request.id.clone())
                .zip(0..)
                .collect(),
            next: 0,
            aborts: aborts.into(),
            order: case.lora_order.clone(),
            slot: vec![None; requests.len()],
            tie_rank,
            table_len: vec![0; requests.len()],
            requests,
            block_size: case.config.block_size,
            write,
            iteration: 0,
            stalled: 0,
            without_output: 0,
            step: Self::empty_step(0),
            lines: Vec::new(),
            totals: (0, 0, 0),
        }
    }

    fn empty_step(i: u64) -> Step {
        Step {
            kind: "step",
            i,
            added: Vec::new(),
            aborted: Vec::new(),
            scheduled: None,
            updated: None,
        }
    }

    fn name(&self, serial: u32) -> String {
        self.requests[serial as usize].id.clone()
    }

    fn names(&self, scheduler: &Scheduler, ids: impl IntoIterator<Item = RequestId>) -> Vec<String> {
        ids.into_iter()
            .map(|id| self.name(scheduler.requests[id].serial))
            .collect()
    }

    /// New block ids of each request in the batch.
    fn blocks(&mut self, scheduler: &Scheduler, batch: &Batch) -> Object<(u32, Vec<u32>)> {
        for &id in &batch.preempted {
            self.table_len[scheduler.requests[id].serial as usize] = 0;
        }
        let mut blocks = Vec::new();
        for item in &batch.items {
            let table = scheduler.kv.table(item.id);
            let held = match item.kind {
                Kind::Continued => self.table_len[item.serial as usize],
                Kind::New | Kind::Resumed => item.position / self.block_size,
            };
            if table.len() as u32 > held || item.kind != Kind::Continued {
                blocks.push((self.name(item.serial), (held, table[held as usize..].to_vec())));
            }
            self.table_len[item.serial as usize] = table.len() as u32;
        }
        Object(blocks)
    }
}

impl Driver for TraceDriver {
    fn idle(&mut self) -> Flow {
        let Some(request) = self.requests.get(self.next) else {
            return Flow::Stop;
        };
        self.iteration = self.iteration.max(request.arrival_step);
        Flow::Continue
    }

    fn deliver(&mut self, scheduler: &mut Scheduler) {
        self.step = Self::empty_step(self.iteration);
        while let Some(request) = self
            .requests
            .get_mut(self.next)
            .filter(|request| request.arrival_step <= self.iteration)
        {
            let serial = self.next;
            let prompt = request.prompt_token_ids.take().unwrap_or_default();
            let new = NewRequest {
                serial: serial as u32,
                adapter: request.lora_id.unwrap_or(0),
                prompt_tokens: request.prompt_len.unwrap_or(prompt.len() as u32),
                max_tokens: request.max_tokens,
                stop_at: request.stop_at.unwrap_or(NEVER),
                priority: request.priority,
                order: (request.arrival_time, self.tie_rank[serial]),
                arrival: self.iteration,
                prompt,
            };
            self.step.added.push(request.id.clone());
            self.slot[serial] = Some(scheduler.add_request(&new));
            self.next += 1;
        }
        while self
            .aborts
            .front()
            .is_some_and(|abort| abort.step <= self.iteration)
            && let Some(abort) = self.aborts.pop_front()
        {
            let slot = self
                .serial_of
                .get(&abort.id)
                .and_then(|&serial| Some((serial, self.slot[serial as usize]?)));
            if let Some((serial, slot)) = slot {
                let request = &scheduler.requests[slot];
                if request.serial == serial && request.status != Status::Gone {
                    scheduler.abort(slot);
                }
            }
            self.step.aborted.push(abort.id);
        }
        self.iteration += 1;
    }

    fn visiting_order(&self) -> Option<&[AdapterId]> {
        self.order.get(&self.step.i.to_string()).map(Vec::as_slice)
    }

    fn launched(&mut self, engine: &mut Engine, batch: &mut Batch, events: &[LoraEvent]) {
        self.totals.1 += batch.preempted.len() as u64;
        self.totals.2 += u64::from(batch.totals.tokens);
        let idle = batch.is_empty() && batch.preempted.is_empty() && engine.scheduler.has_unfinished();
        self.stalled = if idle { self.stalled + 1 } else { 0 };
        if !self.write {
            return;
        }
        let scheduler = &engine.scheduler;
        let blocks = self.blocks(scheduler, batch);
        let worker = engine
            .lora
            .as_ref()
            .filter(|_| !batch.is_empty())
            .map(|lora| Worker {
                lora_order: lora.last_order(&batch.adapters),
                lora_events: events.iter().map(event_json).collect(),
                lora_slots: lora.slots().to_vec(),
                lora_gpu_lru: lora.gpu_lru(),
                lora_cpu_lru: lora.cpu_lru(),
            });
        let kind = |kind| match kind {
            Kind::New => "N",
            Kind::Resumed => "R",
            Kind::Continued => "C",
        };
        self.step.scheduled = Some(Scheduled {
            scheduled: batch
                .items
                .iter()
                .map(|item| {
                    (
                        self.name(item.serial),
                        item.num_tokens,
                        item.position,
                        kind(item.kind),
                    )
                })
                .collect(),
            total_tokens: batch.totals.tokens,
            preempted: self.names(scheduler, batch.preempted.iter().copied()),
            blocks,
            free_head: scheduler.kv.free_head(4),
            free_blocks: scheduler.kv.num_free_blocks(),
            running: self.names(scheduler, scheduler.running.iter()),
            waiting: self.names(scheduler, scheduler.waiting_ids()),
            loras: engine.lora.is_some().then(|| {
                let mut adapters = batch.adapters.clone();
                adapters.sort_unstable();
                adapters
            }),
            worker,
        });
    }

    fn stalled(&mut self) -> Flow {
        Flow::Continue
    }

    fn completed(&mut self, _batch: &Batch) -> Option<(Picoseconds, Picoseconds)> {
        Some((self.iteration, self.iteration.saturating_sub(1)))
    }

    fn token(&self, serial: u32, nth: u32) -> u32 {
        let request = &self.requests[serial as usize];
        if request.stop_at == Some(nth) {
            return STOP_TOKEN;
        }
        10 + crc32fast::hash(format!("{}:{nth}", request.id).as_bytes()) % 29_990
    }

    fn updated(&mut self, engine: &Engine, report: &UpdateReport) {
        if report.tokens > 0 {
            self.without_output = 0;
        }
        if self.write {
            self.step.updated = Some(Updated {
                output: report.outputs.iter().map(|&serial| self.name(serial)).collect(),
                finished: Object(
                    report
                        .finished
                        .iter()
                        .map(|finished| (self.name(finished.request.serial), finished.reason.as_str()))
                        .collect(),
                ),
                free_blocks_after: engine.scheduler.kv.num_free_blocks(),
            });
        }
    }

    fn iterated(&mut self) -> Result<Flow> {
        self.totals.0 += 1;
        if self.write {
            self.lines.push(to_json(&self.step)?);
        }
        self.without_output += 1;
        let stuck = self.stalled >= STALLED_AFTER || self.without_output >= NO_OUTPUT_AFTER;
        if stuck && self.next == self.requests.len() && self.aborts.is_empty() {
            return invalid(format!(
                "the case never ends: no request gets on at iteration {} and nothing is left to arrive; give num_blocks for the longest request",
                self.step.i
            ));
        }
        Ok(Flow::Continue)
    }
}

/// Runs a case and returns its trace as JSON lines (header, steps, summary). With `write` false only header and summary: for
/// timing, in either fidelity (a trace is written in exact mode only).
pub fn run_case(json: &str, version: EngineVersion, write: bool, fidelity: Fidelity) -> Result<Vec<String>> {
    let case: Case = serde_json::from_str(json).map_err(|cause| TwinError::Schema {
        what: "case".into(),
        cause: cause.to_string(),
    })?;
    let config = case.config.engine(version)?;
    for request in &case.requests {
        let prompt = request
            .prompt_token_ids
            .as_ref()
            .map_or(request.prompt_len, |ids| Some(ids.len() as u32));
        if prompt.unwrap_or(0) == 0 || request.max_tokens == 0 {
            return invalid(format!(
                "request {:?}: prompt and max_tokens must be >= 1 token",
                request.id
            ));
        }
    }
    let rules = case
        .mutation
        .as_deref()
        .map_or(Ok(Rules::of(version)), |name| Rules::of(version).mutated(name))?;
    let named = case.requests.iter().filter_map(|request| request.lora_id);
    let ordered = case.lora_order.values().flatten().copied();
    let num_adapters = named
        .chain(ordered)
        .chain(case.lora_preload.iter().copied())
        .max()
        .unwrap_or(0);
    let fidelity = if write { Fidelity::Exact } else { fidelity };
    let mut engine = Engine::new(&config, rules, case.config.num_blocks, num_adapters, fidelity, 0);
    if let Some(lora) = engine.lora.as_mut() {
        lora.preload(case.lora_preload.iter().copied());
    }
    let mut driver = TraceDriver::new(&case, write);
    let header = Header {
        kind: "header",
        vllm: match version {
            EngineVersion::V0_8_5 => "0.8.5",
            EngineVersion::V0_32 => "0.32",
        },
        config: &case.config,
        requests: case.requests.len(),
        hash_seed: None,
    };
    let mut report = UpdateReport {
        keep_outputs: write,
        ..UpdateReport::default()
    };
    simulator::run(&mut engine, &mut driver, &mut report)?;
    let (steps, preemptions, tokens) = driver.totals;
    let summary = Summary {
        kind: "summary",
        steps,
        preemptions,
        tokens,
        unfinished: engine.scheduler.requests.len(),
        seconds: None,
    };
    let mut lines = vec![to_json(&header)?];
    lines.append(&mut driver.lines);
    lines.push(to_json(&summary)?);
    Ok(lines)
}
