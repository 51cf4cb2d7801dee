//! Traffic drawn from laws, a window at a time: memory does not grow with the number of requests.

use rand::RngExt;
use rand_distr::Distribution;
use rand_distr::weighted::WeightedAliasIndex;

use super::adapter_laws::AdapterLaws;
use super::arrivals::{ArrivalStream, FixedCountStream};
use super::lengths::{LengthSampler, LengthTables};
use super::merge::{Arrival, Merged};
use super::spec::{EarlyEos, GeneratedSpec};
use super::{Traffic, Unseen};
use crate::engine::{NEVER, NewRequest};
use crate::error::{Result, TwinError};
use crate::rng::{ChaCha8Rng, Keyed, Purpose, stream};
use crate::time::{Picoseconds, from_seconds};

/// Who sends when.
#[derive(Debug)]
enum Arrivals {
    /// Independent streams, merged.
    Merged(Box<Merged>),
    /// A given number, adapters in proportion to their rates.
    Fixed {
        stream: Box<FixedCountStream>,
        mix: WeightedAliasIndex<f64>,
        rng: Box<ChaCha8Rng>,
    },
}

/// Requests of one adapter so far.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    all: u64,
    unseen: u64,
}

/// Traffic from a [`GeneratedSpec`].
#[derive(Debug)]
pub struct Generated {
    arrivals: Arrivals,
    /// Laws of the lengths, and which of them each adapter has.
    laws: Vec<LengthSampler>,
    law_of_adapter: Vec<u32>,
    /// Which random stream each adapter draws from.
    stream_of_adapter: Vec<u32>,
    lengths: Keyed,
    stops: Keyed,
    early_eos: EarlyEos,
    sent: Vec<Sent>,
    serial: u32,
}

impl Generated {
    /// Traffic of a validated spec under `seed`.
    pub fn new(spec: &GeneratedSpec, tables: &LengthTables, seed: u64) -> Result<Self> {
        let mut laws = vec![LengthSampler::new(&spec.lengths, tables)?];
        let (mut law_of_adapter, mut stream_of_adapter) = (vec![0], vec![0]);
        for group in &spec.adapters {
            let law = match &group.lengths {
                Some(lengths) => {
                    laws.push(LengthSampler::new(lengths, tables)?);
                    laws.len() as u32 - 1
                }
                None => 0,
            };
            law_of_adapter.extend(std::iter::repeat_n(law, group.count as usize));
            let first = stream_of_adapter.len() as u32;
            if group.streams.is_empty() {
                stream_of_adapter.extend(first..first + group.count);
            } else {
                stream_of_adapter.extend_from_slice(&group.streams);
            }
        }
        let rates = AdapterLaws::generated(spec).rates;
        let end = from_seconds(spec.duration_s);
        let sent = vec![Sent::default(); rates.len()];
        let arrivals = match spec.total_requests {
            Some(count) => Arrivals::Fixed {
                stream: Box::new(FixedCountStream::new(seed, count, end)),
                mix: WeightedAliasIndex::new(rates).map_err(|_| {
                    TwinError::Invalid("total_requests needs at least one adapter with a rate above 0".into())
                })?,
                rng: Box::new(stream(seed, Purpose::Mix, 0)),
            },
            None => {
                let streams = rates.iter().zip(0..).filter(|&(&rate, _)| rate > 0.0);
                let streams = streams.map(|(&rate, index)| {
                    let stream = stream_of_adapter[index as usize];
                    (index, ArrivalStream::new(seed, stream, rate, spec.arrivals))
                });
                Arrivals::Merged(Box::new(Merged::new(streams.collect(), rates.iter().sum(), end)))
            }
        };
        Ok(Self {
            arrivals,
            laws,
            law_of_adapter,
            stream_of_adapter,
            lengths: Keyed::new(seed, Purpose::Lengths),
            stops: Keyed::new(seed, Purpose::EarlyStop),
            early_eos: spec.early_eos,
            sent,
            serial: 0,
        })
    }

    /// Mean tokens of each adapter's requests.
    fn means(&self) -> Vec<f64> {
        let of_laws: Vec<f64> = self.laws.iter().map(LengthSampler::mean_tokens).collect();
        self.law_of_adapter
            .iter()
            .map(|&law| of_laws[law as usize])
            .collect()
    }

    fn law(&self, adapter: u32) -> &LengthSampler {
        &self.laws[self.law_of_adapter[adapter as usize] as usize]
    }
}

impl Arrivals {
    fn peek(&self) -> Option<Picoseconds> {
        match self {
            Self::Merged(merged) => merged.peek().map(|(at, _)| at),
            Self::Fixed { stream, .. } => stream.peek(),
        }
    }

    fn next(&mut self) -> Option<Arrival> {
        match self {
            Self::Merged(merged) => {
                let arrival = merged.peek()?;
                merged.advance();
                Some(arrival)
            }
            Self::Fixed { stream, mix, rng } => {
                let at = stream.peek()?;
                stream.advance();
                Some((at, mix.sample(rng) as u32))
            }
        }
    }

    fn take_until(&mut self, until: Picoseconds, mut each: impl FnMut(u32)) -> u64 {
        if let Self::Merged(merged) = self {
            return merged.take_until(until, each);
        }
        let mut taken = 0;
        while self.peek().is_some_and(|at| at <= until)
            && let Some((_, adapter)) = self.next()
        {
            each(adapter);
            taken += 1;
        }
        taken
    }
}

impl Traffic for Generated {
    fn peek(&self) -> Option<Picoseconds> {
        self.arrivals.peek()
    }

    fn next(&mut self) -> Option<NewRequest> {
        let (arrival, adapter) = self.arrivals.next()?;
        let sent = &mut self.sent[adapter as usize];
        let nth = sent.all;
        sent.all += 1;
        let stream = self.stream_of_adapter[adapter as usize];
        let (prompt_tokens, max_tokens) = self.law(adapter).sample(&mut self.lengths.draws(stream, nth));
        let mut stop_at = NEVER;
        if self.early_eos != EarlyEos::default() {
            let u: f64 = self.stops.draws(stream, nth).random();
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

    fn refuse(&mut self, request: &NewRequest) {
        self.sent[request.adapter as usize].unseen += 1;
    }

    fn refuse_until(&mut self, until: Picoseconds) -> u64 {
        let sent = &mut self.sent;
        let count = self.arrivals.take_until(until, |adapter| {
            let sent = &mut sent[adapter as usize];
            sent.all += 1;
            sent.unseen += 1;
        });
        self.serial += count as u32;
        count
    }

    fn unseen(&self) -> Vec<Unseen> {
        if self.sent.iter().all(|sent| sent.unseen == 0) {
            return vec![Unseen::default(); self.sent.len()];
        }
        let means = self.means();
        let of_adapters = self.sent.iter().zip(means);
        of_adapters
            .map(|(sent, mean)| Unseen::of_mean(sent.unseen, mean))
            .collect()
    }

    fn mean_tokens(&self) -> Option<Vec<f64>> {
        Some(self.means())
    }
}
