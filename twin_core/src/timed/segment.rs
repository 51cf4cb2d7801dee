//! Steps of one shape in a row, in closed form.
//!
//! While nothing arrives, nobody finishes and blocks are free, one step of plain decodes is like the one before but for the
//! context, which grows by one token a request: durations lie on a [`Line`], and all that a step does to clocks, blocks and
//! measures has a closed sum. A segment ends in front of the first thing that could decide otherwise, and its last step goes the
//! ordinary way.

use super::TimedDriver;
use crate::cost::{Line, Values};
use crate::engine::Batch;
use crate::fleet::Outbox;
use crate::metrics::Segment;
use crate::simulator::Engine;
use crate::time::Picoseconds;
use crate::workload::Traffic;

impl<T: Traffic> TimedDriver<'_, T> {
    /// Repeats the step just launched, whose features are `values` and which takes `duration` without its loads, as often as
    /// nothing else can happen: those steps are over, and `batch` is the last of them.
    pub(super) fn repeat(
        &mut self,
        engine: &mut Engine,
        batch: &mut Batch,
        values: &Values,
        duration: Picoseconds,
    ) {
        let most = engine.scheduler.repeatable(batch);
        let told = self.outbox.as_ref().is_some_and(Outbox::tells_steps);
        if most == 0 || self.asynchronous || self.recorder.keeps_steps() || told {
            return;
        }
        let egress = batch.egress;
        let delivered = batch.end + egress;
        // In the segment tokens leave as soon as they are ready.
        if delivered < self.delivered.max(self.api_server.busy_until()) {
            return;
        }
        let quiet = self.quiet_until(egress);
        let Some(span) = quiet.checked_sub(batch.end) else {
            return;
        };
        let Some(line) = self.cost.repeated(values, duration) else {
            return;
        };
        let within = |span| line.within(span, (most - 1).min(line.steps - 1));
        let mut steps = engine.scheduler.with_free_blocks(1 + within(span));
        // Whoever looks at the engine from outside must find it as it is then.
        let known = self.traffic.known_until().saturating_sub(1);
        if known < quiet {
            if self.outbox.as_ref().is_some_and(Outbox::rests_between_requests) && steps > 0 {
                self.calm_until = batch.end + line.total(steps) as Picoseconds;
            }
            let Some(span) = known.checked_sub(batch.end) else {
                return;
            };
            steps = steps.min(1 + within(span));
        }
        if steps == 0 {
            return;
        }
        let (blocks, block_time) = blocks_taken(engine, &line, steps);
        let segment = Segment {
            steps,
            seqs: batch.num_cohort,
            line,
            begins: batch.end + line.total(steps - 1) as Picoseconds,
            ends: batch.end + line.total(steps) as Picoseconds,
            block_time,
            first_gap: delivered - self.delivered,
        };
        self.previous_delivered = self.delivered;
        self.delivered = segment.begins + egress;
        self.now = segment.begins;
        self.gpu_free = segment.ends;
        engine.repeat(batch, steps, blocks, (delivered, self.delivered));
        self.recorder
            .repeat(&segment, batch.end, &engine.scheduler, batch.adapters.len());
        batch.end = segment.ends;
        if let Some(outbox) = &mut self.outbox {
            outbox.load(&engine.scheduler, self.now);
        }
    }

    /// The instant up to which steps may end without anything but decodes to follow, unless a request comes that is not known
    /// yet: no request becomes visible, no sample is due, and neither the end of the run nor work of the API server touches
    /// tokens that leave `egress` later.
    fn quiet_until(&self, egress: Picoseconds) -> Picoseconds {
        let delay = self.ingress_delay();
        let mut quiet = self.recorder.next_sample();
        if let Some(end) = self.end {
            quiet = quiet.min(end.saturating_sub(egress));
        }
        if let Some(&(at, _)) = self.loads.front() {
            quiet = quiet.min(at.saturating_sub(1));
        }
        if let Some(poll) = self.api_server.next_poll() {
            quiet = quiet.min(poll.saturating_sub(egress + 1));
        }
        if let Some(&(turn, _)) = self.ingress.front() {
            quiet = quiet.min((turn + delay).saturating_sub(1));
        }
        if self.in_flight < self.max_connections
            && let Some(at) = self.traffic.peek()
        {
            // A prompt that is too long is refused as soon as a step ends, and a router hears of that.
            let heard = self.outbox.is_some();
            let harmless = if self.api_server.knows_all() && !heard {
                delay
            } else {
                0
            };
            quiet = quiet.min((at + harmless).saturating_sub(1));
        }
        quiet
    }
}

/// Blocks taken at the beginnings of the `steps` steps of `line`, and the sum of each times the span from there to the beginning
/// of the last.
#[inline(always)] // else the sum comes back through memory, half by half
fn blocks_taken(engine: &Engine, line: &Line, steps: u64) -> (u32, u128) {
    let last = line.total(steps - 1);
    let mut taken = 0;
    let mut sum = 0;
    let mut begins = 0;
    for (first, stride, times, blocks) in engine.scheduler.coming_blocks(steps) {
        taken += times as u32 * blocks;
        sum += u128::from(blocks)
            * if times == 1 {
                u128::from(last as u64 - begins)
            } else {
                (last * i128::from(times) - line.sum_of_totals(first, stride, times)) as u128
            };
        begins += line.at(first);
    }
    (taken, sum)
}
