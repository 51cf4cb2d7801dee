//! A profile made ready for one server: times as functions of what a step did.

use super::features::{ConfigFeatures, Feature, NUM_FEATURES, Values};
use super::line::Line;
use super::load_time::LoadTimes;
use super::polynomial::Polynomial;
use super::profile::Profile;
use crate::config::EngineConfig;
use crate::engine::Batch;
use crate::time::{PS_PER_US, Picoseconds};

/// Costs of one server in picoseconds.
#[derive(Clone, Debug)]
pub struct CostModel {
    step: Polynomial,
    ingress: Polynomial,
    egress: Polynomial,
    host: Polynomial,
    first_request: Picoseconds,
    poll: Polynomial,
    /// Adapter loads.
    pub loads: LoadTimes,
}

impl CostModel {
    /// Folds `config` and the number of adapters that it serves into the profile; `ranks` are those of all.
    pub fn new(profile: &Profile, config: &EngineConfig, ranks: &[u32], served: u32) -> Self {
        let features = ConfigFeatures::new(config, served);
        Self {
            step: Polynomial::compile(&profile.step_time.terms, &features),
            ingress: Polynomial::compile(&profile.frontend.ingress, &features),
            egress: Polynomial::compile(&profile.frontend.egress, &features),
            host: Polynomial::compile(&profile.host.async_schedule, &features),
            first_request: Polynomial::compile(&profile.frontend.first_request, &features)
                .eval(&[0; NUM_FEATURES]),
            poll: Polynomial::compile(&profile.frontend.poll, &features),
            loads: LoadTimes::new(&profile.load_time, &features, ranks),
        }
    }

    /// Duration of a step without its adapter loads; at least a microsecond, so that time always advances.
    #[inline]
    pub fn step(&self, values: &Values) -> Picoseconds {
        self.step.eval(values).max(PS_PER_US)
    }

    /// Durations of the steps that repeat one of plain decodes with these `values`, which takes `duration` without loads: each
    /// reads one token more per request. `None` where they do not follow a line, or their egress changes.
    #[inline]
    pub fn repeated(&self, values: &Values, duration: Picoseconds) -> Option<Line> {
        let growth = values[Feature::DecodeSeqs as usize];
        let (slope, steps) = self.step.slope(values, growth)?;
        let (egress_slope, egress_steps) = self.egress.slope(values, growth)?;
        // At the lower limit of a step's duration its terms' sum is not known.
        if egress_slope != 0 || duration <= PS_PER_US {
            return None;
        }
        // This step is the first on the line; the steps that repeat it are the rest.
        let slope = i64::try_from(slope).ok()?;
        let room = if slope < 0 {
            duration - PS_PER_US
        } else {
            Picoseconds::MAX / 4 - duration.min(Picoseconds::MAX / 4)
        };
        let within_limits = room / slope.unsigned_abs().max(1);
        let steps = (steps.min(egress_steps) - 1).min(within_limits);
        (steps > 0).then(|| Line {
            first: duration.saturating_add_signed(slope),
            slope,
            steps,
        })
    }

    /// From the client's send until the scheduler can see the request.
    pub fn ingress(&self, running: usize, waiting: usize) -> Picoseconds {
        self.ingress.eval(&queue_values(running, waiting))
    }

    /// Serial work of the API server at an adapter's first request.
    pub fn first_request(&self) -> Picoseconds {
        self.first_request
    }

    /// Serial work of the API server at a poll of `/metrics` that shows so many sets of adapters.
    pub fn poll(&self, label_sets: usize) -> Picoseconds {
        let mut values = [0; NUM_FEATURES];
        values[Feature::LabelSets as usize] = label_sets as i64;
        self.poll.eval(&values)
    }

    /// From the end of a step until its tokens reach the client.
    #[inline]
    pub fn egress(&self, values: &Values) -> Picoseconds {
        self.egress.eval(values)
    }

    /// Host time of an iteration under async scheduling.
    pub fn host(&self, values: &Values) -> Picoseconds {
        self.host.eval(values)
    }
}

/// The features of a step, for all of its costs; `running` and `waiting` are the queues behind it. (The totals have these as
/// well, but just written: read in one word with a neighbour, as compilers do, they would have to be waited for.)
#[inline]
pub fn step_values(batch: &Batch, running: usize, waiting: usize) -> Values {
    let totals = &batch.totals;
    let mut values = queue_values(running, waiting);
    values[Feature::PrefillTokens as usize] = i64::from(totals.prefill_tokens);
    values[Feature::PrefillSeqs as usize] = i64::from(totals.prefill_seqs);
    values[Feature::DecodeSeqs as usize] = i64::from(totals.decode_seqs);
    values[Feature::Seqs as usize] = i64::from(totals.prefill_seqs + totals.decode_seqs);
    values[Feature::Tokens as usize] = i64::from(totals.tokens);
    values[Feature::ContextTokens as usize] = totals.context_tokens as i64;
    values[Feature::Adapters as usize] = batch.adapters.len() as i64;
    values[Feature::LoraSeqs as usize] = i64::from(totals.lora_seqs);
    values
}

fn queue_values(running: usize, waiting: usize) -> Values {
    let mut values = [0; NUM_FEATURES];
    values[Feature::Running as usize] = running as i64;
    values[Feature::Waiting as usize] = waiting as i64;
    values
}
