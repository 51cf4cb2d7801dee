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
        let mut k = 0;
        while k < steps {
            let index = bucket(first + k * slope);
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
    fn keeps(&mut self) -> bool {
        if self.total <= self.keep {
            return true;
        }
        for (value, count) in std::mem::take(&mut self.entries) {
            self.add_to_bucket(bucket(value), count);
        }
        false
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The error that the documentation states.
    const ERROR: f64 = 1e-3;

    /// The same from all samples: numpy's mean, std and linear percentiles.
    fn statistics(mut samples: Vec<u64>) -> Statistics {
        samples.sort_unstable();
        let n = samples.len() as f64;
        let mean = samples.iter().map(|&sample| u128::from(sample)).sum::<u128>() as f64 / n;
        let deviations = samples.iter().map(|&sample| (sample as f64 - mean).powi(2));
        let variance = deviations.sum::<f64>() / n;
        let percentile = |q: f64| {
            let Some(last) = samples.len().checked_sub(1) else {
                return f64::NAN;
            };
            let at = q * last as f64;
            let (low, high) = (samples[at.floor() as usize], samples[at.ceil() as usize]);
            low as f64 + at.fract() * (high - low) as f64
        };
        let ms = |ps: f64| ps / PS_PER_MS as f64;
        Statistics {
            mean_ms: ms(mean),
            median_ms: ms(percentile(0.5)),
            p90_ms: ms(percentile(0.9)),
            p99_ms: ms(percentile(0.99)),
            std_ms: ms(variance.sqrt()),
        }
    }

    fn close(a: f64, b: f64, error: f64) -> bool {
        (a.is_nan() && b.is_nan()) || (a - b).abs() <= error * b.abs()
    }

    fn assert_agree(found: Statistics, exact: Statistics, error: f64) {
        let pairs = [
            (found.median_ms, exact.median_ms),
            (found.p90_ms, exact.p90_ms),
            (found.p99_ms, exact.p99_ms),
        ];
        for (a, b) in pairs {
            assert!(close(a, b, error), "{found:?} {exact:?}");
        }
        assert!(close(found.mean_ms, exact.mean_ms, 1e-12), "{found:?} {exact:?}");
        // The other side's deviations are rounded to the mean's last bit.
        let spread = 1e-9 * exact.std_ms + 1e-13 * exact.mean_ms;
        assert!(
            exact.std_ms.is_nan() || (found.std_ms - exact.std_ms).abs() <= spread,
            "{found:?} {exact:?}"
        );
    }

    /// Latencies from nanoseconds to days, and some that cluster.
    fn durations() -> impl Strategy<Value = Vec<u64>> {
        let one = prop_oneof![
            (0u32..57).prop_flat_map(|bits| 0..1u64 << bits),
            50_000_000_000u64..50_000_100_000,
        ];
        prop::collection::vec(one, 0..4000)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// Quantiles within 0.1 %, mean and std exact, of any number of durations; exact on request.
        #[test]
        fn statistics_are_within_the_stated_error(values in durations()) {
            let (mut bounded, mut exact) = (Histogram::new(false), Histogram::new(true));
            for &value in &values {
                bounded.add(value, 1);
                exact.add(value, 1);
            }
            let truth = statistics(values.clone());
            assert_agree(bounded.statistics(), truth, if values.len() as u64 <= KEEP { 1e-12 } else { ERROR });
            assert_agree(exact.statistics(), truth, 1e-12);
            prop_assert!(bounded.entries.len() as u64 <= KEEP && bounded.counts.len() <= 65 * PAGE);
        }

        /// A run in closed form is its members one by one; split and merged it is the same.
        #[test]
        fn runs_and_merges_leave_no_trace(
            runs in prop::collection::vec((0u64..1 << 40, 0u64..1 << 30, 0u64..300, 1u64..5), 0..20),
            split in any::<prop::sample::Index>(),
        ) {
            let [mut whole, mut left, mut right, mut single] = [(); 4].map(|()| Histogram::new(false));
            let split = split.index(runs.len() + 1);
            for (at, &(first, slope, steps, count)) in runs.iter().enumerate() {
                whole.add_run(first, slope, steps, count);
                (if at < split { &mut left } else { &mut right }).add_run(first, slope, steps, count);
                for k in 0..steps {
                    single.add(first + k * slope, count);
                }
            }
            left.merge(&right);
            for other in [&mut left, &mut single] {
                prop_assert_eq!((whole.total, whole.sum, whole.squares), (other.total, other.sum, other.squares));
                let bits = |histogram: &mut Histogram| histogram.quantiles([0.0, 0.3, 0.31, 1.0]).map(f64::to_bits);
                prop_assert_eq!(bits(&mut whole), bits(other));
                prop_assert_eq!(whole.variance().to_bits(), other.variance().to_bits());
            }
        }
    }

    #[test]
    fn statistics_agree_with_numpy() {
        // numpy.percentile([1, 2, 3, 4] ms, [50, 90, 99]) = 2.5, 3.7, 3.97; std = 1.118033988749895
        let mut histogram = Histogram::new(false);
        for ms in [4, 1, 3, 2] {
            histogram.add(ms * PS_PER_MS, 1);
        }
        let s = histogram.statistics();
        assert_eq!((s.mean_ms, s.median_ms), (2.5, 2.5));
        assert!((s.p90_ms - 3.7).abs() < 1e-12 && (s.p99_ms - 3.97).abs() < 1e-12);
        assert!((s.std_ms - 1.118_033_988_749_895).abs() < 1e-12);
    }

    #[test]
    fn every_duration_has_a_bucket() {
        for value in [0, 1, 511, 512, 513, 1023, 1024, u64::MAX / 2, u64::MAX] {
            let index = bucket(value);
            assert!((lower_end(index)..lower_end(index + 1)).contains(&u128::from(value)));
            assert!(
                close(middle(index), value as f64, ERROR),
                "{value}: {}",
                middle(index)
            );
        }
    }

    #[test]
    fn a_variance_beyond_128_bits_comes_from_the_buckets() {
        let mut histogram = Histogram::new(false);
        for value in [0, u64::MAX] {
            histogram.add(value, 1_000_000);
        }
        assert!(close(histogram.variance().sqrt(), u64::MAX as f64 / 2.0, ERROR));
    }
}
