//! Many steps of one shape recorded at once (see [`crate::timed`]): the same sums as step by step, to the bit.

use super::recorder::Recorder;
use crate::cost::Line;
use crate::engine::Scheduler;
use crate::time::Picoseconds;

/// Steps that follow one that was recorded, all but the last of them over.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// How many.
    pub steps: u64,
    /// Requests in each, all of which decode one token.
    pub seqs: u32,
    /// Their durations.
    pub line: Line,
    /// When the last of them begins.
    pub begins: Picoseconds,
    /// When it ends.
    pub ends: Picoseconds,
    /// Blocks taken since the step before, each times the span until `begins`.
    pub block_time: u128,
    /// Gap between the tokens of the step before and those of its own predecessor.
    pub first_gap: Picoseconds,
}

impl Recorder {
    /// Whether every step gets a row: then none may be left out.
    pub fn keeps_steps(&self) -> bool {
        self.step_rows.is_some()
    }

    /// When the gauges are sampled next.
    pub fn next_sample(&self) -> Picoseconds {
        self.sampler
            .as_ref()
            .map_or(Picoseconds::MAX, |sampler| sampler.next)
    }

    /// Records a segment behind a step that ends at `first_end`, up to the beginning of its last step, which `scheduler` has
    /// scheduled with `adapters` in the batch.
    pub fn repeat(
        &mut self,
        segment: &Segment,
        first_end: Picoseconds,
        scheduler: &Scheduler,
        adapters: usize,
    ) {
        let tokens = segment.steps * u64::from(segment.seqs);
        self.steps += segment.steps;
        self.busy += segment.ends - first_end;
        self.tokens_scheduled += tokens;
        self.generation_tokens += tokens;
        self.hold(segment.begins);
        self.integrals.blocks += segment.block_time;
        self.observe_held(scheduler, adapters);
        let seqs = u64::from(segment.seqs);
        if segment.first_gap > 0 {
            self.gaps.add(segment.first_gap, seqs);
        }
        let (line, gaps) = (&segment.line, segment.steps - 1);
        let lowest = if line.slope < 0 {
            line.at(gaps.saturating_sub(1))
        } else {
            line.first
        };
        self.gaps.add_run(lowest, line.slope.unsigned_abs(), gaps, seqs);
    }
}
