//! Who gets which request.
//!
//! Ties are broken by chance, keyed by (seed, request), so that idle fleets do not pile up on the first replica and a choice
//! depends on nothing but the document.

use serde::Deserialize;

use super::signals::{View, Wants};
use crate::engine::NewRequest;
use crate::error::{Result, invalid};
use crate::lora::AdapterId;
use crate::rng::keyed;

/// By which sign an adapter is at home on a replica.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum AffinityBy {
    /// It has a running or waiting request there (vLLM's `vllm:lora_requests_info`; what gateways read).
    Activity,
    /// It has a GPU slot there.
    Residency,
}

/// One adapter's share on one replica.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Adapter; 0 is the base model.
    pub adapter: AdapterId,
    /// Number of the replica, from 0.
    pub replica: u32,
    /// Of its requests: relative to its other shares.
    pub fraction: f64,
}

/// A router as a document names it.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RouterSpec {
    /// Any, by chance.
    Random,
    /// One after the other.
    RoundRobin,
    /// The one with the fewest requests sent and not come back.
    LeastOutstanding,
    /// The better of two drawn by chance (Mitzenmacher 2001), by outstanding requests.
    PowerOfTwo,
    /// The one with the fewest waiting requests, among those the one with the least KV cache in use.
    KvAware,
    /// The least outstanding of those where the adapter is at home; else of those with a free adapter place; else of all.
    AdapterAffinity {
        /// What home means.
        by: AffinityBy,
        /// A home with so many more requests outstanding than the least loaded replica is passed over.
        #[serde(default)]
        spill: Option<u64>,
    },
    /// Highest random weight (Thaler and Ravishankar 1998): the least outstanding of each adapter's `copies` best replicas.
    Rendezvous {
        /// Replicas per adapter.
        copies: u32,
    },
    /// Given shares. Requests of an adapter without a share that can take them are refused.
    Fixed {
        /// One row per (adapter, replica).
        shares: Vec<Share>,
    },
}

