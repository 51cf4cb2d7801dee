//! Named random streams: one per (seed, purpose, adapter).
//!
//! What is drawn in order comes from ChaCha8, whose streams are independent by construction (its own stream number, not XORed
//! seeds). What must be drawn without what came before it (the lengths of a request that is accepted after thousands were
//! refused) comes from [`Draws`]: SplitMix64 started at a hash of all that names the event. So an engine setting never changes
//! the traffic, and one adapter never changes another's: comparisons run under common random numbers.

use std::convert::Infallible;

use rand::SeedableRng;
use rand::rand_core::TryRng;
pub use rand::rngs::ChaCha8Rng;

/// What a stream is drawn for. The numbers are part of the reproducibility contract: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// Gaps between the arrivals of one adapter.
    Arrivals = 1,
    /// Prompt and output lengths of one adapter's requests.
    Lengths = 2,
    /// Whether and where a request stops before its `max_tokens`.
    EarlyStop = 3,
    /// Arrival instants when the total number of requests is given.
    FixedCount = 4,
    /// Adapter of each arrival when the total number of requests is given.
    Mix = 5,
}

/// The stream for `purpose` of adapter `index` (0 = base model) under `seed`.
pub fn stream(seed: u64, purpose: Purpose, index: u32) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream((u64::from(purpose as u32) << 32) | u64::from(index));
    rng
}

/// Random access to the draws for one purpose: those of the `nth` event of an adapter depend on nothing before it.
#[derive(Clone, Copy, Debug)]
pub struct Keyed(u64);

impl Keyed {
    /// For `purpose` under `seed`.
    pub fn new(seed: u64, purpose: Purpose) -> Self {
        // No step number is as large: the key is none that `keyed` gives for an order of visits.
        Self(keyed(seed, u64::MAX, u64::from(purpose as u32)))
    }

    /// The draws for the `nth` event of adapter `index`.
    pub fn draws(self, index: u32, nth: u64) -> Draws {
        Draws(keyed(self.0, u64::from(index), nth))
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014): one 64-bit word of state, a few operations a draw.
#[derive(Clone, Debug)]
pub struct Draws(u64);

impl TryRng for Draws {
    type Error = Infallible;

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Ok(x ^ (x >> 31))
    }

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.try_next_u64().map(|word| (word >> 32) as u32)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            let word = self.try_next_u64()?.to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        Ok(())
    }
}

/// A keyed 64-bit hash (the finaliser of SplitMix64 over both words): random access where a stream would have to be advanced,
/// as for the order in which step `a` visits adapter `b`.
pub fn keyed(seed: u64, a: u64, b: u64) -> u64 {
    let mut x = seed;
    for word in [a, b] {
        x = x.wrapping_add(word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, RngExt};

    #[test]
    fn streams_differ_by_seed_purpose_and_adapter() {
        let draws: Vec<u64> = [
            stream(0, Purpose::Arrivals, 0),
            stream(1, Purpose::Arrivals, 0),
            stream(0, Purpose::Lengths, 0),
            stream(0, Purpose::Arrivals, 1),
        ]
        .iter_mut()
        .map(|rng| rng.next_u64())
        .collect();
        for (i, a) in draws.iter().enumerate() {
            assert!(draws[i + 1..].iter().all(|b| a != b));
        }
    }

    #[test]
    fn splitmix_is_the_published_one() {
        // The first outputs of the reference implementation (prng.di.unimi.it/splitmix64.c) from state 1234567.
        let mut draws = Draws(1_234_567);
        let words: Vec<u64> = (0..3).map(|_| draws.next_u64()).collect();
        assert_eq!(
            words,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    /// Neighbouring events, adapters and seeds: uniform, and uncorrelated.
    #[test]
    fn keyed_draws_are_uniform_and_independent() {
        let first =
            |seed, index, nth| -> f64 { Keyed::new(seed, Purpose::Lengths).draws(index, nth).random() };
        let n = 40_000;
        let series: [Vec<f64>; 4] = [
            (0..n).map(|nth| first(5, 1, nth)).collect(),
            (0..n).map(|nth| first(5, 2, nth)).collect(),
            (0..n).map(|nth| first(6, 1, nth)).collect(),
            (0..n).map(|nth| first(5, nth as u32, 0)).collect(),
        ];
        // Five standard errors of a correlation, and of the share of a tenth.
        let limit = 5.0 / (n as f64).sqrt();
        for (at, a) in series.iter().enumerate() {
            for tenth in 0..10 {
                let low = f64::from(tenth) / 10.0;
                let share = a.iter().filter(|&&u| (low..low + 0.1).contains(&u)).count() as f64 / n as f64;
                assert!((share - 0.1).abs() < 0.3 * limit, "{at}: {share}");
            }
            let others = series[at + 1..].iter().map(|b| &b[..]).chain([&a[1..]]);
            for b in others {
                let correlation =
                    12.0 / n as f64 * a.iter().zip(b).map(|(x, y)| (x - 0.5) * (y - 0.5)).sum::<f64>();
                assert!(correlation.abs() < limit, "{at}: {correlation}");
            }
        }
    }

    #[test]
    fn a_stream_is_the_same_each_time() {
        assert_eq!(
            stream(7, Purpose::Mix, 3).next_u64(),
            stream(7, Purpose::Mix, 3).next_u64()
        );
    }
}
