//! One simulation from its JSON document to its results.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Deserialize;

use crate::config::EngineConfig;
use crate::cost::{KvPlan, Profile};
use crate::early_stop::{EarlyStopSpec, StopReason};
use crate::engine::UpdateReport;
use crate::engine::scheduler::Fidelity;
use crate::error::{Result, TwinError, invalid};
use crate::lora::Future;
use crate::metrics::alike::alike;
use crate::metrics::recorder::Frames;
use crate::metrics::summary::Ending;
use crate::metrics::{Collect, ObjectivesSpec, Recorder, Summary};
use crate::server::{self, Server};
use crate::simulator;
use crate::time::{Picoseconds, from_seconds};
use crate::timed::{Conditions, TimedDriver};
use crate::workload::lengths::{LengthTable, LengthTables};
use crate::workload::{AdapterLaws, Generated, Replay, Trace, Traffic, WorkloadSpec};

/// Named profiles, length tables and traces, shared by many simulations.
#[derive(Clone, Debug, Default)]
pub struct Library {
    /// Profiles by name.
    pub profiles: BTreeMap<String, Arc<Profile>>,
    /// Length tables by name.
    pub lengths: LengthTables,
    /// Traces by name.
    pub traces: BTreeMap<String, Arc<Trace>>,
}

impl Library {
    /// Adds or replaces a profile.
    pub fn add_profile(&mut self, name: &str, json: &str) -> Result<()> {
        self.profiles
            .insert(name.to_owned(), Arc::new(Profile::parse(name, json)?));
        Ok(())
    }

    /// Adds or replaces a length table.
    pub fn add_lengths(&mut self, name: &str, table: LengthTable) {
        self.lengths.insert(name.to_owned(), Arc::new(table));
    }

    /// Adds or replaces a trace.
    pub fn add_trace(&mut self, name: &str, trace: Trace) {
        self.traces.insert(name.to_owned(), Arc::new(trace));
    }

    /// The profile of that name.
    pub fn profile(&self, name: &str) -> Result<&Arc<Profile>> {
        find("profile", name, &self.profiles)
    }

    /// The trace of that name.
    pub fn trace(&self, name: &str) -> Result<&Arc<Trace>> {
        find("trace", name, &self.traces)
    }
}

fn find<'a, T>(kind: &'static str, name: &str, map: &'a BTreeMap<String, T>) -> Result<&'a T> {
    map.get(name).ok_or_else(|| TwinError::Unknown {
        kind,
        name: name.to_owned(),
        known: map.keys().cloned().collect::<Vec<_>>().join(", "),
    })
}

/// The JSON document of one simulation.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimulationSpec {
    /// Profile's name in the library.
    pub profile: String,
    /// Seed of all random streams.
    #[serde(default)]
    pub seed: u64,
    /// Server settings.
    pub engine: EngineConfig,
    /// Simulate even where the memory model says that the server cannot start.
    #[serde(default)]
    pub ignore_memory: bool,
    /// Traffic.
    pub workload: WorkloadSpec,
    /// Frames to keep.
    #[serde(default)]
    pub collect: Collect,
    /// What a request must keep to, to count as served well.
    #[serde(default)]
    pub objectives: ObjectivesSpec,
    /// When to end before the duration is over; never unless asked for.
    #[serde(default)]
    pub early_stop: EarlyStopSpec,
    /// Touch every request in every step, with block ids: the same results, slower. For tests of the fast mode.
    #[serde(default)]
    pub exact: bool,
}

impl SimulationSpec {
    /// Reads a document.
    pub fn parse(json: &str) -> Result<Self> {
        let spec: Self = serde_json::from_str(json).map_err(|cause| TwinError::Schema {
            what: "simulation".into(),
            cause: cause.to_string(),
        })?;
        spec.engine.validate()?;
        spec.workload.validate()?;
        spec.objectives.validate()?;
        spec.early_stop.validate()?;
        if spec.early_stop.is_on() && (spec.workload.drain() || spec.workload.is_replay()) {
            return invalid(
                "early_stop is for generated traffic that is cut at duration_s: leave it out, or drain and replay",
            );
        }
        spec.collect.validate()?;
        Ok(spec)
    }
}

/// What came of a simulation.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It ran.
    Ok {
        /// Scalars.
        summary: Summary,
        /// When and why it ended before its time, if it did.
        stopped: Option<(Picoseconds, StopReason)>,
        /// Frames that were asked for.
        frames: Box<Frames>,
    },
    /// The server would not start, and why.
    Infeasible {
        /// One line.
        error: String,
        /// KV blocks that the memory model leaves.
        plan: KvPlan,
    },
}

