//! The one event loop.
//!
//! An iteration is vLLM's `EngineCore.step` or, with async scheduling, `step_with_batch_queue`: take in what has arrived,
//! schedule, load adapters and launch, then wait for the oldest batch in flight and apply its output. Who provides the clock
//! and the arrivals is a [`Driver`]: simulated time ([`crate::timed`]) or the iteration counter ([`crate::trace`]).

use std::collections::VecDeque;

use crate::config::EngineConfig;
use crate::engine::scheduler::Fidelity;
use crate::engine::{Batch, Scheduler, UpdateReport};
use crate::error::Result;
use crate::lora::{AdapterId, LoraEvent, LoraManager};
use crate::rules::Rules;
use crate::time::Picoseconds;

/// Scheduler, KV cache and adapter caches of one server.
#[derive(Debug)]
pub struct Engine {
    /// Requests, queues and KV blocks.
    pub scheduler: Scheduler,
    /// Adapter caches; `None` with LoRA off.
    pub lora: Option<LoraManager>,
    batches_in_flight: usize,
}

impl Engine {
    /// An idle server for adapters `1..=num_adapters`.
    pub fn new(
        config: &EngineConfig,
        rules: Rules,
        num_blocks: u32,
        num_adapters: u32,
        fidelity: Fidelity,
        seed: u64,
    ) -> Self {
        Self {
            scheduler: Scheduler::new(config, rules, num_blocks, num_adapters, fidelity),
            lora: config
                .lora_enabled()
                .then(|| LoraManager::new(rules, config.max_loras, config.max_cpu_loras, num_adapters, seed)),
            batches_in_flight: if config.async_scheduling { 2 } else { 1 },
        }
    }

    /// Lets the step in `batch` and those that repeat it pass, up to the last of `steps` more, which `batch` is then and which
    /// take `blocks` KV blocks. Their tokens reach the client from the first of `delivered` on, those of the last but one at the
    /// second.
    pub fn repeat(
        &mut self,
        batch: &mut Batch,
        steps: u64,
        blocks: u32,
        delivered: (Picoseconds, Picoseconds),
    ) {
        self.scheduler.repeat(batch, steps, blocks, delivered);
        if let Some(lora) = self.lora.as_mut() {
            lora.repeat(steps);
        }
    }
}

/// What the driver does after an iteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Continue,
    /// The run is over.
    Stop,
}

/// Clock, traffic and observer of a run.
pub trait Driver {
    /// Nothing is in flight: move on to the next arrival. `Stop` when there is none.
    fn idle(&mut self) -> Flow;
    /// Take in what has arrived by now.
    fn deliver(&mut self, scheduler: &mut Scheduler);
    /// The order in which the worker visits the adapters of this step, where it is given.
    fn visiting_order(&self) -> Option<&[AdapterId]> {
        None
    }
    /// A step has been scheduled and its adapters visited: time it. Where it repeats itself, the driver may let many of them pass
    /// ([`Engine::repeat`]); `batch` is then the last.
    fn launched(&mut self, engine: &mut Engine, batch: &mut Batch, events: &[LoraEvent]);
    /// Nothing could be scheduled, nothing is in flight, requests wait: only an arrival can change that.
    fn stalled(&mut self) -> Flow;
    /// The oldest batch has come back. Returns when its tokens reach the client and when those of the batch before did; `None`
    /// when that is past the end.
    fn completed(&mut self, batch: &Batch) -> Option<(Picoseconds, Picoseconds)>;
    /// Value of request `serial`'s `nth` output token (prefix caching only).
    fn token(&self, serial: u32, nth: u32) -> u32;
    /// The output has been applied.
    fn updated(&mut self, engine: &Engine, report: &UpdateReport);
    /// The iteration is over.
    fn iterated(&mut self) -> Result<Flow>;
}

/// Runs `engine` until the driver stops it.
pub fn run(engine: &mut Engine, driver: &mut impl Driver, report: &mut UpdateReport) -> Result<()> {
    // Boxed: a batch changes hands four times a step.
    let mut in_flight: VecDeque<Box<Batch>> = VecDeque::new();
    let mut spare: Vec<Box<Batch>> = Vec::new();
    let mut events: Vec<LoraEvent> = Vec::new();
    loop {
        if !engine.scheduler.has_requests() && in_flight.is_empty() && driver.idle() == Flow::Stop {
            return Ok(());
        }
        driver.deliver(&mut engine.scheduler);
        let mut wait_for_output = true;
        if engine.scheduler.has_requests() {
            let mut batch = spare.pop().unwrap_or_default();
            engine.scheduler.schedule(&mut batch);
            events.clear();
            let executed = !batch.is_empty();
            if let Some(lora) = engine.lora.as_mut().filter(|_| executed) {
                lora.apply(&batch, driver.visiting_order(), &mut events);
            }
            driver.launched(engine, &mut batch, &events);
            let stuck = !executed
                && batch.preempted.is_empty()
                && in_flight.is_empty()
                && engine.scheduler.has_unfinished();
            in_flight.push_back(batch);
            // vLLM step_with_batch_queue(): with room in the queue, schedule again before waiting.
            wait_for_output =
                in_flight.len() >= engine.batches_in_flight || !(executed || engine.scheduler.has_requests());
            if stuck && driver.stalled() == Flow::Stop {
                return Ok(());
            }
        }
        if wait_for_output && let Some(batch) = in_flight.pop_front() {
            let Some((now, previous)) = driver.completed(&batch) else {
                return Ok(());
            };
            let token = |serial, nth| driver.token(serial, nth);
            engine.scheduler.update(&batch, now, previous, &token, report);
            driver.updated(engine, report);
            spare.push(batch);
        }
        if driver.iterated()? == Flow::Stop {
            return Ok(());
        }
    }
}
