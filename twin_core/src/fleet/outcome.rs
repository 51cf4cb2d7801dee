//! What came of a fleet, and how it is put together.

use super::cluster::Prepared;
use super::replica::{Ended, Replica};
use super::spec::FleetSpec;
use crate::error::Result;
use crate::metrics::alike::alike;
use crate::metrics::recorder::Frames;
use crate::metrics::summary::Ending;
use crate::metrics::{Collect, Metric, Recorder, Summary};
use crate::time::{Picoseconds, to_seconds};
use crate::workload::AdapterLaws;

/// What came of one replica.
#[derive(Clone, Debug)]
pub struct ReplicaOutcome {
    /// Its scalars, over the fleet's time.
    pub summary: Summary,
    /// Its frames.
    pub frames: Frames,
    /// Place in the fleet's order of arrival of each row of its request frame.
    pub serials: Option<Vec<u32>>,
    /// Seconds from its start until it had ended its last request after its stop, or until the run ended.
    pub gpu_s: f64,
}

/// What came of a fleet.
#[derive(Clone, Debug)]
pub enum FleetOutcome {
    /// It ran.
    Ok {
        /// Scalars of all replicas together; largest values are those of any replica. Behind the names of a single run:
        /// `unrouted` (requests that no replica took, counted as refused), `gpu_s`, `served_imbalance` (served tokens of the
        /// busiest replica over their mean).
        summary: Summary,
        /// Adapters of the whole fleet, where that was asked for; requests that no replica took, where rows were.
        frames: Box<Frames>,
        /// Place of each of those in the order of arrival.
        unrouted: Vec<u32>,
        /// Each replica.
        replicas: Vec<ReplicaOutcome>,
    },
    /// A server would not start, and why.
    Infeasible {
        /// One line.
        error: String,
    },
}

/// Requests that no replica takes.
pub(super) struct Unrouted {
    pub(super) recorder: Recorder,
    pub(super) serials: Vec<u32>,
    pub(super) keep: bool,
}

impl Unrouted {
    pub(super) fn new(spec: &FleetSpec, num_adapters: u32) -> Self {
        Self {
            recorder: Recorder::new(num_adapters, spec.collect, spec.objectives.into()),
            serials: Vec::new(),
            keep: spec.collect.requests,
        }
    }
}

/// Every replica's measures, and their sum.
pub(super) fn gather(
    spec: &FleetSpec,
    laws: &AdapterLaws,
    servers: &[Prepared<'_>],
    fleet: Vec<Replica<'_>>,
    unrouted: Unrouted,
    end: Picoseconds,
) -> Result<FleetOutcome> {
    let groups = alike(laws.keys());
    let ending = |kv: (u64, u64, u64), running, waiting| Ending {
        duration: end,
        running,
        waiting,
        kv_blocks: kv.0,
        usable_blocks: kv.1,
        kv_tokens: kv.2,
        alike: &groups,
    };
    let mut replicas = Vec::with_capacity(fleet.len());
    // Frames stay with their replica.
    let scalars = Collect {
        requests: false,
        timeseries_s: None,
        steps: false,
        ..spec.collect
    };
    let mut whole = Recorder::new(laws.ranks.len() as u32 - 1, scalars, spec.objectives.into());
    whole.merge(&unrouted.recorder);
    let (mut running, mut waiting, mut kv) = (0, 0, (0, 0, 0));
    let (mut served, mut gpu_s, mut peak) = (Vec::new(), 0.0, f64::NAN);
    for (mut replica, prepared) in fleet.into_iter().zip(servers) {
        let serials = replica.serials.take();
        let service = replica.service;
        let gone = service.stop.max(replica.last_delivery()).min(end);
        let seconds = to_seconds(gone.saturating_sub(service.start));
        let ended: Ended = replica.finish(end)?;
        let mut recorder = ended.recorder;
        let own = prepared.server.kv();
        served.push(recorder.served_tokens() as f64);
        gpu_s += seconds;
        (running, waiting) = (running + ended.running, waiting + ended.waiting);
        kv = (kv.0 + own.0, kv.1 + own.1, kv.2 + own.2);
        whole.merge(&recorder);
        let summary = Summary::of(&mut recorder, ending(own, ended.running, ended.waiting));
        peak = peak.max(float(&summary, "max_kv_usage"));
        replicas.push(ReplicaOutcome {
            summary,
            frames: recorder.into_frames(&laws.ranks, &laws.rates, spec.collect.adapters),
            serials,
            gpu_s: seconds,
        });
    }
    let mut summary = Summary::of(&mut whole, ending(kv, running, waiting));
    summary.replace("max_kv_usage", Metric::Float(peak));
    let mean = served.iter().sum::<f64>() / served.len() as f64;
    let most = served.iter().copied().fold(0.0, f64::max);
    summary.values.extend([
        ("unrouted", Metric::Int(unrouted.recorder.arrived())),
        ("gpu_s", Metric::Float(gpu_s)),
        ("served_imbalance", Metric::Float(most / mean)),
    ]);
    let mut frames = whole.into_frames(&laws.ranks, &laws.rates, spec.collect.adapters);
    frames.requests = unrouted.recorder.into_frames(&[], &[], false).requests;
    Ok(FleetOutcome::Ok {
        summary,
        frames: Box::new(frames),
        unrouted: unrouted.serials,
        replicas,
    })
}

fn float(summary: &Summary, name: &str) -> f64 {
    match summary.get(name) {
        Some(Metric::Float(value)) => value,
        _ => f64::NAN,
    }
}
