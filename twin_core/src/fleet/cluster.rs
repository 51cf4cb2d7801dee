//! The one clock of a fleet.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::feed::Feed;
use super::outcome::{FleetOutcome, Unrouted, gather};
use super::replica::{Replica, Service};
use super::router::{Candidate, Router};
use super::signals::{Outbox, View};
use super::spec::{AdapterAction, FleetSpec, ReplicaSpec, on_replica};
use crate::cost::{CostModel, Profile};
use crate::engine::scheduler::Fidelity;
use crate::error::{Result, TwinError};
use crate::lora::{AdapterId, Future};
use crate::metrics::Recorder;
use crate::rng::keyed;
use crate::server::{self, Server};
use crate::simulation::{Library, future};
use crate::time::{Picoseconds, from_seconds};
use crate::timed::{Conditions, TimedDriver};
use crate::workload::{AdapterLaws, Generated, Replay, Traffic, WorkloadSpec};

/// Arrivals that a router which looks at nothing sends on before the replicas go on.
const AHEAD: u32 = 4096;

/// Runs a fleet. `cancel` is looked at every few milliseconds.
pub fn simulate_fleet(library: &Library, spec: &FleetSpec, cancel: &AtomicBool) -> Result<FleetOutcome> {
    let laws = spec
        .workload
        .adapters(|name| Ok(library.trace(name)?.num_adapters()))?;
    let num_adapters = laws.ranks.len() as u32 - 1;
    spec.validate_adapters(num_adapters)?;
    let mut servers = Vec::with_capacity(spec.replicas.len());
    for (number, replica) in spec.replicas.iter().enumerate() {
        let profile = library.profile(&replica.profile)?;
        let plan = server::plan(profile, &replica.engine);
        if let Some((_, error)) = plan.infeasible.filter(|_| !spec.ignore_memory) {
            return Ok(FleetOutcome::Infeasible {
                error: format!("replica {number}: {error}"),
            });
        }
        servers.push(prepare(
            spec,
            number,
            replica,
            profile,
            plan.num_blocks,
            &laws.ranks,
        )?);
    }
    match &spec.workload {
        WorkloadSpec::Generated(workload) => {
            let traffic = || Generated::new(workload, &library.lengths, spec.seed);
            run(spec, &laws, &servers, traffic, cancel)
        }
        WorkloadSpec::Replay(workload) => {
            let trace = library.trace(&workload.trace)?;
            let end = from_seconds(workload.duration_s);
            run(
                spec,
                &laws,
                &servers,
                || Ok(Replay::new(Arc::clone(trace), end)),
                cancel,
            )
        }
    }
}

/// A replica whose inputs are resolved.
pub(super) struct Prepared<'a> {
    pub(super) server: Server<'a>,
    service: Service,
    /// Adapters that it serves from its start on, in order.
    first: Vec<AdapterId>,
    cost: CostModel,
}

fn prepare<'a>(
    spec: &'a FleetSpec,
    number: usize,
    replica: &'a ReplicaSpec,
    profile: &'a Profile,
    num_blocks: u32,
    ranks: &'a [u32],
) -> Result<Prepared<'a>> {
    let all = 1..ranks.len() as AdapterId;
    let mut first: Vec<AdapterId> = replica.adapters.clone().unwrap_or_else(|| all.collect());
    first.sort_unstable();
    first.dedup();
    let later = spec
        .events
        .iter()
        .filter(|event| event.replica as usize == number && event.action == AdapterAction::Load)
        .map(|event| event.adapter);
    let mut ever: Vec<AdapterId> = first.iter().copied().chain(later).collect();
    ever.sort_unstable();
    ever.dedup();
    let server = Server {
        config: &replica.engine,
        profile,
        num_blocks,
        ranks,
        served: ever.len() as u32,
    };
    server
        .check(ever.into_iter())
        .map_err(|error| on_replica(number, &error))?;
    let start = from_seconds(replica.start_s);
    Ok(Prepared {
        server,
        service: Service {
            start,
            ready: start + from_seconds(replica.startup_s),
            stop: replica.stop_s.map_or(Picoseconds::MAX, from_seconds),
        },
        first,
        cost: server.cost(),
    })
}