impl RouterSpec {
    /// Checks what refers to replicas and adapters.
    pub fn validate(&self, replicas: u32, num_adapters: u32) -> Result<()> {
        match self {
            Self::Rendezvous { copies } if !(1..=replicas).contains(copies) => invalid(format!(
                "copies ({copies}) must be from 1 to {replicas}, the number of replicas"
            )),
            Self::Fixed { shares } => {
                if shares.is_empty() {
                    return invalid("shares ([]) must place at least one adapter on a replica");
                }
                let mut seen = std::collections::BTreeSet::new();
                for share in shares {
                    let Share {
                        adapter,
                        replica,
                        fraction,
                    } = *share;
                    if adapter > num_adapters || replica >= replicas {
                        return invalid(format!(
                            "share of adapter {adapter} on replica {replica}: adapters are 0 to {num_adapters}, replicas 0 to {}",
                            replicas - 1
                        ));
                    }
                    if !(fraction > 0.0 && fraction.is_finite()) {
                        return invalid(format!(
                            "share of adapter {adapter} on replica {replica}: fraction ({fraction}) must be > 0"
                        ));
                    }
                    if !seen.insert((adapter, replica)) {
                        return invalid(format!(
                            "adapter {adapter} has two shares on replica {replica}: add them up"
                        ));
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What it must be told.
    pub fn wants(&self) -> Wants {
        let none = Wants::default();
        match self {
            Self::Random | Self::RoundRobin | Self::Fixed { .. } | Self::Rendezvous { copies: 1 } => none,
            Self::LeastOutstanding | Self::PowerOfTwo | Self::Rendezvous { .. } => Wants {
                outstanding: true,
                ..none
            },
            Self::KvAware => Wants { load: true, ..none },
            Self::AdapterAffinity { by, .. } => Wants {
                outstanding: true,
                activity: true,
                residency: *by == AffinityBy::Residency,
                ..none
            },
        }
    }
}

/// A replica that could take a request.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its number.
    pub replica: u32,
    /// What is known of it.
    pub view: &'a View,
    /// Its adapter places.
    pub max_loras: u32,
}

/// A router at work.
#[derive(Debug)]
pub struct Router {
    spec: RouterSpec,
    seed: u64,
    replicas: u32,
    turn: u64,
    /// Fixed shares by adapter.
    shares: Vec<Vec<(u32, f64)>>,
    /// Replicas by falling weight, by adapter; empty until asked for.
    preferred: Vec<Vec<u32>>,
}

impl Router {
    /// A router of validated settings.
    pub fn new(spec: &RouterSpec, seed: u64, num_adapters: u32, replicas: u32) -> Self {
        let mut shares = vec![Vec::new(); num_adapters as usize + 1];
        if let RouterSpec::Fixed { shares: rows } = spec {
            for row in rows {
                shares[row.adapter as usize].push((row.replica, row.fraction));
            }
        }
        Self {
            spec: spec.clone(),
            // A stream of its own: choices must not follow the lengths.
            seed: keyed(seed, u64::MAX, 0x726f_7574),
            replicas,
            turn: 0,
            shares,
            preferred: vec![Vec::new(); num_adapters as usize + 1],
        }
    }

    /// The place in `candidates` (not empty, by rising replica) of the one that gets the request.
    pub fn choose(&mut self, request: &NewRequest, candidates: &[Candidate<'_>]) -> Option<usize> {
        let n = candidates.len();
        let dice = keyed(self.seed, u64::from(request.serial), 0);
        match &self.spec {
            RouterSpec::Random => Some(below(dice, n)),
            RouterSpec::RoundRobin => {
                self.turn += 1;
                Some(((self.turn - 1) % n as u64) as usize)
            }
            RouterSpec::LeastOutstanding => least(candidates, dice, |c| Some(c.view.outstanding)),
            RouterSpec::PowerOfTwo => {
                let first = below(dice, n);
                let other = below(keyed(self.seed, u64::from(request.serial), 1), n.max(2) - 1);
                let second = if n == 1 {
                    0
                } else {
                    other + usize::from(other >= first)
                };
                let better = candidates[second].view.outstanding < candidates[first].view.outstanding;
                Some(if better { second } else { first })
            }
            RouterSpec::KvAware => least(candidates, dice, |c| {
                // Shares in a billionth: whole numbers have an order.
                Some((c.view.waiting, (c.view.kv_used * 1e9) as u64))
            }),
            RouterSpec::AdapterAffinity { by, spill } => {
                Some(affinity(request.adapter, candidates, dice, *by, *spill))
            }
            RouterSpec::Rendezvous { .. } if request.adapter == 0 => Some(below(dice, n)),
            RouterSpec::Rendezvous { copies } => {
                let preferred = &mut self.preferred[request.adapter as usize];
                if preferred.is_empty() {
                    *preferred = by_weight(request.adapter, self.replicas);
                }
                rendezvous(preferred, candidates, *copies as usize)
            }
            RouterSpec::Fixed { .. } => by_share(&self.shares[request.adapter as usize], candidates, dice),
        }
    }
}

/// Evenly from 0 to `n` - 1.
fn below(dice: u64, n: usize) -> usize {
    ((u128::from(dice) * n as u128) >> 64) as usize
}

/// The candidate of the least key among those that have one; ties go to the first from a place drawn by chance.
fn least<K: Ord>(
    candidates: &[Candidate<'_>],
    dice: u64,
    key: impl Fn(&Candidate<'_>) -> Option<K>,
) -> Option<usize> {
    let n = candidates.len();
    let start = below(dice, n);
    (0..n)
        .map(|step| (start + step) % n)
        .filter_map(|at| Some((key(&candidates[at])?, at)))
        .reduce(|best, other| if other.0 < best.0 { other } else { best })
        .map(|(_, at)| at)
}

fn affinity(
    adapter: AdapterId,
    candidates: &[Candidate<'_>],
    dice: u64,
    by: AffinityBy,
    spill: Option<u64>,
) -> usize {
    let outstanding = |c: &Candidate<'_>| c.view.outstanding;
    let floor = candidates.iter().map(outstanding).min().unwrap_or(0);
    let near = |c: &Candidate<'_>| spill.is_none_or(|spill| c.view.outstanding <= floor + spill);
    let home = |c: &Candidate<'_>| {
        near(c)
            && match by {
                AffinityBy::Activity => c.view.is_active(adapter),
                AffinityBy::Residency => c.view.is_resident(adapter),
            }
    };
    let room = |c: &Candidate<'_>| near(c) && c.view.num_active < c.max_loras;
    let among = |which: &dyn Fn(&Candidate<'_>) -> bool| {
        least(candidates, dice, |c| which(c).then(|| outstanding(c)))
    };
    let found = if adapter == 0 {
        None
    } else {
        among(&home).or_else(|| among(&room))
    };
    found.or_else(|| among(&|_| true)).unwrap_or(0)
}

/// Replicas by falling weight. Weights are those of (adapter, replica) under any seed, so that a fleet's placement does not change
/// from run to run; requests of the base model, which is at home everywhere, are dealt by chance.
fn by_weight(adapter: AdapterId, replicas: u32) -> Vec<u32> {
    let mut all: Vec<u32> = (0..replicas).collect();
    all.sort_by_key(|&replica| std::cmp::Reverse(keyed(0x7265_6e64, u64::from(adapter), u64::from(replica))));
    all
}

/// The least outstanding of the first `copies` preferred replicas that are candidates.
fn rendezvous(preferred: &[u32], candidates: &[Candidate<'_>], copies: usize) -> Option<usize> {
    preferred
        .iter()
        .filter_map(|replica| candidates.binary_search_by_key(replica, |c| c.replica).ok())
        .take(copies)
        .reduce(|a, b| {
            if candidates[b].view.outstanding < candidates[a].view.outstanding {
                b
            } else {
                a
            }
        })
}

fn by_share(shares: &[(u32, f64)], candidates: &[Candidate<'_>], dice: u64) -> Option<usize> {
    let open: Vec<(usize, f64)> = shares
        .iter()
        .filter_map(|&(replica, fraction)| {
            let at = candidates.binary_search_by_key(&replica, |c| c.replica).ok()?;
            Some((at, fraction))
        })
        .collect();
    let total: f64 = open.iter().map(|&(_, fraction)| fraction).sum();
    let mut left = dice as f64 / 2f64.powi(64) * total;
    for &(at, fraction) in &open {
        left -= fraction;
        if left < 0.0 {
            return Some(at);
        }
    }
    open.last().map(|&(at, _)| at)
}
