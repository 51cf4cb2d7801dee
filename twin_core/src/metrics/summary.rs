//! The scalar results of a run, under the names of `vllm bench serve --save-result`.

use super::adapters::AdapterCounters;
use super::alike::pooled;
use super::histogram::Statistics;
use super::objectives::Objectives;
use super::recorder::{Collect, Recorder};
use crate::time::{PS_PER_MS, Picoseconds, to_seconds};

/// A scalar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Metric {
    /// A count.
    Int(u64),
    /// A measure; NaN where there is no sample.
    Float(f64),
}

/// Names and values, always the same names in the same order.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// (name, value).
    pub values: Vec<(&'static str, Metric)>,
}

/// What only the caller knows at the end of a run.
#[derive(Clone, Copy, Debug)]
pub struct Ending<'a> {
    /// Length of the measurement.
    pub duration: Picoseconds,
    /// In `running` when the client stopped.
    pub running: u64,
    /// Waiting, or on the way to the scheduler, then.
    pub waiting: u64,
    /// KV blocks.
    pub kv_blocks: u64,
    /// KV blocks that may be handed out: all but the null block of each server.
    pub usable_blocks: u64,
    /// Tokens that the KV blocks hold.
    pub kv_tokens: u64,
    /// Which adapters are alike: see [`super::alike`].
    pub alike: &'a [u32],
}

impl Summary {
    /// Every metric's name, with a value of its kind, in order.
    pub fn columns() -> Vec<(&'static str, Metric)> {
        let mut nothing = Recorder::new(0, Collect::default(), Objectives::default());
        let ending = Ending {
            duration: 1,
            running: 0,
            waiting: 0,
            kv_blocks: 0,
            usable_blocks: 0,
            kv_tokens: 0,
            alike: &[],
        };
        Self::of(&mut nothing, ending).values
    }

    /// The value of that name.
    pub fn get(&self, name: &str) -> Option<Metric> {
        self.values
            .iter()
            .find(|(known, _)| *known == name)
            .map(|&(_, value)| value)
    }

    /// Sets the value of a name that there is.
    pub fn replace(&mut self, name: &str, value: Metric) {
        if let Some(entry) = self.values.iter_mut().find(|(known, _)| *known == name) {
            entry.1 = value;
        }
    }

    fn int(&mut self, name: &'static str, value: u64) {
        self.values.push((name, Metric::Int(value)));
    }

    fn float(&mut self, name: &'static str, value: f64) {
        self.values.push((name, Metric::Float(value)));
    }

