//! Ending a run before its time, on request: when its outcome is settled.
//!
//! The run is looked at when requests finish, at most once per two-hundredth of its duration: at instants that belong to the
//! simulated server alone, so that a stopped run is as reproducible as a full one, in fast and exact mode alike. What is
//! reported then covers the time simulated; nothing is extrapolated.

use serde::Deserialize;

use crate::error::{Result, invalid};
use crate::time::Picoseconds;

/// Windows of a full run.
const WINDOWS: u64 = 200;
/// A tenth of the run, before which nothing is judged.
const LEAST_FOR_STARVING: usize = 20;
/// What the server may yet do in a window, over the most that it has done in one: at the end of the run, and so much more at its
/// beginning. With few slots a queue takes long to grow to where it fills the batches best.
const HEADROOM: f64 = 0.05;
const EARLY_HEADROOM: f64 = 0.35;
/// Standard errors of the number of arrivals that are granted to chance.
const DEVIATIONS: f64 = 3.0;
/// Served below this share of the offered tokens is starved.
const SERVED: f64 = 0.9;
/// Batches of the batch means, and the 97.5 % quantile of Student's t with one degree of freedom less.
const BATCHES: usize = 10;
const STUDENT: f64 = 2.262;
/// A fifth of the run, and how many windows lie between two judgements.
const LEAST_FOR_STATIONARY: usize = 40;
const EVERY: usize = 5;

/// When to stop early, as a document states it; nothing by default.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct EarlyStopSpec {
    /// When the server cannot serve nine tenths of what is offered any more.
    pub starving: bool,
    /// When throughput, TTFT and TPOT are known to this relative half width (95 %, batch means).
    pub tolerance: Option<f64>,
}

impl EarlyStopSpec {
    /// Whether anything is asked for.
    pub fn is_on(&self) -> bool {
        self.starving || self.tolerance.is_some()
    }

    /// The tolerance is a share.
    pub fn validate(&self) -> Result<()> {
        match self.tolerance {
            Some(tolerance) if !(tolerance > 0.0 && tolerance < 1.0) => {
                invalid(format!("early_stop.tolerance ({tolerance}) must be in (0, 1)"))
            }
            _ => Ok(()),
        }
    }
}

/// Why a run was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// Nine tenths of the offered tokens are out of reach.
    Starving,
    /// Throughput, TTFT and TPOT have settled.
    Stationary,
}

impl StopReason {
    /// Its name in results.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starving => "starving",
            Self::Stationary => "stationary",
        }
    }
}

/// A run so far: everything is cumulative.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// The instant.
    pub at: Picoseconds,
    /// Requests sent, refused ones too.
    pub arrived: u64,
    /// Of those that were accepted: how many, and their prompt and requested output tokens.
    pub accepted: (u64, u64),
    /// Finished requests, and their prompt and output tokens.
    pub finished: (u64, u64),
    /// Tokens that the steps have computed.
    pub scheduled_tokens: u64,
    /// Sum of TTFT in picoseconds, and how many there are.
    pub ttft: (u128, u64),
    /// The same of TPOT.
    pub tpot: (u128, u64),
    /// Whether requests wait, or have been refused since the last look.
    pub backlog: bool,
}

/// Looks at a run window by window.
#[derive(Debug)]
pub struct Watch {
    spec: EarlyStopSpec,
    duration: Picoseconds,
    window: Picoseconds,
    next: Picoseconds,
    marks: Vec<Progress>,
}

impl Watch {
    /// Of a run that would take `duration`.
    pub fn new(spec: EarlyStopSpec, duration: Picoseconds) -> Self {
        let window = (duration / WINDOWS).max(1);
        Self {
            spec,
            duration,
            window,
            next: window,
            marks: vec![Progress::default()],
        }
    }

    /// Whether the next window has come.
    pub fn is_due(&self, at: Picoseconds) -> bool {
        at >= self.next
    }

    /// Takes note of a window and says whether the run may end.
    pub fn look(&mut self, progress: Progress) -> Option<StopReason> {
        self.next = (progress.at / self.window + 1) * self.window;
        self.marks.push(progress);
        if self.spec.starving && self.is_starving() {
            return Some(StopReason::Starving);
        }
        let tolerance = self.spec.tolerance?;
        (self.marks.len().is_multiple_of(EVERY) && self.is_stationary(tolerance))
            .then_some(StopReason::Stationary)
    }

    /// While a backlog keeps the server busy it may yet compute as much in every window as it has in its best one, and some
    /// headroom; and it may go on to grow faster, as it does where a longer queue fills the batches of few adapters better: by
    /// the trend of the latter half of the windows, if that is up, and two standard errors of it. Whatever it has computed by
    /// now, and computes so until the end, counts as served in full. If even that is at most nine tenths of the offered tokens,
    /// less three standard errors of their number, the run ends starved.
    fn is_starving(&self) -> bool {
        let [.., second, first, last] = &self.marks[..] else {
            return false;
        };
        let busy = [second, first, last].iter().all(|mark| mark.backlog);
        if self.marks.len() <= LEAST_FOR_STARVING || !busy {
            return false;
        }
        let rates: Vec<(f64, f64)> = self
            .marks
            .windows(2)
            .map(|pair| {
                let tokens = pair[1].scheduled_tokens - pair[0].scheduled_tokens;
                let middle = (pair[0].at as f64 + pair[1].at as f64) / 2.0;
                (middle, tokens as f64 / (pair[1].at - pair[0].at) as f64)
            })
            .collect();
        let fastest = rates.iter().map(|&(_, rate)| rate).fold(0.0, f64::max);
        let growth = steepest(&rates[rates.len() / 2..]).max(0.0);
        let left = self.duration.saturating_sub(last.at) as f64;
        let headroom = 1.0 + HEADROOM + EARLY_HEADROOM * left / self.duration as f64;
        let yet = (headroom * fastest + growth * left / 2.0) * left;
        let possible = (last.scheduled_tokens + last.finished.0) as f64 + yet;
        let (accepted, tokens) = last.accepted;
        let offered = last.arrived as f64 * tokens as f64 / accepted as f64;
        let chance = 1.0 - DEVIATIONS / (last.arrived as f64).sqrt();
        possible <= SERVED * offered * chance * self.duration as f64 / last.at as f64
    }

