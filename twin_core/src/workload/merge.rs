//! Arrivals of many independent streams in one order, a few nanoseconds each.
//!
//! Time is cut into windows; every stream is advanced through one window after the other and the arrivals of a window are
//! sorted in linear time. Windows decide nothing but the memory: each stream draws from its own generator, in its own order, so
//! neither the window's length nor another stream changes when an adapter's requests come.

use super::arrivals::ArrivalStream;
use crate::time::{PS_PER_S, Picoseconds};

/// Expected arrivals of a window per stream (a stream's state is then fetched once for several), and their limits.
const PER_STREAM: usize = 8;
const LEAST: usize = 256;
const MOST: usize = 1 << 16;

/// An arrival: when, for whom. Compared in this order.
pub type Arrival = (Picoseconds, u32);

/// The merged arrivals of streams numbered by adapter.
///
/// An arrival of the present window is one word, its time since the window's start above its adapter's number, so that it is
/// compared and moved at once; the window is short enough for that. Words fall into about as many buckets as there are words,
/// by their upper bits; a bucket is sorted when somebody comes to it, and never if all of it is taken at once.
#[derive(Debug)]
pub struct Merged {
    streams: Vec<(u32, ArrivalStream)>,
    /// The next arrival of each stream, apart: a window looks at all of them.
    next: Vec<Picoseconds>,
    adapter_bits: u32,
    window: Picoseconds,
    end: Picoseconds,
    /// The present window: all arrivals before its end have been drawn.
    from: Picoseconds,
    until: Picoseconds,
    drawn: Vec<u64>,
    /// Bucket of a word: its bits from here on.
    bucket_bits: u32,
    /// Where each bucket ends in `words`.
    ends: Vec<u32>,
    /// The window's arrivals by bucket; those before `at` are taken, from there to `sorted_to` they are in order.
    words: Vec<u64>,
    at: usize,
    sorted_to: usize,
    bucket: usize,
}

impl Merged {
    /// Arrivals before `end` of streams that bring `total_rate_rps` together.
    pub fn new(streams: Vec<(u32, ArrivalStream)>, total_rate_rps: f64, end: Picoseconds) -> Self {
        let largest = streams.iter().map(|&(adapter, _)| adapter).max().unwrap_or(0);
        let adapter_bits = u32::BITS - largest.leading_zeros();
        let wanted = (PER_STREAM * streams.len()).clamp(LEAST, MOST);
        let window = (wanted as f64 / total_rate_rps * PS_PER_S as f64) as Picoseconds;
        let window = window.clamp(1, Picoseconds::MAX >> adapter_bits);
        // The greatest word, over at least half as many buckets as words.
        let bits = u64::BITS - (window << adapter_bits).leading_zeros();
        let mut merged = Self {
            next: streams.iter().map(|(_, stream)| stream.peek()).collect(),
            streams,
            adapter_bits,
            window,
            end,
            from: 0,
            until: 0,
            drawn: Vec::new(),
            bucket_bits: bits.saturating_sub(wanted.ilog2() + 1),
            ends: Vec::new(),
            words: Vec::new(),
            at: 0,
            sorted_to: 0,
            bucket: 0,
        };
        merged.settle();
        merged
    }

    /// The next arrival.
    pub fn peek(&self) -> Option<Arrival> {
        self.words.get(self.at).map(|&word| {
            let adapter = word & ((1 << self.adapter_bits) - 1);
            (self.from + (word >> self.adapter_bits), adapter as u32)
        })
    }

    /// Goes on to the one after it.
    pub fn advance(&mut self) {
        self.at += 1;
        self.settle();
    }

    /// Takes all arrivals up to and at `until`; `each` is told for whom, in no order. Returns how many there were.
    pub fn take_until(&mut self, until: Picoseconds, mut each: impl FnMut(u32)) -> u64 {
        let mut taken = 0;
        let adapter_mask = (1 << self.adapter_bits) - 1;
        let mut take = |words: &[u64]| {
            for &word in words {
                each((word & adapter_mask) as u32);
            }
            taken += words.len() as u64;
        };
        while self.peek().is_some_and(|(at, _)| at <= until) {
            let latest = ((until - self.from).min(self.window) << self.adapter_bits) | adapter_mask;
            let bucket = ((latest >> self.bucket_bits) as usize).min(self.ends.len());
            let before = if bucket > self.bucket {
                // All before that bucket, in whatever order.
                self.ends[bucket - 1] as usize
            } else {
                let rest = &self.words[self.at..self.sorted_to];
                self.at + rest.iter().take_while(|&&word| word <= latest).count()
            };
            take(&self.words[self.at..before]);
            self.at = before;
            self.settle();
        }
        taken
    }

