//! The traffic part of a simulation's JSON document.

use serde::Deserialize;

use crate::error::{Result, invalid};

/// How gaps between arrivals are distributed.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(tag = "law", rename_all = "lowercase", deny_unknown_fields)]
pub enum ArrivalLaw {
    /// Exponential gaps.
    #[default]
    Poisson,
    /// Gamma gaps of shape `burstiness` (`vllm bench serve --burstiness`): below 1 burstier than Poisson.
    Gamma {
        /// Shape; 1 is Poisson.
        burstiness: f64,
    },
    /// Equal gaps after a random phase.
    Constant,
}

/// How long prompts and outputs are.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(tag = "law", rename_all = "lowercase", deny_unknown_fields)]
pub enum LengthLaw {
    /// Joint draws from a table of (prompt, output) pairs that the library holds.
    Table {
        /// Its name.
        name: String,
    },
    /// Always the same.
    Constant {
        /// Tokens.
        prompt_tokens: u32,
        /// Tokens.
        output_tokens: u32,
    },
    /// Independent log-normal lengths, rounded, at least 1.
    Lognormal {
        /// Median prompt, tokens.
        prompt_median: f64,
        /// Standard deviation of its logarithm.
        prompt_sigma: f64,
        /// Median output, tokens.
        output_median: f64,
        /// Standard deviation of its logarithm.
        output_sigma: f64,
        /// Pairs longer than this together are drawn again.
        max_total_tokens: u32,
    },
}

/// Adapters that share a description. Rates and ranks are cycled over the group.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterGroup {
    /// Adapters in the group.
    pub count: u32,
    /// Requests per second, cycled.
    pub rates_rps: Vec<f64>,
    /// Ranks, cycled.
    pub ranks: Vec<u32>,
    /// Lengths of this group's requests; the workload's law if left out.
    #[serde(default)]
    pub lengths: Option<LengthLaw>,
    /// Random stream of each adapter, where it is not its number: part of a fleet keeps the requests that it has in the whole.
    #[serde(default)]
    pub streams: Vec<u32>,
}

impl AdapterGroup {
    fn total_rate_rps(&self) -> f64 {
        (0..self.count as usize)
            .map(|k| {
                self.rates_rps
                    .get(k % self.rates_rps.len().max(1))
                    .unwrap_or(&0.0)
            })
            .sum()
    }
}

/// Requests are numbered in 32 bits.
const MAX_REQUESTS: f64 = 2e9;

/// The traffic of one simulation.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum WorkloadSpec {
    /// Drawn from laws.
    Generated(GeneratedSpec),
    /// A recorded or given list of requests.
    Replay(ReplaySpec),
}

/// Chance that a request stops before its requested length, at a uniform position of its output: a constant part and one that
/// grows with the requested output. In JSON a bare number is the constant part alone.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(from = "EarlyEosValue")]
pub struct EarlyEos {
    /// Whatever the output's length.
    pub probability: f64,
    /// Per token of the requested output.
    pub per_token: f64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum EarlyEosValue {
    Constant(f64),
    Law(EarlyEosLaw),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EarlyEosLaw {
    probability: f64,
    #[serde(default)]
    per_token: f64,
}

impl From<EarlyEosValue> for EarlyEos {
    fn from(value: EarlyEosValue) -> Self {
        match value {
            EarlyEosValue::Constant(probability) => Self {
                probability,
                per_token: 0.0,
            },
            EarlyEosValue::Law(law) => Self {
                probability: law.probability,
                per_token: law.per_token,
            },
        }
    }
}

impl EarlyEos {
    /// For a request of `max_tokens`, by one uniform draw `u` in [0, 1): after how many tokens it stops early, if it does.
    pub fn stop_at(self, u: f64, max_tokens: u32) -> Option<u32> {
        let length = f64::from(max_tokens);
        let chance = (self.probability + self.per_token * length).min(1.0);
        (u < chance).then(|| 1 + (u / chance * length) as u32)
    }

    fn validate(self) -> Result<()> {
        for (name, value) in [
            ("early_eos", self.probability),
            ("early_eos.per_token", self.per_token),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return invalid(format!("{name} ({value}) must be a probability in [0, 1]"));
            }
        }
        Ok(())
    }
}

/// Traffic drawn from laws.
#[derive(Clone, Debug, Deserialize)]
pub struct GeneratedSpec {
    /// The client stops here.
    pub duration_s: f64,
    /// Wait for what is in flight at the end.
    #[serde(default)]
    pub drain: bool,
    /// Adapters, numbered from 1 in order.
    #[serde(default)]
    pub adapters: Vec<AdapterGroup>,
    /// Requests per second to the base model.
    #[serde(default)]
    pub base_rate_rps: f64,
    /// Law of the gaps.
    #[serde(default)]
    pub arrivals: ArrivalLaw,
    /// Law of the lengths.
    pub lengths: LengthLaw,
    /// How often a request stops before its requested length.
    #[serde(default)]
    pub early_eos: EarlyEos,
    /// Fixed number of arrivals.
    #[serde(default)]
    pub total_requests: Option<u32>,
}

/// Traffic that is given.
#[derive(Clone, Debug, Deserialize)]
pub struct ReplaySpec {
    /// Name of the trace in the library.
    pub trace: String,
    /// The client stops here.
    pub duration_s: f64,
    /// Wait for what is in flight at the end.
    #[serde(default)]
    pub drain: bool,
    /// Ranks of adapters 1, 2, ...: cycled.
    #[serde(default)]
    pub ranks: Vec<u32>,
}

impl WorkloadSpec {
    /// When the client stops, in seconds.
    pub fn duration_s(&self) -> f64 {
        match self {
            Self::Generated(spec) => spec.duration_s,
            Self::Replay(spec) => spec.duration_s,
        }
    }

