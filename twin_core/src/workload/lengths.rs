//! Prompt and output lengths.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::Rng;
use rand_distr::weighted::WeightedAliasIndex;
use rand_distr::{Distribution, StandardNormal};

use super::spec::LengthLaw;
use crate::error::{Result, TwinError, invalid};

/// A weighted table of (prompt, output) pairs: a joint law. Prompt and output lengths of real chats are correlated, and the KV
/// cache feels it: independent draws of the same marginals hold a fifth more tokens per running request.
#[derive(Debug)]
pub struct LengthTable {
    pairs: Vec<(u32, u32)>,
    mean_tokens: f64,
    index: WeightedAliasIndex<f64>,
}

impl LengthTable {
    /// A table from columns of equal length; weights need not add up to 1.
    pub fn new(prompt_tokens: &[u32], output_tokens: &[u32], weights: &[f64]) -> Result<Self> {
        let n = prompt_tokens.len();
        if n == 0 || output_tokens.len() != n || weights.len() != n {
            return invalid(format!(
                "a length table needs columns of one length >= 1 (got {n}, {}, {})",
                output_tokens.len(),
                weights.len()
            ));
        }
        if let Some(zero) = prompt_tokens
            .iter()
            .chain(output_tokens)
            .position(|&tokens| tokens == 0)
        {
            return invalid(format!(
                "row {} of the length table: lengths must be >= 1 token",
                zero % n
            ));
        }
        let index = WeightedAliasIndex::new(weights.to_vec()).map_err(|cause| {
            TwinError::Invalid(format!(
                "weights of the length table must be >= 0 with a positive sum: {cause}"
            ))
        })?;
        let pairs = prompt_tokens.iter().zip(output_tokens).zip(weights);
        let sum: f64 = pairs
            .map(|((&prompt, &output), weight)| weight * (f64::from(prompt) + f64::from(output)))
            .sum();
        Ok(Self {
            mean_tokens: sum / weights.iter().sum::<f64>(),
            pairs: prompt_tokens
                .iter()
                .copied()
                .zip(output_tokens.iter().copied())
                .collect(),
            index,
        })
    }
}

/// Length tables by name.
pub type LengthTables = BTreeMap<String, Arc<LengthTable>>;

/// A length law ready to draw from.
#[derive(Clone, Debug)]
pub enum LengthSampler {
    /// Joint draws.
    Table(Arc<LengthTable>),
    /// Always the same pair.
    Constant(u32, u32),
    /// Logarithms of the medians, sigmas, and the longest total.
    Lognormal {
        /// ln median and sigma of the prompt.
        prompt: (f64, f64),
        /// ln median and sigma of the output.
        output: (f64, f64),
        /// Longest prompt + output.
        max_total: u32,
    },
}

impl LengthSampler {
    /// Resolves a law against the tables at hand.
    pub fn new(law: &LengthLaw, tables: &LengthTables) -> Result<Self> {
        Ok(match law {
            LengthLaw::Table { name } => {
                Self::Table(tables.get(name).cloned().ok_or_else(|| TwinError::Unknown {
                    kind: "length table",
                    name: name.clone(),
                    known: tables.keys().cloned().collect::<Vec<_>>().join(", "),
                })?)
            }
            &LengthLaw::Constant {
                prompt_tokens,
                output_tokens,
            } => Self::Constant(prompt_tokens, output_tokens),
            &LengthLaw::Lognormal {
                prompt_median,
                prompt_sigma,
                output_median,
                output_sigma,
                max_total_tokens,
            } => Self::Lognormal {
                prompt: (prompt_median.ln(), prompt_sigma),
                output: (output_median.ln(), output_sigma),
                max_total: max_total_tokens,
            },
        })
    }

    /// Mean of prompt + output tokens.
    pub fn mean_tokens(&self) -> f64 {
        match self {
            Self::Table(table) => table.mean_tokens,
            &Self::Constant(prompt, output) => f64::from(prompt) + f64::from(output),
            &Self::Lognormal {
                prompt,
                output,
                max_total,
            } => lognormal_mean(prompt, output, max_total),
        }
    }

    /// Draws (prompt, output) tokens.
    pub fn sample(&self, rng: &mut impl Rng) -> (u32, u32) {
        match self {
            Self::Table(table) => table.pairs[table.index.sample(rng)],
            &Self::Constant(prompt, output) => (prompt, output),
            &Self::Lognormal {
                prompt,
                output,
                max_total,
            } => loop {
                let (p, o) = (lognormal(rng, prompt), lognormal(rng, output));
                if p + o <= f64::from(max_total) {
                    return (p as u32, o as u32);
                }
            },
        }
    }
}

fn lognormal(rng: &mut impl Rng, (mu, sigma): (f64, f64)) -> f64 {
    let z: f64 = StandardNormal.sample(rng);
    whole_tokens(mu, sigma, z)
}

fn whole_tokens(mu: f64, sigma: f64, z: f64) -> f64 {
    (mu + sigma * z).exp().round().max(1.0)
}

/// Mean of prompt + output under the redrawing above `max_total`: the trapezoid rule over both normal laws, up to six deviations
/// in steps of a fiftieth, which whole tokens and the cut leave good to about 1e-4.
fn lognormal_mean(prompt: (f64, f64), output: (f64, f64), max_total: u32) -> f64 {
    let points = |(mu, sigma): (f64, f64)| -> Vec<(f64, f64)> {
        (-300..=300)
            .map(|k| f64::from(k) / 50.0)
            .map(|z| (whole_tokens(mu, sigma, z), (-z * z / 2.0).exp()))
            .collect()
    };
    // Ascending, so that of the outputs only a growing part at the end is cut: sums of all shorter ones, by their number.
    let outputs = points(output);
    let mut sums = vec![(0.0, 0.0)];
    for &(tokens, weight) in &outputs {
        let (mass, moment) = sums[sums.len() - 1];
        sums.push((mass + weight, moment + weight * tokens));
    }
    let (mut mass, mut moment) = (0.0, 0.0);
    for (tokens, weight) in points(prompt) {
        let fitting = outputs.partition_point(|&(output, _)| tokens + output <= f64::from(max_total));
        mass += weight * sums[fitting].0;
        moment += weight * (sums[fitting].1 + tokens * sums[fitting].0);
    }
    moment / mass
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};

    /// The stated mean is that of the draws: within four of their standard errors.
    #[test]
    fn means_are_those_of_the_draws() {
        let table = LengthTable::new(&[10, 20, 300], &[5, 50, 500], &[3.0, 2.0, 1.0]).expect("valid");
        let lognormal = |sigma, max_total| LengthSampler::Lognormal {
            prompt: (100f64.ln(), sigma),
            output: (3f64.ln(), 0.8),
            max_total,
        };
        let laws = [
            LengthSampler::Table(Arc::new(table)),
            LengthSampler::Constant(7, 9),
            lognormal(0.0, 2048),
            lognormal(0.8, 2048),
            lognormal(1.5, 300),
        ];
        for law in laws {
            let mut rng = stream(1, Purpose::Lengths, 0);
            let draws: Vec<f64> = (0..200_000)
                .map(|_| law.sample(&mut rng))
                .map(|(prompt, output)| f64::from(prompt + output))
                .collect();
            let n = draws.len() as f64;
            let mean = draws.iter().sum::<f64>() / n;
            let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            let error = (law.mean_tokens() - mean).abs();
            assert!(error <= 4.0 * (variance / n).sqrt() + 1e-9, "{law:?}: {mean}");
        }
    }
}
