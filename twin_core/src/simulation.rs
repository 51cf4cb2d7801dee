//! One simulation from its JSON document to its results.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Deserialize;

use crate::config::EngineConfig;
use crate::cost::{CostModel, KvPlan, Profile};
use crate::early_stop::{EarlyStopSpec, StopReason};
use crate::engine::UpdateReport;
use crate::engine::scheduler::Fidelity;
use crate::error::{Result, TwinError, invalid};
use crate::metrics::alike::alike;
use crate::metrics::recorder::Frames;
use crate::metrics::summary::Ending;
use crate::metrics::{Collect, ObjectivesSpec, Recorder, Summary};
use crate::rules::Rules;
use crate::simulator::{self, Engine};
use crate::time::{Picoseconds, from_seconds};
use crate::timed::{Conditions, TimedDriver};
use crate::workload::generated::rates_and_ranks;
use crate::workload::lengths::{LengthTable, LengthTables};
use crate::workload::{Generated, Replay, Trace, Traffic, WorkloadSpec};

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
        if let Some(period) = spec.collect.timeseries_s
            && !(period >= 1e-3 && period.is_finite())
        {
            return invalid(format!("timeseries_s ({period}) must be >= 0.001"));
        }
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
    let mut plan = profile.memory.plan(&spec.engine);
    if let Some((_, error)) = &plan.infeasible {
        if !spec.ignore_memory {
            return Ok(Outcome::Infeasible {
                error: error.clone(),
                plan,
            });
        }
        // A run that really started held at least one longest request.
        let least = spec.engine.max_model_len.div_ceil(spec.engine.block_size) + 1;
        plan.num_blocks = plan.num_blocks.max(least);
    }
    match &spec.workload {
        WorkloadSpec::Generated(workload) => {
            let (rates, ranks) = rates_and_ranks(workload);
            let traffic = Generated::new(workload, &library.lengths, spec.seed)?;
            Run {
                spec,
                profile,
                num_blocks: plan.num_blocks,
                rates,
                ranks,
            }
            .run(traffic, cancel)
        }
        WorkloadSpec::Replay(workload) => {
            let trace = find("trace", &workload.trace, &library.traces)?;
            let num_adapters = trace.num_adapters() as usize;
            if num_adapters > 0 && workload.ranks.is_empty() {
                return invalid(format!(
                    "the trace uses {num_adapters} adapters: give their ranks"
                ));
            }
            let ranks = std::iter::once(0)
                .chain(workload.ranks.iter().copied().cycle().take(num_adapters))
                .collect();
            let rates = vec![f64::NAN; num_adapters + 1];
            let traffic = Replay::new(Arc::clone(trace), from_seconds(workload.duration_s));
            Run {
                spec,
                profile,
                num_blocks: plan.num_blocks,
                rates,
                ranks,
            }
            .run(traffic, cancel)
        }
    }
}

/// A simulation whose inputs are resolved. Index 0 of `rates` and `ranks` is the base model.
struct Run<'a> {
    spec: &'a SimulationSpec,
    profile: &'a Profile,
    num_blocks: u32,
    rates: Vec<f64>,
    ranks: Vec<u32>,
}

impl Run<'_> {
    fn run(self, traffic: impl Traffic, cancel: &AtomicBool) -> Result<Outcome> {
        let (spec, config) = (self.spec, &self.spec.engine);
        let num_adapters = self.check_adapters()?;
        let cost = CostModel::new(self.profile, config, &self.ranks[1..]);
        let rules = Rules::of(config.engine_version);
        let fidelity = if spec.exact {
            Fidelity::Exact
        } else {
            Fidelity::Fast
        };
        let mut engine = Engine::new(config, rules, self.num_blocks, num_adapters, fidelity, spec.seed);
        if let Some(lora) = engine.lora.as_mut().filter(|_| config.lora_preload) {
            lora.preload(1..=num_adapters);
        }
        let duration = from_seconds(spec.workload.duration_s());
        let end = (!spec.workload.drain()).then_some(duration);
        let mut driver = TimedDriver::new(
            traffic,
            &cost,
            cancel,
            Recorder::new(num_adapters, spec.collect, spec.objectives.into()),
            Conditions {
                num_adapters,
                max_connections: config.max_connections,
                metrics_poll: config.metrics_poll_s.map(from_seconds),
                max_model_len: config.max_model_len,
                prefix_caching: config.enable_prefix_caching,
                asynchronous: config.async_scheduling,
                end,
                early_stop: spec.early_stop,
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
        let summary = Summary::of(
            &mut recorder,
            Ending {
                duration: end,
                running: scheduler.running.len() as u64,
                waiting: scheduler.num_waiting() as u64 + on_the_way,
                kv_blocks: self.num_blocks,
                block_size: config.block_size,
                alike: &self.alike(),
            },
        );
        let frames = recorder.into_frames(&self.ranks, &self.rates, spec.collect.adapters);
        Ok(Outcome::Ok {
            summary,
            stopped,
            frames: Box::new(frames),
        })
    }

    /// Adapters that only chance tells apart.
    fn alike(&self) -> Vec<u32> {
        let mut laws = vec![0; self.ranks.len()];
        if let WorkloadSpec::Generated(workload) = &self.spec.workload {
            let mut first = 1;
            for (number, group) in (1..).zip(&workload.adapters) {
                let members = first..first + group.count as usize;
                first = members.end;
                laws[members].fill(group.lengths.as_ref().map_or(0, |_| number));
            }
        }
        let keys = self.rates.iter().zip(&self.ranks).zip(laws);
        alike(keys.map(|((&rate, &rank), law)| (rate, rank, law)))
    }

    /// Rules between the adapters and the server; returns how many adapters there are.
    fn check_adapters(&self) -> Result<u32> {
        let config = &self.spec.engine;
        let num_adapters = self.ranks.len() as u32 - 1;
        if num_adapters > 0 && !config.lora_enabled() {
            return invalid(format!(
                "max_loras (0) turns LoRA off, but the workload has {num_adapters} adapters: set max_loras >= 1"
            ));
        }
        if let Some(rank) = self.ranks[1..]
            .iter()
            .find(|&&rank| rank == 0 || rank > config.max_lora_rank)
        {
            return invalid(format!(
                "adapter rank ({rank}) must be >= 1 and <= max_lora_rank ({}): raise max_lora_rank",
                config.max_lora_rank
            ));
        }
        Ok(num_adapters)
    }
}
