//! One server of a fleet: the engine and driver of a single simulation, fed by the router.

use super::feed::Feed;
use super::signals::View;
use crate::engine::UpdateReport;
use crate::error::Result;
use crate::lora::AdapterId;
use crate::metrics::Recorder;
use crate::simulator::{Engine, Flow, Iterations};
use crate::time::Picoseconds;
use crate::timed::TimedDriver;

/// When a replica takes requests.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// It is started.
    pub start: Picoseconds,
    /// It takes requests from then on.
    pub ready: Picoseconds,
    /// It is sent none from then on.
    pub stop: Picoseconds,
}

/// A running server.
pub struct Replica<'a> {
    engine: Engine,
    driver: TimedDriver<'a, Feed>,
    iterations: Iterations,
    report: UpdateReport,
    over: bool,
    /// Unless a request is sent, a router that looks before then sees what it saw.
    silent_until: Picoseconds,
    /// What the router knows.
    pub view: View,
    /// When it serves.
    pub service: Service,
    /// Adapters whose requests may come now.
    pub registered: Vec<bool>,
    /// Places in the fleet's order of arrival, where rows are kept.
    pub serials: Option<Vec<u32>>,
}

/// What is left of a replica at the end.
pub struct Ended {
    /// Its measures.
    pub recorder: Recorder,
    /// Requests running when the client stopped.
    pub running: u64,
    /// Requests waiting, or on the way to the scheduler, then.
    pub waiting: u64,
}

impl<'a> Replica<'a> {
    /// A server that has been sent nothing.
    pub fn new(
        engine: Engine,
        driver: TimedDriver<'a, Feed>,
        view: View,
        service: Service,
        registered: Vec<bool>,
        keep_serials: bool,
    ) -> Self {
        Self {
            engine,
            driver,
            iterations: Iterations::default(),
            report: UpdateReport::default(),
            over: false,
            silent_until: 0,
            view,
            service,
            registered,
            serials: keep_serials.then(Vec::new),
        }
    }

    /// Whether it takes a request of the adapter that arrives at `at`.
    pub fn takes(&self, adapter: AdapterId, at: Picoseconds) -> bool {
        (self.service.ready..self.service.stop).contains(&at) && self.registered[adapter as usize]
    }

    /// Sends it a request. Everything sent before arrived no later.
    pub fn send(&mut self, request: crate::engine::NewRequest) {
        if let Some(serials) = &mut self.serials {
            serials.push(request.serial);
        }
        self.view.outstanding += 1;
        self.silent_until = 0;
        self.driver.disturb();
        self.driver.traffic.push(request);
    }

    /// Goes on as far as what arrives from `until` on cannot matter.
    pub fn advance(&mut self, until: Picoseconds) -> Result<()> {
        if self.over {
            return Ok(());
        }
        self.driver.traffic.know_until(until);
        let (engine, driver) = (&mut self.engine, &mut self.driver);
        self.over = self.iterations.advance(engine, driver, &mut self.report)? == Flow::Stop;
        Ok(())
    }

    /// Brings what the router knows up to `now`. The engine stays behind while it has nothing to tell: what it does meanwhile is
    /// cheaper done at once.
    pub fn look(&mut self, now: Picoseconds) -> Result<()> {
        if now > self.silent_until {
            self.advance(now)?;
            if let Some(outbox) = &mut self.driver.outbox {
                self.view.collect(outbox);
            }
            let waits_for = self.iterations.waits_for();
            self.silent_until = waits_for.map_or(0, |batch| self.driver.silent_until(batch));
        }
        self.view.look(now);
        Ok(())
    }

    /// When tokens last reached a client.
    pub fn last_delivery(&self) -> Picoseconds {
        self.driver.last_delivery()
    }

    /// The end of the run, at which everything is known.
    pub fn finish(mut self, end: Picoseconds) -> Result<Ended> {
        self.engine.scheduler.settle();
        let scheduler = &self.engine.scheduler;
        let (running, waiting) = (scheduler.running.len() as u64, scheduler.num_waiting() as u64);
        let (on_the_way, recorder) = self.driver.finish(end, scheduler)?;
        Ok(Ended {
            recorder,
            running,
            waiting: waiting + on_the_way,
        })
    }
}
