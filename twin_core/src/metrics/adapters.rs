//! One row per adapter.

use super::histogram::Histogram;
use super::objectives::Objectives;
use crate::time::PS_PER_MS;

/// Counters of one adapter while the run goes on.
#[derive(Clone, Debug, Default)]
pub struct AdapterCounters {
    /// Requests sent.
    pub arrived: u64,
    /// Of those, refused.
    pub refused: u64,
    /// Of those, finished.
    pub finished: u64,
    /// Prompt + requested output tokens of all sent.
    pub offered_tokens: u64,
    /// Prompt tokens of the finished.
    pub input_tokens: u64,
    /// Output tokens of the finished.
    pub output_tokens: u64,
    /// Requests that met the objectives: finished, in time.
    pub slo_met: u64,
    /// Requests that missed them: refused, finished late, or late already. The rest in flight is not judged.
    pub slo_missed: u64,
    /// Sum of TTFT of the finished, ps, and how many there are.
    pub ttft: (u128, u64),
    /// Sum of TPOT, ps, and how many have one.
    pub tpot: (u128, u64),
    /// Loads from disk.
    pub loads_disk: u64,
    /// Copies into a GPU slot.
    pub loads_memory: u64,
}

impl AdapterCounters {
    /// Mean TTFT of the finished in ms; NaN when there is none.
    pub fn mean_ttft_ms(&self) -> f64 {
        mean_ms(self.ttft)
    }

    /// Mean TPOT of the finished in ms; NaN when there is none.
    pub fn mean_tpot_ms(&self) -> f64 {
        mean_ms(self.tpot)
    }

    /// Share of the judged requests that missed the objectives; NaN when none could be judged.
    pub fn slo_miss(&self) -> f64 {
        self.slo_missed as f64 / (self.slo_met + self.slo_missed) as f64
    }

    /// Adds what another server counted of the same adapter.
    pub fn add(&mut self, other: &Self) {
        self.pool(other);
        self.arrived += other.arrived;
        self.refused += other.refused;
        self.offered_tokens += other.offered_tokens;
        self.input_tokens += other.input_tokens;
        self.output_tokens += other.output_tokens;
        self.slo_met += other.slo_met;
        self.loads_disk += other.loads_disk;
        self.loads_memory += other.loads_memory;
    }

    /// Adds what the objectives' means need of another adapter like it.
    pub fn pool(&mut self, other: &Self) {
        self.finished += other.finished;
        self.slo_missed += other.slo_missed;
        self.ttft = (self.ttft.0 + other.ttft.0, self.ttft.1 + other.ttft.1);
        self.tpot = (self.tpot.0 + other.tpot.0, self.tpot.1 + other.tpot.1);
    }

    /// Whether the adapter as a whole misses the objectives: a mean over its finished requests is above, or it finished
    /// nothing and a request of it has missed.
    pub fn misses(&self, objectives: &Objectives) -> bool {
        let above = |(sum, count): (u128, u64), limit: u64| sum > u128::from(limit) * u128::from(count);
        let late = above(self.ttft, objectives.ttft) || above(self.tpot, objectives.tpot);
        late || (self.finished == 0 && self.slo_missed > 0)
    }
}

fn mean_ms((sum, count): (u128, u64)) -> f64 {
    sum as f64 / count as f64 / PS_PER_MS as f64
}

/// Columns of the adapter frame; row 0 is the base model.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)] // the names are the documentation: see docs/reference
pub struct AdapterColumns {
    pub adapter: Vec<u32>,
    pub rank: Vec<u32>,
    pub rate_rps: Vec<f64>,
    pub arrived: Vec<u64>,
    pub refused: Vec<u64>,
    pub finished: Vec<u64>,
    pub offered_tokens: Vec<u64>,
    pub input_tokens: Vec<u64>,
    pub output_tokens: Vec<u64>,
    pub mean_ttft_ms: Vec<f64>,
    pub p50_ttft_ms: Vec<f64>,
    pub p90_ttft_ms: Vec<f64>,
    pub p99_ttft_ms: Vec<f64>,
    pub mean_tpot_ms: Vec<f64>,
    pub loads_disk: Vec<u64>,
    pub loads_memory: Vec<u64>,
    pub slo_miss: Vec<f64>,
}

impl AdapterColumns {
    /// Gathers the frame. `ttft` counts those of each adapter's finished requests.
    pub fn gather(counters: &[AdapterCounters], ttft: Vec<Histogram>, ranks: &[u32], rates: &[f64]) -> Self {
        let mut columns = Self::default();
        for (index, (counter, mut ttft)) in counters.iter().zip(ttft).enumerate() {
            let quantiles = ttft.quantiles([0.5, 0.9, 0.99]);
            let [median, p90, p99] = quantiles.map(|ps| ps / PS_PER_MS as f64);
            columns.adapter.push(index as u32);
            columns.rank.push(ranks.get(index).copied().unwrap_or(0));
            columns
                .rate_rps
                .push(rates.get(index).copied().unwrap_or(f64::NAN));
            columns.arrived.push(counter.arrived);
            columns.refused.push(counter.refused);
            columns.finished.push(counter.finished);
            columns.offered_tokens.push(counter.offered_tokens);
            columns.input_tokens.push(counter.input_tokens);
            columns.output_tokens.push(counter.output_tokens);
            columns.mean_ttft_ms.push(counter.mean_ttft_ms());
            columns.p50_ttft_ms.push(median);
            columns.p90_ttft_ms.push(p90);
            columns.p99_ttft_ms.push(p99);
            columns.mean_tpot_ms.push(counter.mean_tpot_ms());
            columns.loads_disk.push(counter.loads_disk);
            columns.loads_memory.push(counter.loads_memory);
            columns.slo_miss.push(counter.slo_miss());
        }
        columns
    }
}