    fn statistics(&mut self, names: [&'static str; 5], s: Statistics) {
        for (name, value) in names
            .into_iter()
            .zip([s.mean_ms, s.median_ms, s.p90_ms, s.p99_ms, s.std_ms])
        {
            self.float(name, value);
        }
    }

    /// Sums up a run.
    pub fn of(recorder: &mut Recorder, ending: Ending<'_>) -> Self {
        let mut summary = Self::default();
        let seconds = to_seconds(ending.duration);
        let total = |f: fn(&AdapterCounters) -> u64| recorder.counters.iter().map(f).sum::<u64>();
        let (arrived, refused) = (total(|c| c.arrived), total(|c| c.refused));
        let completed = total(|c| c.finished);
        let (input, output) = (total(|c| c.input_tokens), total(|c| c.output_tokens));
        let (disk, memory) = (total(|c| c.loads_disk), total(|c| c.loads_memory));
        let offered = total(|c| c.offered_tokens) as f64 / seconds;
        let throughput = (input + output) as f64 / seconds;

        summary.float("duration", seconds);
        summary.int("arrived", arrived);
        summary.int("completed", completed);
        summary.int("refused", refused);
        summary.int("unfinished_running", ending.running);
        summary.int("unfinished_waiting", ending.waiting);
        summary.int("total_input_tokens", input);
        summary.int("total_output_tokens", output);
        summary.float("request_throughput", completed as f64 / seconds);
        summary.float("input_throughput", input as f64 / seconds);
        summary.float("output_throughput", output as f64 / seconds);
        summary.float("total_token_throughput", throughput);
        summary.float("total_throughput", throughput);
        summary.float("offered_token_throughput", offered);
        summary.float(
            "served_ratio",
            if offered > 0.0 {
                throughput / offered
            } else {
                f64::NAN
            },
        );
        summary.int("starved", u64::from(offered > 0.0 && throughput <= 0.9 * offered));
        summary.objectives(recorder, seconds, ending.alike);
        summary.latencies(recorder);
        summary.int("preemptions", recorder.preemptions);
        summary.int("lora_loads_disk", disk);
        summary.int("lora_loads_memory", memory);
        summary.float("lora_load_time_s", to_seconds(recorder.load_time));
        summary.int("steps", recorder.steps);
        summary.int("scheduled_tokens", recorder.tokens_scheduled);
        summary.float("busy_s", to_seconds(recorder.busy));
        summary.occupancy(recorder, ending);
        summary
    }

    fn objectives(&mut self, recorder: &Recorder, seconds: f64, groups: &[u32]) {
        let counters = &recorder.counters;
        let met: u64 = counters.iter().map(|c| c.slo_met).sum();
        let missed: u64 = counters.iter().map(|c| c.slo_missed).sum();
        let pools = pooled(counters, groups);
        // f64::max passes over the NaN of an adapter that finished nothing.
        let worst = |of: &[AdapterCounters], mean: fn(&AdapterCounters) -> f64| {
            of.iter().map(mean).fold(f64::NAN, f64::max)
        };
        let missing = |of: &[AdapterCounters]| -> Vec<bool> {
            of.iter()
                .map(|counter| counter.misses(&recorder.objectives))
                .collect()
        };
        let missing_groups = missing(&pools);
        let in_missing_groups = groups
            .iter()
            .zip(counters)
            .filter(|&(&group, counter)| counter.arrived > 0 && missing_groups[group as usize]);
        self.float("slo_attainment", met as f64 / (met + missed) as f64);
        self.float("request_goodput", met as f64 / seconds);
        self.float(
            "worst_adapter_mean_ttft_ms",
            worst(counters, AdapterCounters::mean_ttft_ms),
        );
        self.float(
            "worst_adapter_mean_tpot_ms",
            worst(counters, AdapterCounters::mean_tpot_ms),
        );
        let alone = missing(counters).into_iter().filter(|&late| late).count();
        self.int("adapters_missing_slo", alone as u64);
        self.float(
            "worst_group_mean_ttft_ms",
            worst(&pools, AdapterCounters::mean_ttft_ms),
        );
        self.float(
            "worst_group_mean_tpot_ms",
            worst(&pools, AdapterCounters::mean_tpot_ms),
        );
        self.int("adapters_in_groups_missing_slo", in_missing_groups.count() as u64);
    }

    fn latencies(&mut self, recorder: &mut Recorder) {
        self.statistics(
            [
                "mean_ttft_ms",
                "median_ttft_ms",
                "p90_ttft_ms",
                "p99_ttft_ms",
                "std_ttft_ms",
            ],
            recorder.ttft.statistics(),
        );
        self.statistics(
            [
                "mean_tpot_ms",
                "median_tpot_ms",
                "p90_tpot_ms",
                "p99_tpot_ms",
                "std_tpot_ms",
            ],
            recorder.tpot.statistics(),
        );
        // The mean over completed requests is exact; the percentiles come from the histogram of all gaps.
        self.statistics(
            [
                "mean_itl_ms",
                "median_itl_ms",
                "p90_itl_ms",
                "p99_itl_ms",
                "std_itl_ms",
            ],
            Statistics {
                mean_ms: recorder.gap_sum as f64 / recorder.gap_count as f64 / PS_PER_MS as f64,
                ..recorder.gaps.statistics()
            },
        );
        self.statistics(
            [
                "mean_e2el_ms",
                "median_e2el_ms",
                "p90_e2el_ms",
                "p99_e2el_ms",
                "std_e2el_ms",
            ],
            recorder.e2el.statistics(),
        );
    }

    fn occupancy(&mut self, recorder: &Recorder, ending: Ending<'_>) {
        let span = ending.duration as f64;
        let usable = ending.usable_blocks.max(1) as f64;
        let integrals = &recorder.integrals;
        self.int("max_running", u64::from(recorder.max_running));
        self.int("max_waiting", u64::from(recorder.max_waiting));
        self.float("mean_running", integrals.running as f64 / span);
        self.float("mean_waiting", integrals.waiting as f64 / span);
        self.float("mean_kv_usage", integrals.blocks as f64 / span / usable);
        self.float("max_kv_usage", f64::from(recorder.max_blocks) / usable);
        self.float("mean_batch_adapters", integrals.adapters as f64 / span);
        self.int("kv_blocks", ending.kv_blocks);
        self.int("kv_tokens", ending.kv_tokens);
    }
}
