//! Gaps between arrivals.

use rand::Rng;
use rand::RngExt;
use rand_distr::{Distribution, Exp1, Gamma};

use super::spec::ArrivalLaw;
use crate::rng::{ChaCha8Rng, Purpose, stream};
use crate::time::{PS_PER_S, Picoseconds};

/// The arrivals of one adapter: an endless increasing series.
#[derive(Debug)]
pub struct ArrivalStream {
    rng: ChaCha8Rng,
    mean_gap_ps: f64,
    gamma: Option<Gamma<f64>>,
    constant: bool,
    /// Kept as a float so that rounding does not add up; 2^53 ps is 2.5 hours, beyond which a gap is good to a few ps.
    at: f64,
}

impl ArrivalStream {
    /// Arrivals of adapter `index` at `rate_rps` > 0 under `seed`.
    pub fn new(seed: u64, index: u32, rate_rps: f64, law: ArrivalLaw) -> Self {
        let mut stream = Self {
            rng: stream(seed, Purpose::Arrivals, index),
            mean_gap_ps: PS_PER_S as f64 / rate_rps,
            gamma: match law {
                // Validated: the shape is positive and finite, so the constructor cannot fail.
                ArrivalLaw::Gamma { burstiness } => Gamma::new(burstiness, 1.0 / burstiness).ok(),
                ArrivalLaw::Poisson | ArrivalLaw::Constant => None,
            },
            constant: law == ArrivalLaw::Constant,
            at: 0.0,
        };
        stream.at = if stream.constant {
            stream.rng.random::<f64>() * stream.mean_gap_ps
        } else {
            stream.gap()
        };
        stream
    }

    /// The next arrival.
    pub fn peek(&self) -> Picoseconds {
        self.at as Picoseconds
    }

    /// Goes on to the one after it.
    pub fn advance(&mut self) {
        self.at += self.gap();
    }

    fn gap(&mut self) -> f64 {
        if self.constant {
            self.mean_gap_ps
        } else {
            self.mean_gap_ps * unit_gap(&mut self.rng, self.gamma.as_ref())
        }
    }
}

fn unit_gap(rng: &mut impl Rng, gamma: Option<&Gamma<f64>>) -> f64 {
    match gamma {
        Some(gamma) => gamma.sample(rng),
        None => Exp1.sample(rng),
    }
}

/// A fixed number of arrivals, uniform over the duration: a Poisson process given its count. Order statistics are drawn one
/// after the other: of `left` uniform points in the rest of the interval the first lies at 1 - (1-u)^(1/left) of it.
#[derive(Debug)]
pub struct FixedCountStream {
    rng: ChaCha8Rng,
    end: f64,
    left: u32,
    at: f64,
}

impl FixedCountStream {
    /// `count` arrivals before `end`.
    pub fn new(seed: u64, count: u32, end: Picoseconds) -> Self {
        let mut stream = Self {
            rng: stream(seed, Purpose::FixedCount, 0),
            end: end as f64,
            left: count,
            at: 0.0,
        };
        stream.draw();
        stream
    }

    /// The next arrival, if any is left.
    pub fn peek(&self) -> Option<Picoseconds> {
        (self.left > 0).then_some(self.at as Picoseconds)
    }

    /// Goes on to the one after it.
    pub fn advance(&mut self) {
        self.left = self.left.saturating_sub(1);
        self.draw();
    }

    fn draw(&mut self) {
        if self.left > 0 {
            let gap: f64 = Exp1.sample(&mut self.rng);
            self.at += (self.end - self.at) * -(-gap / f64::from(self.left)).exp_m1();
        }
    }
}