    /// Batch means: the first quarter is left out as a transient, the rest cut into ten batches. Of throughput, TTFT and TPOT
    /// each, the relative half width of the 95 % interval, the change from the first five batches to the last five, and what the
    /// transient adds to the mean of the run so far (the one that is reported) must be within the tolerance.
    fn is_stationary(&self, tolerance: f64) -> bool {
        let windows = self.marks.len() - 1;
        if windows < LEAST_FOR_STATIONARY {
            return false;
        }
        let start = windows / 4;
        let edge = |batch: usize| &self.marks[start + batch * (windows - start) / BATCHES];
        let is_settled = |sum: fn(&Progress) -> f64, count: fn(&Progress) -> f64| {
            let mean = |a: &Progress, b: &Progress| (sum(b) - sum(a)) / (count(b) - count(a));
            let mut means = [0.0; BATCHES];
            for (batch, of_batch) in means.iter_mut().enumerate() {
                *of_batch = mean(edge(batch), edge(batch + 1));
            }
            settled(&means, mean(&self.marks[0], edge(BATCHES)), tolerance)
        };
        is_settled(|mark| mark.finished.1 as f64, |mark| mark.at as f64)
            && is_settled(|mark| mark.ttft.0 as f64, |mark| mark.ttft.1 as f64)
            && is_settled(|mark| mark.tpot.0 as f64, |mark| mark.tpot.1 as f64)
    }
}

/// The slope of the least-squares line through the points, and two standard errors.
fn steepest(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let (x, y) = points
        .iter()
        .fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
    let (x, y) = (x / n, y / n);
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let slope = points
        .iter()
        .map(|point| (point.0 - x) * (point.1 - y))
        .sum::<f64>()
        / spread;
    let residuals = points
        .iter()
        .map(|point| (point.1 - y - slope * (point.0 - x)).powi(2));
    slope + 2.0 * (residuals.sum::<f64>() / (n - 2.0) / spread).sqrt()
}

/// `so_far` is the mean of the whole run. False where a mean is missing (NaN).
fn settled(means: &[f64; BATCHES], so_far: f64, tolerance: f64) -> bool {
    let n = BATCHES as f64;
    let mean = means.iter().sum::<f64>() / n;
    let variance = means.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let half_width = STUDENT * (variance / n).sqrt();
    let (early, late) = means.split_at(BATCHES / 2);
    let drift = (late.iter().sum::<f64>() - early.iter().sum::<f64>()) / (n / 2.0);
    [half_width, drift, so_far - mean]
        .iter()
        .all(|error| error.abs() <= tolerance * mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = crate::time::PS_PER_S;

    /// A server of 1000 tokens per second and requests of 100 tokens at `rate` per second, in a run of 2000 s.
    fn stops(spec: EarlyStopSpec, rate: u64, ttft_s: impl Fn(u64) -> u64) -> Option<(u64, StopReason)> {
        let mut watch = Watch::new(spec, 2000 * SECOND);
        let mut ttft = (0, 0);
        (1..=2000).find_map(|second| {
            let served = (10 * second).min(rate * second);
            ttft = (ttft.0 + u128::from(ttft_s(second) * SECOND), served);
            let progress = Progress {
                at: second * SECOND,
                arrived: rate * second,
                accepted: (rate * second, 100 * rate * second),
                finished: (served, 100 * served),
                scheduled_tokens: 100 * served,
                ttft,
                tpot: (u128::from(served), served),
                backlog: rate > 10,
            };
            let due = watch.is_due(progress.at);
            due.then(|| watch.look(progress))
                .flatten()
                .map(|why| (second, why))
        })
    }

    #[test]
    fn starving_is_told_from_the_load() {
        let spec = EarlyStopSpec {
            starving: true,
            tolerance: None,
        };
        let load = |rate| stops(spec, rate, |_| 1);
        assert_eq!(load(20), Some((200, StopReason::Starving)));
        assert_eq!(load(9), None);
        // 10 / 11 of the load is served: not starved.
        assert_eq!(load(11), None);
        // 10 / 12: starved, but not by so much that headroom and chance could not undo it at once.
        let (when, why) = load(12).expect("it stops");
        assert!(when > 200 && why == StopReason::Starving, "{when}");
        assert_eq!(stops(EarlyStopSpec::default(), 20, |_| 1), None);
    }

    #[test]
    fn stationary_needs_what_does_not_move() {
        let spec = EarlyStopSpec {
            starving: false,
            tolerance: Some(0.05),
        };
        let stop = |ttft_s: fn(u64) -> u64| stops(spec, 5, ttft_s);
        assert_eq!(stop(|_| 1), Some((440, StopReason::Stationary)));
        // A slow oscillation, and a drift: TTFT is not settled.
        assert_eq!(stop(|second| 100 + 90 * ((second / 400) % 2)), None);
        assert_eq!(stop(|second| 100 + second), None);
    }

    #[test]
    fn a_missing_mean_is_not_settled() {
        let mut means = [1.0; BATCHES];
        assert!(settled(&means, 1.0, 0.01));
        assert!(!settled(&means, 1.02, 0.01));
        means[3] = f64::NAN;
        assert!(!settled(&means, 1.0, 0.01));
    }
}