/// KV blocks of a document's server, without simulating.
pub fn memory(library: &Library, spec: &SimulationSpec) -> Result<KvPlan> {
    Ok(library.profile(&spec.profile)?.memory.plan(&spec.engine))
}

/// Runs one simulation. `cancel` is looked at every few milliseconds.
pub fn simulate(library: &Library, spec: &SimulationSpec, cancel: &AtomicBool) -> Result<Outcome> {
    let profile = library.profile(&spec.profile)?;
    let plan = server::plan(profile, &spec.engine);
    if let Some((_, error)) = plan.infeasible.as_ref().filter(|_| !spec.ignore_memory) {
        return Ok(Outcome::Infeasible {
            error: error.clone(),
            plan,
        });
    }
    let run = Run {
        spec,
        profile,
        num_blocks: plan.num_blocks,
        adapters: spec
            .workload
            .adapters(|name| Ok(library.trace(name)?.num_adapters()))?,
    };
    match &spec.workload {
        WorkloadSpec::Generated(workload) => {
            run.run(|| Generated::new(workload, &library.lengths, spec.seed), cancel)
        }
        WorkloadSpec::Replay(workload) => {
            let trace = library.trace(&workload.trace)?;
            let end = from_seconds(workload.duration_s);
            run.run(|| Ok(Replay::new(Arc::clone(trace), end)), cancel)
        }
    }
}

/// A simulation whose inputs are resolved.
struct Run<'a> {
    spec: &'a SimulationSpec,
    profile: &'a Profile,
    num_blocks: u32,
    adapters: AdapterLaws,
}

impl Run<'_> {
    fn run<T: Traffic>(self, traffic: impl Fn() -> Result<T>, cancel: &AtomicBool) -> Result<Outcome> {
        let (spec, config) = (self.spec, &self.spec.engine);
        let ranks = &self.adapters.ranks;
        let num_adapters = ranks.len() as u32 - 1;
        let server = Server {
            config,
            profile: self.profile,
            num_blocks: self.num_blocks,
            ranks,
            served: num_adapters,
        };
        server.check(1..=num_adapters)?;
        let cost = server.cost();
        let future = config
            .policies
            .needs_future()
            .then(|| Ok(future(traffic()?, num_adapters)))
            .transpose()?;
        let mut engine = server.engine(
            Fidelity::of(spec.exact),
            spec.seed,
            &cost,
            1..=num_adapters,
            future,
        );
        let duration = from_seconds(spec.workload.duration_s());
        let end = (!spec.workload.drain()).then_some(duration);
        let mut driver = TimedDriver::new(
            traffic()?,
            &cost,
            cancel,
            Recorder::new(num_adapters, spec.collect, spec.objectives.into()),
            Conditions {
                early_stop: spec.early_stop,
                ..server.conditions(end)
            },
        );
        simulator::run(&mut engine, &mut driver, &mut UpdateReport::default())?;
        let stopped = driver.stopped();
        let end = match (stopped, end) {
            (Some((at, _)), _) => at,
            (None, Some(end)) => end,
            (None, None) => duration.max(driver.last_delivery()),
        };
        engine.scheduler.settle();
        let scheduler = &engine.scheduler;
        let (on_the_way, mut recorder) = driver.finish(end, scheduler)?;
        let (kv_blocks, usable_blocks, kv_tokens) = server.kv();
        let summary = Summary::of(
            &mut recorder,
            Ending {
                duration: end,
                running: scheduler.running.len() as u64,
                waiting: scheduler.num_waiting() as u64 + on_the_way,
                kv_blocks,
                usable_blocks,
                kv_tokens,
                alike: &alike(self.adapters.keys()),
            },
        );
        let frames = recorder.into_frames(ranks, &self.adapters.rates, spec.collect.adapters);
        Ok(Outcome::Ok {
            summary,
            stopped,
            frames: Box::new(frames),
        })
    }
}

/// When requests of each adapter arrive.
pub(crate) fn future(mut traffic: impl Traffic, num_adapters: u32) -> Future {
    let mut arrivals = vec![Vec::new(); num_adapters as usize + 1];
    while let Some(request) = traffic.next() {
        arrivals[request.adapter as usize].push(request.arrival);
    }
    Arc::new(arrivals)
}
