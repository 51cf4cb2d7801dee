//! The batch that a server settles in, if every quantity stood at its mean.
//!
//! With R requests running, each step finishes R/E\[output\] of them and as many are prefilled; so a step's mean duration is a
//! function s(R) of the profile. By Little's law R = rate x E\[output\] x s(R): the smallest root is the unqueued state. No
//! root below what the KV cache holds means that the offered load exceeds the capacity R_max / (E\[output\] s(R_max)).
//! Adapters are in the batch with probability 1 - exp(-rate x residence) (M/G/inf); which of them a slot still holds follows
//! Che's approximation of an LRU cache (Che, Tung and Wang 2002).

use serde::Deserialize;

use crate::config::EngineConfig;
use crate::cost::{ConfigFeatures, Feature, NUM_FEATURES, Polynomial, Profile};

const PS_PER_S: f64 = 1e12;
/// No wait is longer: far beyond any horizon.
const LONGEST_WAIT_S: f64 = 1e5;
/// Halvings of the bracket around the running batch: to 1 / 65,536 of its width.
const HALVINGS: u32 = 16;

/// Moments of the joint length law, in tokens; outputs as generated, early ends included.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LengthMoments {
    /// E\[prompt\].
    pub prompt: f64,
    /// E\[output\].
    pub output: f64,
    /// E\[prompt x output\].
    pub prompt_output: f64,
    /// E\[output^2\].
    pub output_squared: f64,
}

impl LengthMoments {
    /// KV tokens that a running request holds, averaged over its steps, counted in whole blocks.
    pub fn context(&self, block_size: f64) -> f64 {
        self.prompt_output / self.output + 0.5 * self.output_squared / self.output + 0.5 * block_size
    }
}

/// Adapters of equal rate and rank.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// Requests per second of one of them.
    pub rate: f64,
    /// Rank.
    pub rank: f64,
    /// How many there are.
    pub count: f64,
}

/// A server and its traffic, ready to be asked for mean durations.
#[derive(Debug)]
pub struct MeanField<'a> {
    groups: &'a [Group],
    rate: f64,
    base_rate: f64,
    slots: f64,
    context: f64,
    lengths: LengthMoments,
    most_running: f64,
    step: Polynomial,
    load: Polynomial,
    ingress: Polynomial,
    egress: Polynomial,
    max_lora_rank: f64,
    horizon_s: f64,
}

/// Where the server settles.
#[derive(Clone, Copy, Debug)]
pub struct State {
    /// Requests running.
    pub running: f64,
    /// Seconds per step; loads included after [`MeanField::with_slots`].
    pub step_s: f64,
    /// Adapters with a running request, were there slots for all.
    pub active: f64,
    /// Variance of that number.
    pub active_variance: f64,
    /// Share of the time spent loading adapters; 0 until [`MeanField::with_slots`].
    pub load_share: f64,
    /// Seconds that an adapter waits for a slot, 0 where slots suffice; likewise.
    pub slot_wait_s: f64,
    /// Requests that wait with their adapters; likewise.
    pub slot_queue: f64,
}

impl<'a> MeanField<'a> {
    /// Folds profile, configuration and traffic together; `kv_tokens` is what the KV cache holds.
    pub fn new(
        profile: &Profile,
        config: &EngineConfig,
        groups: &'a [Group],
        base_rate: f64,
        lengths: LengthMoments,
        kv_tokens: f64,
        horizon_s: f64,
    ) -> Self {
        let served: f64 = groups.iter().map(|group| group.count).sum();
        let features = ConfigFeatures::new(config, served as u32);
        let context = lengths.context(f64::from(config.block_size));
        Self {
            groups,
            rate: base_rate + groups.iter().map(|group| group.rate * group.count).sum::<f64>(),
            base_rate,
            slots: f64::from(config.max_loras),
            context,
            lengths,
            most_running: (kv_tokens / context).min(f64::from(config.max_num_seqs)).max(1.0),
            step: Polynomial::compile(&profile.step_time.terms, &features),
            load: Polynomial::compile(&profile.load_time.memory, &features),
            ingress: Polynomial::compile(&profile.frontend.ingress, &features),
            egress: Polynomial::compile(&profile.frontend.egress, &features),
            max_lora_rank: features.max_lora_rank() as f64,
            horizon_s,
        }
    }

    /// Requests that the KV cache and `max_num_seqs` allow to run.
    pub fn most_running(&self) -> f64 {
        self.most_running
    }

