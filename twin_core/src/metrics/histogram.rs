//! Distributions of durations in memory that does not grow with their number.
//!
//! Up to `keep` durations are held as they are, so that quantiles of short runs are exact; beyond that only counts in log-linear
//! buckets remain, each 2^-9 of its lower end wide, so that a quantile is off by less than 0.1 %. Mean and standard
//! deviation come from integer sums and are exact always. Everything is an integer sum: the order of additions, and how they are
//! split over histograms that are merged later, leave no trace.

use crate::time::{PS_PER_MS, Picoseconds};

/// Sub-buckets per power of two: 2^9. The middle of a bucket is then within 2^-10 of each of its values.
const SUB_BITS: u32 = 9;
/// Buckets of one power of two, by which the range of counts grows.
const PAGE: usize = 1 << SUB_BITS;
/// Durations that are kept as they are unless exact quantiles are asked for.
const KEEP: u64 = 1024;

/// Mean, std and percentiles in milliseconds, as `vllm bench serve` computes them; NaN when there is no sample.
#[derive(Clone, Copy, Debug, Default)]
pub struct Statistics {
    /// Arithmetic mean.
    pub mean_ms: f64,
    /// 50th percentile.
    pub median_ms: f64,
    /// 90th percentile.
    pub p90_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// Population standard deviation.
    pub std_ms: f64,
}

/// Counts of durations.
#[derive(Clone, Debug)]
pub struct Histogram {
    /// Up to so many durations are kept as they are.
    keep: u64,
    /// (duration, count), in order of arrival; empty once there were more than `keep` durations.
    entries: Vec<(Picoseconds, u64)>,
    /// Counts of buckets `first_bucket..`; empty until then.
    counts: Vec<u64>,
    first_bucket: usize,
    total: u64,
    sum: u128,
    /// Sum of squares modulo 2^128: see [`Self::variance`].
    squares: u128,
}

impl Histogram {
    /// An empty histogram: exact at any size, or of bounded memory.
    pub fn new(exact: bool) -> Self {
        Self {
            keep: if exact { u64::MAX } else { KEEP },
            entries: Vec::new(),
            counts: Vec::new(),
            first_bucket: 0,
            total: 0,
            sum: 0,
            squares: 0,
        }
    }

    /// Adds `count` durations of one length.
    pub fn add(&mut self, value: Picoseconds, count: u64) {
        self.add_sums(value, 0, 1, count);
        if self.keeps() {
            self.keep_entry(value, count);
        } else {
            self.add_to_bucket(bucket(value), count);
        }
    }

    /// Adds `count` durations of each of the lengths `first + k * slope` for `k` in `0..steps`: a falling series is given from its
    /// other end. Costs as much as the series crosses buckets.
    pub fn add_run(&mut self, first: Picoseconds, slope: Picoseconds, steps: u64, count: u64) {
        if slope == 0 || steps <= 1 {
            if steps > 0 {
                self.add(first, steps * count);
            }
            return;
        }
        self.add_sums(first, slope, steps, count);
        if self.keeps() {
            for k in 0..steps {
                self.keep_entry(first + k * slope, count);
            }
            return;
        }
        let last = bucket(first + (steps - 1) * slope);
        let mut k = 0;
        while k < steps {
            let index = bucket(first + k * slope);
            if index == last {
                self.add_to_bucket(index, (steps - k) * count);
                return;
            }
            let beyond = lower_end(index + 1) - u128::from(first);
            let next = beyond.div_ceil(u128::from(slope)).min(u128::from(steps)) as u64;
            self.add_to_bucket(index, (next - k) * count);
            k = next;
        }
    }

    /// Adds what another histogram counted.
    pub fn merge(&mut self, other: &Self) {
        self.total += other.total;
        self.sum += other.sum;
        self.squares = self.squares.wrapping_add(other.squares);
        let keeps = self.keeps();
        for &(value, count) in &other.entries {
            if keeps {
                self.keep_entry(value, count);
            } else {
                self.add_to_bucket(bucket(value), count);
            }
        }
        for (at, &count) in other.counts.iter().enumerate() {
            if count > 0 {
                self.add_to_bucket(other.first_bucket + at, count);
            }
        }
    }

    /// Sum of the durations, and how many there are.
    pub fn sum(&self) -> (u128, u64) {
        (self.sum, self.total)
    }

    /// Mean, std and percentiles in milliseconds (linear between neighbours, as numpy's); NaN when empty.
    pub fn statistics(&mut self) -> Statistics {
        let [median, p90, p99] = self.quantiles([0.5, 0.9, 0.99]);
        let ms = |ps: f64| ps / PS_PER_MS as f64;
        Statistics {
            mean_ms: ms(self.mean()),
            median_ms: ms(median),
            p90_ms: ms(p90),
            p99_ms: ms(p99),
            std_ms: ms(self.variance().sqrt()),
        }
    }

    /// The mean in picoseconds.
    fn mean(&self) -> f64 {
        self.sum as f64 / self.total as f64
    }

