//! The one event loop.
//!
//! An iteration is vLLM's `EngineCore.step` or, with async scheduling, `step_with_batch_queue`: take in what has arrived,
//! schedule, load adapters and launch, then wait for the oldest batch in flight and apply its output. Who provides the clock
//! and the arrivals is a [`Driver`]: simulated time ([`crate::timed`]) or the iteration counter ([`crate::trace`]). Where the
//! arrivals are not all known beforehand, as behind a router, [`Iterations`] stop in front of what they could change.

use std::collections::VecDeque;

use crate::config::EngineConfig;
use crate::engine::scheduler::Fidelity;
use crate::engine::{Batch, Scheduler, UpdateReport};
use crate::error::Result;
use crate::lora::{AdapterId, LoraEvent, LoraManager, Moment};
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

/// How the run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Continue,
    /// Nothing more can be decided before later arrivals are known: see [`Driver::knows`].
    Pause,
    /// The run is over.
    Stop,
}

/// Clock, traffic and observer of a run.
pub trait Driver {
    /// Nothing is in flight: move on to the next arrival. `Stop` when there is none.
    fn idle(&mut self) -> Flow;
    /// What the engine is asked to do between two steps, other than requests: adapter loads by the API.
    fn between_steps(&mut self, _engine: &mut Engine) {}
    /// Whether every arrival up to now, and up to the end of `batch` where one is given, is known.
    fn knows(&self, _batch: Option<&Batch>) -> bool {
        true
    }
    /// Take in what has arrived by now.
    fn deliver(&mut self, scheduler: &mut Scheduler);
    /// The instant, for rules that look at it.
    fn now(&self) -> Picoseconds {
        0
    }
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

/// Where an iteration was left when the driver did not know enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// Before its arrivals are taken in.
    #[default]
    Begin,
    /// Nothing could be scheduled.
    Stalled,
    /// The oldest batch is waited for.
    Wait,
}

/// The iterations of one engine: what is in flight between two calls.
#[derive(Debug, Default)]
pub struct Iterations {
    // Boxed: a batch changes hands four times a step.
    in_flight: VecDeque<Box<Batch>>,
    #[allow(clippy::vec_box)]
    spare: Vec<Box<Batch>>,
    events: Vec<LoraEvent>,
    stage: Stage,
}

impl Iterations {
    /// The batch whose end a paused run waits for, if it does.
    pub fn waits_for(&self) -> Option<&Batch> {
        let batch = self.in_flight.front().filter(|_| self.stage == Stage::Wait);
        batch.map(AsRef::as_ref)
    }

    /// Runs `engine` until the driver stops it, or pauses it because it does not know what arrives next; then it goes on from
    /// there when called again.
    pub fn advance(
        &mut self,
        engine: &mut Engine,
        driver: &mut impl Driver,
        report: &mut UpdateReport,
    ) -> Result<Flow> {
        loop {
            if self.stage == Stage::Begin {
                if !engine.scheduler.has_requests() && self.in_flight.is_empty() {
                    let flow = driver.idle();
                    if flow != Flow::Continue {
                        return Ok(flow);
                    }
                }
                driver.between_steps(engine);
                if !driver.knows(None) {
                    return Ok(Flow::Pause);
                }
                self.schedule(engine, driver);
            }
            if self.stage == Stage::Stalled {
                let flow = driver.stalled();
                if flow != Flow::Continue {
                    return Ok(flow);
                }
                self.stage = if self.has_room(engine) && engine.scheduler.has_requests() {
                    Stage::Begin
                } else {
                    Stage::Wait
                };
            }
            if self.stage == Stage::Wait
                && let Some(batch) = self.in_flight.front()
            {
                if !driver.knows(Some(batch)) {
                    return Ok(Flow::Pause);
                }
                if !self.update(engine, driver, report) {
                    return Ok(Flow::Stop);
                }
            }
            self.stage = Stage::Begin;
            if driver.iterated()? == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
    }

    /// Takes in arrivals, schedules a step and launches it.
    #[inline]
    fn schedule(&mut self, engine: &mut Engine, driver: &mut impl Driver) {
        driver.deliver(&mut engine.scheduler);
        self.stage = Stage::Wait;
        if !engine.scheduler.has_requests() {
            return;
        }
        let mut batch = self.spare.pop().unwrap_or_default();
        let now = driver.now();
        engine.scheduler.schedule(&mut batch, now);
        self.events.clear();
        let executed = !batch.is_empty();
        if let Some(lora) = engine.lora.as_mut().filter(|_| executed) {
            let moment = Moment {
                now,
                scheduler: &engine.scheduler,
            };
            lora.step(&batch, driver.visiting_order(), moment, &mut self.events);
        }
        driver.launched(engine, &mut batch, &self.events);
        let stuck = !executed
            && batch.preempted.is_empty()
            && self.in_flight.is_empty()
            && engine.scheduler.has_unfinished();
        self.in_flight.push_back(batch);
        if stuck {
            self.stage = Stage::Stalled;
        } else if self.has_room(engine) && (executed || engine.scheduler.has_requests()) {
            self.stage = Stage::Begin;
        }
    }

    /// vLLM step_with_batch_queue(): with room in the queue, schedule again before waiting.
    fn has_room(&self, engine: &Engine) -> bool {
        self.in_flight.len() < engine.batches_in_flight
    }

    /// Waits for the oldest batch and applies its output; false at the end of the run.
    #[inline]
    fn update(&mut self, engine: &mut Engine, driver: &mut impl Driver, report: &mut UpdateReport) -> bool {
        let Some(batch) = self.in_flight.pop_front() else {
            return true;
        };
        let Some((now, previous)) = driver.completed(&batch) else {
            return false;
        };
        let token = |serial, nth| driver.token(serial, nth);
        engine.scheduler.update(&batch, now, previous, &token, report);
        driver.updated(engine, report);
        self.spare.push(batch);
        true
    }
}

/// Runs `engine` until the driver stops it.
pub fn run(engine: &mut Engine, driver: &mut impl Driver, report: &mut UpdateReport) -> Result<()> {
    let flow = Iterations::default().advance(engine, driver, report)?;
    debug_assert_eq!(flow, Flow::Stop, "all traffic is known");
    Ok(())
}
