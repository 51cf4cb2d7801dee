//! Named numbers that describe a server and its traffic, for models trained on the twin.

use serde::Deserialize;

use super::mean_field::{Group, LengthMoments, MeanField};
use crate::config::EngineConfig;
use crate::cost::Profile;
use crate::error::{Result, TwinError, invalid};
use crate::simulation::Library;

/// Names of the columns of [`features`], in order.
pub const FEATURES: [&str; 35] = [
    "served_adapters",
    "max_loras",
    "max_lora_rank",
    "rate_rps",
    "offered_token_throughput",
    "rate_mean_rps",
    "rate_cv",
    "rate_skew",
    "rate_max_rps",
    "rank_mean",
    "rank_max",
    "prompt_tokens",
    "output_tokens",
    "context_tokens",
    "kv_tokens",
    "kv_tokens_per_slot",
    "slots_per_adapter",
    "least_step_ms",
    "least_active_adapters",
    "top_slots_share",
    "running",
    "most_running",
    "kv_pressure",
    "step_ms",
    "utilisation",
    "gain",
    "active_adapters",
    "slot_pressure",
    "slot_margin",
    "load_share",
    "slot_wait_s",
    "slot_queue",
    "first_token_ms",
    "capacity_share",
    "served_share",
];

/// Several settings of one server under one law of traffic.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// Profile's name in the library.
    pub profile: String,
    /// Settings that the candidates share.
    pub engine: EngineConfig,
    /// Moments of the lengths.
    pub lengths: LengthMoments,
    /// Requests per second, cycled over the served adapters.
    pub rates_rps: Vec<f64>,
    /// Ranks, cycled over the served adapters.
    pub ranks: Vec<u32>,
    /// Requests per second to the base model.
    #[serde(default)]
    pub base_rate_rps: f64,
    /// Horizon in seconds.
    pub duration_s: f64,
    /// Settings to describe.
    pub candidates: Vec<Candidate>,
}

/// One setting: these replace the shared ones.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// Adapters served.
    pub served_adapters: u32,
    /// GPU slots.
    pub max_loras: u32,
    /// Rank of every slot.
    pub max_lora_rank: u32,
}

impl Query {
    /// Reads a document.
    pub fn parse(json: &str) -> Result<Self> {
        serde_json::from_str(json).map_err(|cause| TwinError::Schema {
            what: "surrogate query".into(),
            cause: cause.to_string(),
        })
    }

    fn validate(&self) -> Result<()> {
        if self.rates_rps.is_empty() || self.ranks.is_empty() {
            return invalid("a query needs at least one rate in rates_rps and one rank in ranks");
        }
        if let Some(rate) = self
            .rates_rps
            .iter()
            .find(|rate| !(rate.is_finite() && **rate >= 0.0))
        {
            return invalid(format!("rates_rps ({rate}) must be >= 0 and finite"));
        }
        if !(self.duration_s.is_finite() && self.duration_s > 0.0) {
            return invalid(format!("duration_s ({}) must be > 0", self.duration_s));
        }
        let lengths = &self.lengths;
        if !(lengths.output >= 1.0 && lengths.prompt >= 1.0) {
            return invalid(format!(
                "mean lengths ({}, {}) must be >= 1 token",
                lengths.prompt, lengths.output
            ));
        }
        Ok(())
    }