    /// Whether the run goes on until everything in flight has finished.
    pub fn drain(&self) -> bool {
        match self {
            Self::Generated(spec) => spec.drain,
            Self::Replay(spec) => spec.drain,
        }
    }

    /// Whether it is a given list of requests.
    pub fn is_replay(&self) -> bool {
        matches!(self, Self::Replay(_))
    }

    /// Checks the numbers.
    pub fn validate(&self) -> Result<()> {
        let duration = self.duration_s();
        // Picoseconds fill 64 bits after 213 days; a hundred leave room for draining.
        if !(duration > 0.0 && duration <= 8_640_000.0) {
            return invalid(format!(
                "duration_s ({duration}) must be > 0 and <= 8640000 (100 days)"
            ));
        }
        let Self::Generated(spec) = self else {
            return Ok(());
        };
        let rate = spec.base_rate_rps
            + spec
                .adapters
                .iter()
                .map(AdapterGroup::total_rate_rps)
                .sum::<f64>();
        if rate * duration > MAX_REQUESTS {
            return invalid(format!(
                "{rate} requests per second over duration_s ({duration}) must be <= {MAX_REQUESTS} requests: shorten it"
            ));
        }
        check_rate("base_rate_rps", spec.base_rate_rps)?;
        spec.early_eos.validate()?;
        if let ArrivalLaw::Gamma { burstiness } = spec.arrivals
            && !(burstiness >= 0.01 && burstiness.is_finite())
        {
            // Below, gaps underflow to zero and arrivals never end.
            return invalid(format!("burstiness ({burstiness}) must be >= 0.01; 1 is Poisson"));
        }
        if spec.total_requests.is_some() && spec.arrivals != ArrivalLaw::Poisson {
            return invalid("total_requests needs Poisson arrivals: leave out burstiness");
        }
        for group in &spec.adapters {
            if group.rates_rps.is_empty() || group.ranks.is_empty() {
                return invalid(
                    "an adapter group needs at least one rate in rates_rps and one rank in ranks",
                );
            }
            if !group.streams.is_empty() && group.streams.len() != group.count as usize {
                return invalid(format!(
                    "streams ({} of them) must name one for each of the group's {} adapters",
                    group.streams.len(),
                    group.count
                ));
            }
            for &rate in &group.rates_rps {
                check_rate("rates_rps", rate)?;
            }
            if let Some(lengths) = &group.lengths {
                lengths.validate()?;
            }
        }
        spec.lengths.validate()
    }
}

fn check_rate(name: &str, rate: f64) -> Result<()> {
    // A million requests per second per adapter is beyond any server; it also keeps gaps above a picosecond.
    if (0.0..=1e6).contains(&rate) {
        return Ok(());
    }
    invalid(format!(
        "{name} ({rate}) must be >= 0 and <= 1000000 requests per second"
    ))
}

impl LengthLaw {
    fn validate(&self) -> Result<()> {
        match *self {
            Self::Table { .. } => Ok(()),
            Self::Constant {
                prompt_tokens,
                output_tokens,
            } => {
                if prompt_tokens == 0 || output_tokens == 0 {
                    return invalid(format!(
                        "lengths ({prompt_tokens}, {output_tokens}) must be >= 1 token each"
                    ));
                }
                Ok(())
            }
            Self::Lognormal {
                prompt_median,
                prompt_sigma,
                output_median,
                output_sigma,
                max_total_tokens,
            } => {
                let medians = prompt_median >= 1.0 && output_median >= 1.0;
                let sigmas = (0.0..=5.0).contains(&prompt_sigma) && (0.0..=5.0).contains(&output_sigma);
                if !(medians && sigmas) {
                    return invalid(format!(
                        "log-normal lengths need medians >= 1 token ({prompt_median}, {output_median}) and sigmas in [0, 5] ({prompt_sigma}, {output_sigma})"
                    ));
                }
                if f64::from(max_total_tokens) < prompt_median + output_median {
                    return invalid(format!(
                        "max_total_tokens ({max_total_tokens}) must be >= the sum of the medians ({})",
                        prompt_median + output_median
                    ));
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::EarlyEos;

    fn law(json: &str) -> EarlyEos {
        serde_json::from_str(json).expect("a law")
    }

    #[test]
    fn a_bare_number_is_a_constant_chance() {
        assert_eq!(
            law("0.25"),
            EarlyEos {
                probability: 0.25,
                per_token: 0.0
            }
        );
        assert_eq!(law("0.25"), law(r#"{"probability": 0.25}"#));
        assert!(serde_json::from_str::<EarlyEos>(r#"{"probability": 0.25, "per_word": 1}"#).is_err());
    }

    #[test]
    fn long_outputs_stop_more_often_and_uniformly() {
        let law = law(r#"{"probability": 0.01, "per_token": 1e-4}"#);
        let draws = 100_000;
        for (length, chance) in [(100_u32, 0.02), (900, 0.1), (20_000, 1.0)] {
            let stops: Vec<u32> = (0..draws)
                .filter_map(|k| law.stop_at(f64::from(k) / f64::from(draws), length))
                .collect();
            let share = stops.len() as f64 / f64::from(draws);
            assert!((share - chance).abs() < 2e-5, "{share} of {length}");
            assert!(stops.iter().all(|&stop| (1..=length).contains(&stop)));
            let mean = stops.iter().map(|&stop| f64::from(stop)).sum::<f64>() / stops.len() as f64;
            assert!(
                (mean / f64::from(length + 1) - 0.5).abs() < 0.01,
                "{mean} of {length}"
            );
        }
    }
}