    /// Sees to it that the next arrival, if there is one, lies at `at`.
    fn settle(&mut self) {
        if self.at < self.sorted_to {
            return;
        }
        if self.at >= self.words.len() {
            self.draw();
        }
        while let Some(&end) = self.ends.get(self.bucket) {
            if end as usize > self.at {
                self.sorted_to = end as usize;
                let words = &mut self.words[self.at..self.sorted_to];
                if words.len() > 1 {
                    words.sort_unstable();
                }
                return;
            }
            self.bucket += 1;
        }
    }

    /// Draws the arrivals of the next window that holds any, in order of their buckets.
    fn draw(&mut self) {
        self.words.clear();
        self.ends.clear();
        (self.at, self.sorted_to, self.bucket) = (0, 0, 0);
        while self.words.is_empty() && self.until < self.end {
            // Where all are rare, or come in bursts, the window begins at the first of them.
            let first = self.next.iter().copied().min().unwrap_or(Picoseconds::MAX);
            self.from = first.max(self.until);
            self.until = self.from.saturating_add(self.window).min(self.end);
            let span = self.until.saturating_sub(self.from) << self.adapter_bits;
            self.ends.clear();
            self.ends.resize((span >> self.bucket_bits) as usize + 1, 0);
            self.drawn.clear();
            for ((adapter, stream), next) in self.streams.iter_mut().zip(&mut self.next) {
                while *next < self.until {
                    let word = ((*next - self.from) << self.adapter_bits) | u64::from(*adapter);
                    self.drawn.push(word);
                    self.ends[(word >> self.bucket_bits) as usize] += 1;
                    stream.advance();
                    *next = stream.peek();
                }
            }
            let mut before = 0;
            for end in &mut self.ends {
                (*end, before) = (before, before + *end);
            }
            self.words.resize(self.drawn.len(), 0);
            for &word in &self.drawn {
                // From the bucket's beginning on, until it is its end.
                let place = &mut self.ends[(word >> self.bucket_bits) as usize];
                self.words[*place as usize] = word;
                *place += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::spec::ArrivalLaw;
    use super::*;
    use crate::time::from_seconds;

    fn streams(rates: &[f64], law: ArrivalLaw) -> Vec<(u32, ArrivalStream)> {
        let indexed = rates.iter().zip(1..);
        indexed
            .map(|(&rate, index)| (index, ArrivalStream::new(3, index, rate, law)))
            .collect()
    }

    /// Every arrival of every stream, sorted.
    fn plain(rates: &[f64], law: ArrivalLaw, end: Picoseconds) -> Vec<Arrival> {
        let mut all = Vec::new();
        for (adapter, mut stream) in streams(rates, law) {
            while stream.peek() < end {
                all.push((stream.peek(), adapter));
                stream.advance();
            }
        }
        all.sort_unstable();
        all
    }

    fn laws() -> impl Strategy<Value = ArrivalLaw> {
        prop_oneof![
            Just(ArrivalLaw::Poisson),
            Just(ArrivalLaw::Constant),
            (0.01f64..4.0).prop_map(|burstiness| ArrivalLaw::Gamma { burstiness }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        /// The merge is the sorted union of the streams, taken one by one or up to instants.
        #[test]
        fn merged_is_sorted_and_whole(
            rates in prop::collection::vec(prop_oneof![1e-3f64..0.1, 0.1f64..50.0], 1..40),
            law in laws(), seconds in 0.01f64..60.0, bulk in prop::collection::vec(0.0f64..60.0, 0..6),
        ) {
            let end = from_seconds(seconds);
            let all = plain(&rates, law, end);
            let total: f64 = rates.iter().sum();
            let mut merged = Merged::new(streams(&rates, law), total, end);
            let mut rest = &all[..];
            for until in bulk.into_iter().map(from_seconds) {
                for _ in 0..3 {
                    prop_assert_eq!(merged.peek(), rest.first().copied());
                    merged.advance();
                    rest = rest.get(1..).unwrap_or_default();
                }
                let mut taken = Vec::new();
                let count = merged.take_until(until, |adapter| taken.push(adapter));
                let (before, after) = rest.split_at(rest.partition_point(|&(at, _)| at <= until));
                let mut expected: Vec<u32> = before.iter().map(|&(_, adapter)| adapter).collect();
                taken.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!((count, taken), (before.len() as u64, expected));
                rest = after;
            }
            while let Some(arrival) = merged.peek() {
                prop_assert_eq!(Some(&arrival), rest.first());
                merged.advance();
                rest = &rest[1..];
            }
            prop_assert!(rest.is_empty());
        }
    }
}