    /// The population variance. With m the whole part of the mean, the sum of (x - m)^2 is the sum of squares - 2 m sum + n m^2:
    /// an integer, exact modulo 2^128 and so altogether as long as it is below (ten million durations that deviate by an hour
    /// and a half each). Above, the buckets give it.
    fn variance(&self) -> f64 {
        let (n, mean) = (self.total as f64, self.mean());
        let longest = match self.entries.iter().max() {
            Some(&(longest, _)) => longest as f64,
            None => lower_end(self.first_bucket + self.counts.len()) as f64,
        };
        if longest * longest * n > 2f64.powi(126) {
            let places = 0..self.entries.len().max(self.counts.len());
            let squares = places.map(|at| (self.value(at) - mean).powi(2) * self.count(at) as f64);
            return squares.sum::<f64>() / n;
        }
        let whole = self.sum / u128::from(self.total.max(1));
        let around = self
            .squares
            .wrapping_sub(whole.wrapping_mul(self.sum).wrapping_mul(2))
            .wrapping_add(whole.wrapping_mul(whole).wrapping_mul(u128::from(self.total)));
        let fraction = (self.sum - whole * u128::from(self.total)) as f64 / n;
        let variance = around as f64 / n - fraction * fraction;
        if variance < 0.0 { 0.0 } else { variance }
    }

    /// Quantiles in picoseconds of ascending `q` in 0..=1; NaN when empty. Sorts the entries.
    pub fn quantiles<const N: usize>(&mut self, q: [f64; N]) -> [f64; N] {
        if self.total == 0 {
            return [f64::NAN; N];
        }
        self.entries.sort_unstable();
        // Ranks start..seen lie in place `at`, those just before `start` in place `before`.
        let (mut start, mut seen, mut before, mut at, mut next) = (0, 0, 0, 0, 0);
        let mut place_of = |rank: u64| {
            while seen <= rank {
                let count = self.count(next);
                if count > 0 {
                    (before, at) = (at, next);
                    (start, seen) = (seen, seen + count);
                }
                next += 1;
            }
            if rank < start { before } else { at }
        };
        let last = (self.total - 1) as f64;
        q.map(|q| {
            let (rank, fraction) = ((q * last).floor(), (q * last).fract());
            let low = self.value(place_of(rank as u64));
            if fraction == 0.0 {
                return low;
            }
            // The next quantile may lie between the same neighbours: at worst it asks for the rank just before this one's place.
            let high = self.value(place_of(rank as u64 + 1));
            low + fraction * (high - low)
        })
    }

    /// Durations in one place: an entry, or a bucket where there are buckets.
    fn count(&self, place: usize) -> u64 {
        if self.counts.is_empty() {
            self.entries[place].1
        } else {
            self.counts[place]
        }
    }

    /// Their value: the middle of a bucket.
    fn value(&self, place: usize) -> f64 {
        if self.counts.is_empty() {
            self.entries[place].0 as f64
        } else {
            middle(self.first_bucket + place)
        }
    }

    #[inline]
    fn add_sums(&mut self, first: Picoseconds, slope: Picoseconds, steps: u64, count: u64) {
        let [a, d, m, n] = [first, slope, steps, count].map(u128::from);
        self.total += steps * count;
        self.sum += n * (m * a + d * (m * (m - 1) / 2));
        // m a^2 + a d m (m - 1) + d^2 (m - 1) m (2 m - 1) / 6
        let squares = m
            .wrapping_mul(a.wrapping_mul(a))
            .wrapping_add(a.wrapping_mul(d).wrapping_mul(m * (m - 1)))
            .wrapping_add(d.wrapping_mul(d).wrapping_mul((m - 1) * m / 2 * (2 * m - 1) / 3));
        self.squares = self.squares.wrapping_add(squares.wrapping_mul(n));
    }

    /// Whether durations are still kept as they are; from the first time on that there are too many, they are not. To be
    /// asked when `total` counts what is about to be added, so that nothing but the durations decides.
    #[inline]
    fn keeps(&mut self) -> bool {
        if self.total <= self.keep {
            return true;
        }
        if !self.entries.is_empty() {
            self.sort_into_buckets();
        }
        false
    }

    #[cold]
    fn sort_into_buckets(&mut self) {
        for (value, count) in std::mem::take(&mut self.entries) {
            self.add_to_bucket(bucket(value), count);
        }
    }

    fn keep_entry(&mut self, value: Picoseconds, count: u64) {
        match self.entries.last_mut() {
            Some(last) if last.0 == value => last.1 += count,
            _ => self.entries.push((value, count)),
        }
    }

    fn add_to_bucket(&mut self, index: usize, count: u64) {
        if !(self.first_bucket..self.first_bucket + self.counts.len()).contains(&index) {
            self.reach(index);
        }
        self.counts[index - self.first_bucket] += count;
    }

    #[cold]
    fn reach(&mut self, index: usize) {
        let page = index / PAGE * PAGE;
        if self.counts.is_empty() {
            self.first_bucket = page;
        }
        let missing = self.first_bucket.saturating_sub(page);
        self.counts.splice(0..0, std::iter::repeat_n(0, missing));
        self.first_bucket -= missing;
        let len = self.counts.len().max(page + PAGE - self.first_bucket);
        self.counts.resize(len, 0);
    }
}

fn bucket(value: Picoseconds) -> usize {
    let exponent = value.max(1).ilog2();
    if exponent < SUB_BITS {
        return value as usize;
    }
    let shift = exponent - SUB_BITS;
    let mantissa = (value >> shift) as usize & (PAGE - 1);
    (((shift + 1) as usize) << SUB_BITS) + mantissa
}

/// The smallest value of a bucket (of the one after the last: 2^64).
fn lower_end(index: usize) -> u128 {
    let (shift, mantissa) = (index >> SUB_BITS, index & (PAGE - 1));
    if shift == 0 {
        return mantissa as u128;
    }
    ((PAGE + mantissa) as u128) << (shift - 1)
}

/// Half way between the least and the greatest whole number of a bucket.
fn middle(index: usize) -> f64 {
    (lower_end(index) as f64 + (lower_end(index + 1) - 1) as f64) / 2.0
}

#[cfg(test)]
mod tests;
