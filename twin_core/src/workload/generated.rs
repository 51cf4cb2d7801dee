//! Traffic drawn from laws, one request at a time: memory does not grow with the number of requests.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use rand::RngExt;
use rand_distr::Distribution;
use rand_distr::weighted::WeightedAliasIndex;

use super::Traffic;
use super::arrivals::{ArrivalStream, FixedCountStream};
use super::lengths::{LengthSampler, LengthTables};
use super::spec::{EarlyEos, GeneratedSpec};
use crate::engine::{NEVER, NewRequest};
use crate::error::{Result, TwinError};
use crate::rng::{ChaCha8Rng, Purpose, stream};
use crate::time::{Picoseconds, from_seconds};

/// One adapter's (or the base model's) part of the traffic.
#[derive(Debug)]
struct Source {
    lengths: LengthSampler,
    length_rng: ChaCha8Rng,
    stop_rng: ChaCha8Rng,
}

/// Who sends when.
#[derive(Debug)]
enum Arrivals {
    /// Independent streams, merged.
    Merged {
        streams: Vec<Option<ArrivalStream>>,
        next: BinaryHeap<Reverse<(Picoseconds, u32)>>,
    },
    /// A given number, adapters in proportion to their rates.
    Fixed {
        stream: Box<FixedCountStream>,
        mix: WeightedAliasIndex<f64>,
        rng: Box<ChaCha8Rng>,
    },
}

/// Traffic from a [`GeneratedSpec`].
#[derive(Debug)]
pub struct Generated {
    sources: Vec<Source>,
    arrivals: Arrivals,
    early_eos: EarlyEos,
    end: Picoseconds,
    serial: u32,
}

/// Per adapter (index 0 = base model): rate and rank (0 for the base model).
pub fn rates_and_ranks(spec: &GeneratedSpec) -> (Vec<f64>, Vec<u32>) {
    let (mut rates, mut ranks) = (vec![spec.base_rate_rps], vec![0]);
    for group in &spec.adapters {
        for k in 0..group.count as usize {
            rates.push(group.rates_rps[k % group.rates_rps.len()]);
            ranks.push(group.ranks[k % group.ranks.len()]);
        }
    }
    (rates, ranks)
}

impl Generated {
    /// Traffic of a validated spec under `seed`.
    pub fn new(spec: &GeneratedSpec, tables: &LengthTables, seed: u64) -> Result<Self> {
        let shared = LengthSampler::new(&spec.lengths, tables)?;
        let mut laws = vec![shared.clone()];
        for group in &spec.adapters {
            let law = group
                .lengths
                .as_ref()
                .map_or(Ok(shared.clone()), |law| LengthSampler::new(law, tables))?;
            laws.extend(std::iter::repeat_n(law, group.count as usize));
        }
        let (rates, _) = rates_and_ranks(spec);
        let end = from_seconds(spec.duration_s);
        let sources = laws
            .into_iter()
            .zip(0..)
            .map(|(lengths, index)| Source {
                lengths,
                length_rng: stream(seed, Purpose::Lengths, index),
                stop_rng: stream(seed, Purpose::EarlyStop, index),
            })
            .collect();
        let arrivals = match spec.total_requests {
            Some(count) => Arrivals::Fixed {
                stream: Box::new(FixedCountStream::new(seed, count, end)),
                mix: WeightedAliasIndex::new(rates).map_err(|_| {
                    TwinError::Invalid("total_requests needs at least one adapter with a rate above 0".into())
                })?,
                rng: Box::new(stream(seed, Purpose::Mix, 0)),
            },
            None => merged(&rates, spec, seed, end),
        };
        Ok(Self {
            sources,
            arrivals,
            early_eos: spec.early_eos,
            end,
            serial: 0,
        })
    }
}

fn merged(rates: &[f64], spec: &GeneratedSpec, seed: u64, end: Picoseconds) -> Arrivals {
    let mut next = BinaryHeap::with_capacity(rates.len());
    let streams: Vec<_> = rates
        .iter()
        .zip(0..)
        .map(|(&rate, index)| {
            (rate > 0.0).then(|| {
                let stream = ArrivalStream::new(seed, index, rate, spec.arrivals);
                if stream.peek() < end {
                    next.push(Reverse((stream.peek(), index)));
                }
                stream
            })
        })
        .collect();
    Arrivals::Merged { streams, next }
}

impl Arrivals {
    fn peek(&self) -> Option<Picoseconds> {
        match self {
            Self::Merged { next, .. } => next.peek().map(|&Reverse((at, _))| at),
            Self::Fixed { stream, .. } => stream.peek(),
        }
    }

    fn next(&mut self, end: Picoseconds) -> Option<(Picoseconds, u32)> {
        match self {
            Self::Merged { streams, next } => {
                let mut head = next.peek_mut()?;
                let Reverse((at, index)) = *head;
                let stream = streams[index as usize].as_mut()?;
                stream.advance();
                if stream.peek() < end {
                    *head = Reverse((stream.peek(), index));
                } else {
                    PeekMut::pop(head);
                }
                Some((at, index))
            }
            Self::Fixed { stream, mix, rng } => {
                let at = stream.peek()?;
                stream.advance();
                Some((at, mix.sample(rng) as u32))
            }
        }
    }
}

impl Traffic for Generated {
    fn peek(&self) -> Option<Picoseconds> {
        self.arrivals.peek()
    }

    fn next(&mut self) -> Option<NewRequest> {
        let (arrival, adapter) = self.arrivals.next(self.end)?;
        let source = &mut self.sources[adapter as usize];
        let (prompt_tokens, max_tokens) = source.lengths.sample(&mut source.length_rng);
        let mut stop_at = NEVER;
        if self.early_eos != EarlyEos::default() {
            // One draw decides both whether and where, so that the stream advances alike for every request.
            let u: f64 = source.stop_rng.random();
            stop_at = self.early_eos.stop_at(u, max_tokens).unwrap_or(NEVER);
        }
        let serial = self.serial;
        self.serial += 1;
        Some(NewRequest {
            serial,
            adapter,
            prompt_tokens,
            max_tokens,
            stop_at,
            priority: 0,
            order: (f64::from(serial), serial),
            arrival,
            prompt: Vec::new(),
        })
    }
}
