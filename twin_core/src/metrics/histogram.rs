//! A log-linear histogram of durations: constant memory, relative error of a quantile below 0.4 %.

use crate::time::Picoseconds;

/// Sub-buckets per power of two: 2^7, so that a bucket's half width is below 0.4 % of its value.
const MANTISSA_BITS: u32 = 7;
const BUCKETS: usize = (64 << MANTISSA_BITS) as usize;

/// Counts of durations.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum: u128,
    sum_of_squares: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            total: 0,
            sum: 0,
            sum_of_squares: 0.0,
        }
    }
}

impl Histogram {
    /// Adds `count` durations of one length.
    pub fn add(&mut self, value: Picoseconds, count: u64) {
        self.counts[bucket(value)] += count;
        self.total += count;
        self.sum += u128::from(value) * u128::from(count);
        self.sum_of_squares += (value as f64) * (value as f64) * count as f64;
    }

    /// Durations counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Standard deviation in picoseconds; NaN when empty.
    pub fn std(&self) -> f64 {
        let n = self.total as f64;
        let mean = self.sum as f64 / n;
        (self.sum_of_squares / n - mean * mean).max(0.0).sqrt()
    }

    /// The `q`-quantile (0..=1) in picoseconds, as the middle of its bucket; NaN when empty.
    pub fn quantile(&self, q: f64) -> f64 {
        if self.total == 0 {
            return f64::NAN;
        }
        let rank = ((self.total - 1) as f64 * q).round() as u64;
        let mut seen = 0;
        for (index, &count) in self.counts.iter().enumerate() {
            seen += count;
            if seen > rank {
                return middle(index);
            }
        }
        f64::NAN
    }
}

fn bucket(value: Picoseconds) -> usize {
    let exponent = value.max(1).ilog2();
    if exponent < MANTISSA_BITS {
        return value as usize;
    }
    let shift = exponent - MANTISSA_BITS;
    let mantissa = (value >> shift) as usize & ((1 << MANTISSA_BITS) - 1);
    (((shift + 1) as usize) << MANTISSA_BITS) + mantissa
}

fn middle(index: usize) -> f64 {
    let (shift, mantissa) = (index >> MANTISSA_BITS, index & ((1 << MANTISSA_BITS) - 1));
    if shift == 0 {
        return mantissa as f64;
    }
    let low = ((1u128 << MANTISSA_BITS) + mantissa as u128) << (shift - 1);
    low as f64 + (1u128 << (shift - 1)) as f64 / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_the_stated_error() {
        let mut histogram = Histogram::default();
        for value in 1..=100_000u64 {
            histogram.add(value * 1_000_003, 1);
        }
        for q in [0.01, 0.5, 0.9, 0.99] {
            let exact = (1.0 + 99_999.0 * q) * 1_000_003.0;
            let error = (histogram.quantile(q) / exact - 1.0).abs();
            assert!(error < 0.004, "q {q}: error {error}");
        }
        assert_eq!(histogram.total(), 100_000);
    }

    #[test]
    fn every_duration_has_a_bucket() {
        for value in [0, 1, 127, 128, 129, 255, 256, u64::MAX / 2, u64::MAX] {
            let middle = middle(bucket(value));
            assert!(
                (middle - value as f64).abs() <= 0.004 * value as f64 + 1e-9,
                "{value}: {middle}"
            );
        }
    }
}
