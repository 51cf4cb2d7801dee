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
/// A larger bucket is sorted by the library.
const LARGE_BUCKET: u32 = 24;

/// An arrival: when, for whom. Compared in this order.
pub type Arrival = (Picoseconds, u32);

/// The merged arrivals of streams numbered by adapter.
///
/// An arrival of the present window is one word, its time since the window's start above its adapter's number, so that it is
/// compared and moved at once; the window is short enough for that.
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
    places: Vec<u32>,
    /// Arrivals of the present window, those before `at` taken.
    sorted: Vec<u64>,
    at: usize,
}

impl Merged {
    /// Arrivals before `end` of streams that bring `total_rate_rps` together.
    pub fn new(streams: Vec<(u32, ArrivalStream)>, total_rate_rps: f64, end: Picoseconds) -> Self {
        let largest = streams.iter().map(|&(adapter, _)| adapter).max().unwrap_or(0);
        let adapter_bits = u32::BITS - largest.leading_zeros();
        let wanted = (PER_STREAM * streams.len()).clamp(LEAST, MOST);
        let window = (wanted as f64 / total_rate_rps * PS_PER_S as f64) as Picoseconds;
        let mut merged = Self {
            next: streams.iter().map(|(_, stream)| stream.peek()).collect(),
            streams,
            adapter_bits,
            window: window.clamp(1, Picoseconds::MAX >> adapter_bits),
            end,
            from: 0,
            until: 0,
            drawn: Vec::new(),
            places: Vec::new(),
            sorted: Vec::new(),
            at: 0,
        };
        merged.draw();
        merged
    }

    /// The next arrival.
    pub fn peek(&self) -> Option<Arrival> {
        self.sorted.get(self.at).map(|&word| {
            let adapter = word & ((1 << self.adapter_bits) - 1);
            (self.from + (word >> self.adapter_bits), adapter as u32)
        })
    }

    /// Goes on to the one after it.
    pub fn advance(&mut self) {
        self.at += 1;
        if self.at >= self.sorted.len() {
            self.draw();
        }
    }

    /// Takes all arrivals up to and at `until`; `each` is told for whom. Returns how many there were.
    pub fn take_until(&mut self, until: Picoseconds, mut each: impl FnMut(u32)) -> u64 {
        let mut taken = 0;
        let adapter_mask = (1 << self.adapter_bits) - 1;
        while self.at < self.sorted.len() && until >= self.from {
            let latest = ((until - self.from).min(self.window) << self.adapter_bits) | adapter_mask;
            let rest = self.sorted[self.at..].iter();
            let count = rest
                .take_while(|&&word| word <= latest)
                .map(|&word| each((word & adapter_mask) as u32))
                .count();
            taken += count as u64;
            self.at += count;
            if self.at < self.sorted.len() {
                break;
            }
            self.draw();
        }
        taken
    }

    /// Draws the arrivals of the next window that holds any.
    fn draw(&mut self) {
        self.sorted.clear();
        self.at = 0;
        while self.sorted.is_empty() && self.until < self.end {
            // Where all are rare, or come in bursts, the window begins at the first of them.
            let first = self.next.iter().copied().min().unwrap_or(Picoseconds::MAX);
            self.from = first.max(self.until);
            self.until = self.from.saturating_add(self.window).min(self.end);
            self.drawn.clear();
            for ((adapter, stream), next) in self.streams.iter_mut().zip(&mut self.next) {
                while *next < self.until {
                    let word = (*next - self.from) << self.adapter_bits;
                    self.drawn.push(word | u64::from(*adapter));
                    stream.advance();
                    *next = stream.peek();
                }
            }
            self.sort();
        }
    }

    /// Sorts `drawn` into `sorted`: as many buckets as arrivals, then what is left to do within them.
    fn sort(&mut self) {
        let n = self.drawn.len();
        let Some(last) = n.checked_sub(1) else { return };
        let span = (self.until - self.from) << self.adapter_bits;
        let scale = n as f64 / span as f64;
        let bucket = |word: u64| ((word as f64 * scale) as usize).min(last);
        self.places.clear();
        self.places.resize(n, 0);
        for &word in &self.drawn {
            self.places[bucket(word)] += 1;
        }
        let (mut largest, mut before) = (0, 0);
        for place in &mut self.places {
            largest = largest.max(*place);
            (*place, before) = (before, before + *place);
        }
        self.sorted.resize(n, 0);
        for &word in &self.drawn {
            let place = &mut self.places[bucket(word)];
            self.sorted[*place as usize] = word;
            *place += 1;
        }
        if largest > LARGE_BUCKET {
            self.sorted.sort_unstable();
            return;
        }
        for right in 1..n {
            let word = self.sorted[right];
            let mut hole = right;
            while hole > 0 && self.sorted[hole - 1] > word {
                self.sorted[hole] = self.sorted[hole - 1];
                hole -= 1;
            }
            self.sorted[hole] = word;
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
            let mut found = Vec::new();
            for until in bulk {
                for _ in 0..3 {
                    found.extend(merged.peek().map(|(_, adapter)| adapter));
                    merged.advance();
                }
                let count = merged.take_until(from_seconds(until), |adapter| found.push(adapter));
                prop_assert!(count == 0 || all[found.len() - 1].0 <= from_seconds(until));
                prop_assert!(merged.peek().is_none_or(|(at, _)| at > from_seconds(until)));
            }
            while let Some(arrival) = merged.peek() {
                prop_assert_eq!(arrival, all[found.len()]);
                found.push(arrival.1);
                merged.advance();
            }
            prop_assert_eq!(found, all.iter().map(|&(_, adapter)| adapter).collect::<Vec<_>>());
        }
    }
}
