//! The adapters of a workload: how often each is asked for, its rank, and which of them only chance tells apart.

use super::spec::{GeneratedSpec, WorkloadSpec};
use crate::error::{Result, invalid};

/// Columns by adapter; index 0 is the base model.
#[derive(Clone, Debug, Default)]
pub struct AdapterLaws {
    /// Requests per second; NaN where they are replayed.
    pub rates: Vec<f64>,
    /// Rank; 0 for the base model.
    pub ranks: Vec<u32>,
    /// Number of the length law.
    laws: Vec<u32>,
}

impl WorkloadSpec {
    /// The adapters of this workload; `traced` tells how many a trace of that name has.
    pub fn adapters(&self, traced: impl FnOnce(&str) -> Result<u32>) -> Result<AdapterLaws> {
        match self {
            Self::Generated(workload) => Ok(AdapterLaws::generated(workload)),
            Self::Replay(workload) => {
                let num_adapters = traced(&workload.trace)? as usize;
                if num_adapters > 0 && workload.ranks.is_empty() {
                    return invalid(format!(
                        "the trace uses {num_adapters} adapters: give their ranks"
                    ));
                }
                let ranks = workload.ranks.iter().copied().cycle().take(num_adapters);
                Ok(AdapterLaws {
                    rates: vec![f64::NAN; num_adapters + 1],
                    ranks: std::iter::once(0).chain(ranks).collect(),
                    laws: vec![0; num_adapters + 1],
                })
            }
        }
    }
}

impl AdapterLaws {
    /// Those of generated traffic.
    pub fn generated(spec: &GeneratedSpec) -> Self {
        let mut found = Self {
            rates: vec![spec.base_rate_rps],
            ranks: vec![0],
            laws: vec![0],
        };
        for (number, group) in (1..).zip(&spec.adapters) {
            for k in 0..group.count as usize {
                found.rates.push(group.rates_rps[k % group.rates_rps.len()]);
                found.ranks.push(group.ranks[k % group.ranks.len()]);
                found.laws.push(group.lengths.as_ref().map_or(0, |_| number));
            }
        }
        found
    }

    /// What tells adapters apart but for chance: rate, rank, number of the length law.
    pub fn keys(&self) -> impl Iterator<Item = (f64, u32, u32)> + '_ {
        let keys = self.rates.iter().zip(&self.ranks).zip(&self.laws);
        keys.map(|((&rate, &rank), &law)| (rate, rank, law))
    }
}
