//! Stated errors, sums and merges of histograms.

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