    /// Requests per second offered.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// The state with so many requests running.
    pub fn at(&self, running: f64) -> State {
        // Little's law over the running requests: each stays for running / rate.
        let residence = running / self.rate.max(1e-12);
        let (mut active, mut variance) = (0.0, 0.0);
        for group in self.groups {
            let present = -(-group.rate * residence).exp_m1();
            active += group.count * present;
            variance += group.count * present * (1.0 - present);
        }
        State {
            running,
            step_s: self.step_s(running, active.min(self.slots)) / PS_PER_S,
            active,
            active_variance: variance,
            load_share: 0.0,
            slot_wait_s: 0.0,
            slot_queue: 0.0,
        }
    }

    /// The same with what scarce slots cost: loads lengthen steps, and adapters wait for their turn.
    pub fn with_slots(&self, state: State) -> State {
        let residence = state.running / self.rate.max(1e-12);
        let (loads_per_s, load_s) = self.loads(residence);
        // A load blocks its step; at most half of the time is believed to go that way.
        let load_share = (loads_per_s * load_s).min(0.5);
        let step_s = state.step_s / (1.0 - load_share);
        let (slot_wait_s, slot_queue) = self.slot_wait(self.lengths.output * step_s);
        State {
            step_s,
            load_share,
            slot_wait_s,
            slot_queue,
            ..state
        }
    }

    /// The unqueued state, and whether there is one below the most that may run; else the state at that most.
    pub fn settle(&self) -> (State, bool) {
        let demand = |running: f64| {
            let state = self.at(running);
            (self.rate * self.lengths.output * state.step_s, state)
        };
        let (needed, full) = demand(self.most_running);
        if needed >= self.most_running {
            return (self.with_slots(full), false);
        }
        let (mut low, mut high, mut state) = (0.0, self.most_running, full);
        for _ in 0..HALVINGS {
            let middle = 0.5 * (low + high);
            let (needed, there) = demand(middle);
            if needed >= middle {
                low = middle;
            } else {
                (high, state) = (middle, there);
            }
        }
        (self.with_slots(state), true)
    }

    /// Requests per second that a state serves.
    pub fn throughput(&self, state: &State) -> f64 {
        state.running / (self.lengths.output * state.step_s)
    }

    /// Seconds to the first token of a request that finds its adapter ready and memory free.
    pub fn first_token_s(&self, state: &State) -> f64 {
        let prefill = self.step_of(state.running, state.active.min(self.slots), 1.0);
        let ingress = self.ingress.eval_mean(&[0.0; NUM_FEATURES]);
        let egress = self
            .egress
            .eval_mean(&self.values(state.running, state.active, 1.0));
        0.5 * state.step_s + (prefill + ingress + egress) / PS_PER_S
    }

    /// Seconds per step of an empty server that decodes one request.
    pub fn least_step_s(&self) -> f64 {
        self.step_of(1.0, 1.0_f64.min(self.slots), 0.0) / PS_PER_S
    }

    /// Mean duration in ps over steps with and without prefills.
    fn step_s(&self, running: f64, adapters: f64) -> f64 {
        let prefills = running / self.lengths.output;
        let none = (-prefills).exp();
        let some = 1.0 - none;
        let plain = self.step_of(running, adapters, 0.0);
        if some < 1e-9 {
            return plain;
        }
        none * plain + some * self.step_of(running, adapters, prefills / some)
    }

    fn step_of(&self, running: f64, adapters: f64, prefills: f64) -> f64 {
        self.step.eval_mean(&self.values(running, adapters, prefills))
    }

    fn values(&self, running: f64, adapters: f64, prefills: f64) -> [f64; NUM_FEATURES] {
        let decodes = (running - prefills).max(0.0);
        let seqs = decodes + prefills;
        let mut values = [0.0; NUM_FEATURES];
        values[Feature::PrefillTokens as usize] = prefills * self.lengths.prompt;
        values[Feature::PrefillSeqs as usize] = prefills;
        values[Feature::DecodeSeqs as usize] = decodes;
        values[Feature::Seqs as usize] = seqs;
        values[Feature::Tokens as usize] = decodes + prefills * self.lengths.prompt;
        values[Feature::ContextTokens as usize] = decodes * self.context;
        values[Feature::Adapters as usize] = adapters.min(seqs);
        values[Feature::LoraSeqs as usize] = seqs * (1.0 - self.base_rate / self.rate.max(1e-12));
        values[Feature::Running as usize] = running;
        values
    }

