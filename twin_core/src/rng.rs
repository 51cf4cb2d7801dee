//! Named random streams: one ChaCha8 stream per (seed, purpose, adapter).
//!
//! Streams are independent by construction (ChaCha's own stream number, not XORed seeds), so that an engine setting never
//! changes the traffic and one adapter never changes another's: comparisons run under common random numbers.

use rand::SeedableRng;
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
    use rand::Rng;

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
        assert_eq!(
            stream(7, Purpose::Mix, 3).next_u64(),
            stream(7, Purpose::Mix, 3).next_u64()
        );
    }
}