fn run<T: Traffic>(
    spec: &FleetSpec,
    laws: &AdapterLaws,
    servers: &[Prepared<'_>],
    traffic: impl Fn() -> Result<T>,
    cancel: &AtomicBool,
) -> Result<FleetOutcome> {
    let num_adapters = laws.ranks.len() as u32 - 1;
    let clairvoyant = servers
        .iter()
        .any(|prepared| prepared.server.config.policies.needs_future());
    let future = clairvoyant
        .then(|| Ok(future(traffic()?, num_adapters)))
        .transpose()?;
    let mut source = traffic()?;
    let duration = from_seconds(spec.workload.duration_s());
    let end = (!spec.workload.drain()).then_some(duration);
    let means = source.mean_tokens();
    let mut fleet: Vec<Replica<'_>> = servers
        .iter()
        .enumerate()
        .map(|(number, prepared)| {
            let feed = Feed::new(num_adapters, means.clone());
            start(spec, number, prepared, feed, end, future.clone(), cancel)
        })
        .collect();
    let mut unrouted = Unrouted::new(spec, num_adapters);
    route(spec, &mut source, servers, &mut fleet, &mut unrouted, cancel)?;
    for replica in &mut fleet {
        replica.advance(Picoseconds::MAX)?;
    }
    let last = fleet.iter().map(Replica::last_delivery).max().unwrap_or(0);
    let end = end.unwrap_or(duration.max(last));
    gather(spec, laws, servers, fleet, unrouted, end)
}

fn start<'a>(
    spec: &FleetSpec,
    number: usize,
    prepared: &'a Prepared<'_>,
    feed: Feed,
    end: Option<Picoseconds>,
    future: Option<Future>,
    cancel: &'a AtomicBool,
) -> Replica<'a> {
    let server = &prepared.server;
    // The first is the server of a single simulation; the others visit adapters in orders of their own.
    let seed = match number {
        0 => spec.seed,
        _ => keyed(spec.seed, u64::MAX - 1, number as u64),
    };
    let engine = server.engine(
        Fidelity::of(spec.exact),
        seed,
        &prepared.cost,
        prepared.first.iter().copied(),
        future,
    );
    let resident: Vec<AdapterId> = engine
        .lora
        .iter()
        .flat_map(|lora| lora.slots().iter().flatten().copied())
        .collect();
    let loads: VecDeque<(Picoseconds, AdapterId)> = spec
        .events
        .iter()
        .filter(|event| event.replica as usize == number && event.action == AdapterAction::Load)
        .map(|event| (from_seconds(event.at_s), event.adapter))
        .collect();
    let num_adapters = server.num_adapters();
    let mut registered = vec![false; num_adapters as usize + 1];
    registered[0] = true;
    for &adapter in &prepared.first {
        registered[adapter as usize] = true;
    }
    let recorder = Recorder::new(num_adapters, spec.collect, spec.objectives.into());
    let looks = spec.router.wants().any();
    let conditions = Conditions {
        loads,
        outbox: Some(Outbox::new(spec.router.wants(), spec.signal_delay_ms > 0.0)).filter(|_| looks),
        ..server.conditions(end)
    };
    let delay = from_seconds(spec.signal_delay_ms / 1e3);
    Replica::new(
        engine,
        TimedDriver::new(feed, &prepared.cost, cancel, recorder, conditions),
        View::new(num_adapters, delay, resident.into_iter()),
        prepared.service,
        registered,
        spec.collect.requests,
    )
}

/// Sends every request of `source` to a replica. Behind a router that looks, all replicas have told what there is to
/// tell before each arrival.
fn route(
    spec: &FleetSpec,
    source: &mut impl Traffic,
    servers: &[Prepared<'_>],
    fleet: &mut [Replica<'_>],
    unrouted: &mut Unrouted,
    cancel: &AtomicBool,
) -> Result<()> {
    let num_adapters = servers[0].server.num_adapters();
    let mut router = Router::new(&spec.router, spec.seed, num_adapters, fleet.len() as u32);
    let looks = spec.router.wants().any();
    let mut events = spec.events.iter().peekable();
    let mut ahead = 0;
    while let Some(request) = source.next() {
        let at = request.arrival;
        while let Some(event) = events.next_if(|event| from_seconds(event.at_s) <= at) {
            fleet[event.replica as usize].registered[event.adapter as usize] =
                event.action == AdapterAction::Load;
        }
        ahead += 1;
        if looks {
            for replica in fleet.iter_mut() {
                replica.look(at)?;
            }
        }
        if ahead == AHEAD {
            ahead = 0;
            if cancel.load(Ordering::Relaxed) {
                return Err(TwinError::Interrupted);
            }
            if !looks {
                fleet.iter_mut().try_for_each(|replica| replica.advance(at))?;
            }
        }
        let candidates: Vec<Candidate<'_>> = fleet
            .iter()
            .zip(servers)
            .zip(0..)
            .filter(|((replica, _), _)| replica.takes(request.adapter, at))
            .map(|((replica, prepared), number)| Candidate {
                replica: number,
                view: &replica.view,
                max_loras: prepared.server.config.max_loras,
            })
            .collect();
        let chosen = (!candidates.is_empty())
            .then(|| router.choose(&request, &candidates))
            .flatten()
            .map(|place| candidates[place].replica);
        match chosen {
            Some(replica) => fleet[replica as usize].send(request),
            None => {
                unrouted.recorder.arrive(&request, true);
                if unrouted.keep {
                    unrouted.serials.push(request.serial);
                }
            }
        }
    }
    Ok(())
}