    /// Seconds that an adapter waits for a slot when its requests run for `residence` seconds, and the requests that wait with
    /// it at the horizon's end; 0 where slots suffice.
    ///
    /// An adapter is idle for 1 / rate, waits for T, then holds a slot until none of its requests is left: a busy period of
    /// M/G/inf that begins with 1 + rate T requests. T is where the slots held add up to those there are.
    fn slot_wait(&self, residence: f64) -> (f64, f64) {
        let busy: Vec<&Group> = self.groups.iter().filter(|group| group.rate > 0.0).collect();
        let held = |wait: f64| -> f64 {
            busy.iter()
                .map(|group| {
                    let hold = residence * busy_period(group.rate * residence, 1.0 + group.rate * wait);
                    group.count * hold / (1.0 / group.rate + wait + hold)
                })
                .sum()
        };
        let (mut low, mut high) = (1e-3, LONGEST_WAIT_S);
        if held(low) <= self.slots {
            return (0.0, 0.0);
        }
        if held(high) > self.slots {
            low = high;
        }
        for _ in 0..HALVINGS {
            let middle = (low * high).sqrt();
            if held(middle) > self.slots {
                low = middle;
            } else {
                high = middle;
            }
        }
        let wait = high.min(self.horizon_s);
        let queue = busy
            .iter()
            .map(|group| {
                let hold = residence * busy_period(group.rate * residence, 1.0 + group.rate * wait);
                let waiting = wait / (1.0 / group.rate + wait + hold);
                group.count * waiting * (1.0 + 0.5 * group.rate * wait)
            })
            .sum();
        (high, queue)
    }

    /// Loads per second, and the mean seconds of one, when requests stay for `residence` seconds.
    fn loads(&self, residence: f64) -> (f64, f64) {
        let served: f64 = self
            .groups
            .iter()
            .filter(|group| group.rate > 0.0)
            .map(|group| group.count)
            .sum();
        if served <= self.slots {
            return (0.0, 0.0);
        }
        // Time after its last request at which an adapter loses its slot: so many adapters were seen within it.
        let held = |window: f64| -> f64 {
            self.groups
                .iter()
                .map(|group| -group.count * (-group.rate * window).exp_m1())
                .sum()
        };
        let (mut low, mut high) = (residence, residence.max(1e-3));
        while held(high) < self.slots && high < 1e9 {
            high *= 2.0;
        }
        for _ in 0..HALVINGS {
            let middle = 0.5 * (low + high);
            if held(middle) < self.slots {
                low = middle;
            } else {
                high = middle;
            }
        }
        let (mut loads, mut seconds) = (0.0, 0.0);
        for group in self.groups {
            let missed = group.count * group.rate * (-group.rate * high).exp();
            let mut values = [0.0; NUM_FEATURES];
            values[Feature::Rank as usize] = group.rank;
            values[Feature::RankPadding as usize] = (self.max_lora_rank - group.rank).max(0.0);
            loads += missed;
            seconds += missed * self.load.eval_mean(&values) / PS_PER_S;
        }
        (loads, if loads > 0.0 { seconds / loads } else { 0.0 })
    }
}

/// Mean busy period of M/M/inf that begins with `first` requests, in units of the mean residence; `load` is rate x residence.
///
/// From P(empty at t | first) = B * P(empty at t | none) in the Laplace domain, the mean is the integral over u from 0 to 1 of
/// e^(load u) (1 - (1 - u)^first) / u = H(first) + sum over k of load^k / k (1 / k! - first! / (first + k)!).
fn busy_period(load: f64, first: f64) -> f64 {
    const EULER: f64 = 0.577_215_664_901_532_9;
    // Beyond this the adapter never leaves within any horizon.
    if load > 30.0 {
        return 1e12;
    }
    let middle = first + 0.5;
    let harmonic = middle.ln() + EULER + 1.0 / (24.0 * middle * middle);
    let (mut sum, mut plain, mut shifted) = (0.0, 1.0, 1.0);
    for k in 1..120 {
        let k = f64::from(k);
        plain *= load / k;
        shifted *= load / (first + k);
        let term = (plain - shifted) / k;
        sum += term;
        if term < 1e-6 * sum {
            break;
        }
    }
    harmonic + sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_period_that_one_request_begins_is_the_textbook_one() {
        for load in [1e-6, 0.3, 2.0, 6.0] {
            let textbook = f64::exp_m1(load) / load;
            assert!((busy_period(load, 1.0) / textbook - 1.0).abs() < 2e-3, "{load}");
        }
    }

    #[test]
    fn without_arrivals_it_is_the_last_of_the_first() {
        // The longest of n exponential residences: 1 + 1/2 + ... + 1/n.
        let harmonic: f64 = (1..=20).map(|k| 1.0 / f64::from(k)).sum();
        assert!((busy_period(1e-9, 20.0) / harmonic - 1.0).abs() < 1e-3);
    }
}