    /// The served adapters by equal (rate, rank).
    fn groups(&self, served: u32) -> Vec<Group> {
        let (rates, ranks) = (self.rates_rps.len(), self.ranks.len());
        let period = rates * ranks / gcd(rates, ranks);
        let mut groups: Vec<Group> = Vec::new();
        for k in 0..period.min(served as usize) {
            let (rate, rank) = (self.rates_rps[k % rates], f64::from(self.ranks[k % ranks]));
            let count = f64::from(served / period as u32) + f64::from(u8::from(k < served as usize % period));
            match groups
                .iter_mut()
                .find(|group| group.rate == rate && group.rank == rank)
            {
                Some(group) => group.count += count,
                None => groups.push(Group { rate, rank, count }),
            }
        }
        groups
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// One row per candidate, `None` where the server cannot start.
pub fn features(library: &Library, query: &Query) -> Result<Vec<Option<[f64; FEATURES.len()]>>> {
    query.validate()?;
    let profile = library.profile(&query.profile)?;
    let mut groups = (0, Vec::new());
    query
        .candidates
        .iter()
        .map(|candidate| {
            let config = EngineConfig {
                max_loras: candidate.max_loras,
                max_cpu_loras: candidate.served_adapters.max(candidate.max_loras),
                max_lora_rank: candidate.max_lora_rank,
                ..query.engine.clone()
            };
            let plan = profile.memory.plan(&config);
            if plan.infeasible.is_some() {
                return Ok(None);
            }
            if groups.0 != candidate.served_adapters {
                groups = (candidate.served_adapters, query.groups(candidate.served_adapters));
            }
            let kv_tokens = f64::from(plan.num_blocks) * f64::from(config.block_size);
            Ok(Some(row(profile, query, &config, &groups.1, kv_tokens)))
        })
        .collect()
}

fn row(
    profile: &Profile,
    query: &Query,
    config: &EngineConfig,
    groups: &[Group],
    kv_tokens: f64,
) -> [f64; FEATURES.len()] {
    let lengths = query.lengths;
    let field = MeanField::new(
        profile,
        config,
        groups,
        query.base_rate_rps,
        lengths,
        kv_tokens,
        query.duration_s,
    );
    let (slots, rate) = (f64::from(config.max_loras), field.rate());
    let (state, _) = field.settle();
    let full = field.at(field.most_running());
    let capacity = field.throughput(&full);
    let (here, nudged) = (field.at(state.running), field.at(1.05 * state.running));
    let moments = Moments::of(groups);
    // What is in flight at the horizon's end was offered, but not served.
    let in_flight = (state.running + state.slot_queue) / (rate * query.duration_s).max(1e-12);
    let share = (capacity / rate.max(1e-12)).min(1.0 - in_flight).max(1e-3);
    let least_step_s = field.least_step_s();
    let residence = lengths.output * least_step_s;
    let least_active: f64 = groups
        .iter()
        .map(|group| -group.count * (-group.rate * residence).exp_m1())
        .sum();
    let context = lengths.context(f64::from(config.block_size));
    [
        moments.count,
        slots,
        f64::from(config.max_lora_rank),
        rate,
        rate * (lengths.prompt + lengths.output),
        moments.mean,
        moments.cv,
        moments.skew,
        moments.max,
        moments.rank_mean,
        moments.rank_max,
        lengths.prompt,
        lengths.output,
        context,
        kv_tokens,
        kv_tokens / slots.max(1.0),
        slots / moments.count.max(1.0),
        1e3 * least_step_s,
        least_active,
        top_share(groups, slots, rate),
        state.running,
        field.most_running(),
        state.running / field.most_running(),
        1e3 * state.step_s,
        rate / capacity.max(1e-12),
        rate * lengths.output * (nudged.step_s - here.step_s) / (0.05 * state.running).max(1e-9),
        state.active,
        state.active / slots.max(1.0),
        (slots - state.active) / state.active_variance.sqrt().max(1.0),
        state.load_share,
        state.slot_wait_s,
        state.slot_queue,
        1e3 * field.first_token_s(&state),
        (capacity / rate.max(1e-12)).min(1.0),
        share,
    ]
}

/// Share of the traffic that the adapters of highest rate bring, as many as there are slots.
fn top_share(groups: &[Group], slots: f64, rate: f64) -> f64 {
    let mut sorted = groups.to_vec();
    sorted.sort_by(|a, b| b.rate.total_cmp(&a.rate));
    let (mut left, mut share) = (slots, 0.0);
    for group in sorted {
        let taken = group.count.min(left);
        left -= taken;
        share += taken * group.rate;
    }
    share / rate.max(1e-12)
}

struct Moments {
    count: f64,
    mean: f64,
    cv: f64,
    skew: f64,
    max: f64,
    rank_mean: f64,
    rank_max: f64,
}

impl Moments {
    fn of(groups: &[Group]) -> Self {
        let count: f64 = groups.iter().map(|group| group.count).sum();
        let per = |f: &dyn Fn(&Group) -> f64| -> f64 {
            groups.iter().map(|group| group.count * f(group)).sum::<f64>() / count.max(1.0)
        };
        let mean = per(&|group| group.rate);
        let deviation = per(&|group| (group.rate - mean).powi(2)).sqrt();
        let third = per(&|group| (group.rate - mean).powi(3));
        Self {
            count,
            mean,
            cv: deviation / mean.max(1e-12),
            skew: if deviation > 1e-9 * mean {
                third / deviation.powi(3)
            } else {
                0.0
            },
            max: groups.iter().map(|group| group.rate).fold(0.0, f64::max),
            rank_mean: per(&|group| group.rank),
            rank_max: groups.iter().map(|group| group.rank).fold(0.0, f64::max),
        }
    }
}
