//! Prompt and output lengths.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand_distr::weighted::WeightedAliasIndex;
use rand_distr::{Distribution, StandardNormal};

use super::spec::LengthLaw;
use crate::error::{Result, TwinError, invalid};
use crate::rng::ChaCha8Rng;

/// A weighted table of (prompt, output) pairs: a joint law. Prompt and output lengths of real chats are correlated, and the KV
/// cache feels it: independent draws of the same marginals hold a fifth more tokens per running request.
#[derive(Debug)]
pub struct LengthTable {
    pairs: Vec<(u32, u32)>,
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
        Ok(Self {
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

    /// Draws (prompt, output) tokens.
    pub fn sample(&self, rng: &mut ChaCha8Rng) -> (u32, u32) {
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

fn lognormal(rng: &mut ChaCha8Rng, (mu, sigma): (f64, f64)) -> f64 {
    let z: f64 = StandardNormal.sample(rng);
    (mu + sigma * z).exp().round().max(1.0)
}
