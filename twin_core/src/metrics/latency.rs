//! Statistics of latency samples, as `vllm bench serve` computes them (numpy's mean, std and linear percentiles).

use crate::time::PS_PER_MS;

/// Mean, std and percentiles in milliseconds; NaN when there is no sample.
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

/// Statistics of samples in picoseconds; sorts them.
pub fn statistics(samples: &mut [u64]) -> Statistics {
    if samples.is_empty() {
        let nan = f64::NAN;
        return Statistics {
            mean_ms: nan,
            median_ms: nan,
            p90_ms: nan,
            p99_ms: nan,
            std_ms: nan,
        };
    }
    samples.sort_unstable();
    let n = samples.len() as f64;
    let sum: u128 = samples.iter().map(|&sample| u128::from(sample)).sum();
    let mean = sum as f64 / n;
    let variance = samples
        .iter()
        .map(|&sample| (sample as f64 - mean).powi(2))
        .sum::<f64>()
        / n;
    let ms = |ps: f64| ps / PS_PER_MS as f64;
    Statistics {
        mean_ms: ms(mean),
        median_ms: ms(percentile(samples, 0.5)),
        p90_ms: ms(percentile(samples, 0.9)),
        p99_ms: ms(percentile(samples, 0.99)),
        std_ms: ms(variance.sqrt()),
    }
}

/// Linear interpolation between order statistics (numpy's default) of sorted samples.
pub fn percentile(sorted: &[u64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (low, fraction) = (at.floor() as usize, at.fract());
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] as f64 + fraction * (sorted[high] as f64 - sorted[low] as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_agree_with_numpy() {
        // numpy.percentile([1, 2, 3, 4] ms, [50, 90, 99]) = 2.5, 3.7, 3.97; std = 1.118033988749895
        let mut samples = [4, 1, 3, 2].map(|ms: u64| ms * PS_PER_MS);
        let s = statistics(&mut samples);
        assert_eq!((s.mean_ms, s.median_ms), (2.5, 2.5));
        assert!((s.p90_ms - 3.7).abs() < 1e-12 && (s.p99_ms - 3.97).abs() < 1e-12);
        assert!((s.std_ms - 1.118_033_988_749_895).abs() < 1e-12);
    }
}
