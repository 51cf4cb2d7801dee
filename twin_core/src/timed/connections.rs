//! Connections: which arrivals the API server lets in, and which find it full.

use std::sync::atomic::Ordering;

use super::TimedDriver;
use crate::time::Picoseconds;
use crate::workload::Traffic;

/// Arrivals between two looks at the cancel flag: most of them may be refused.
const CANCEL_EVERY_ARRIVALS: u64 = 1 << 16;

impl<T: Traffic> TimedDriver<'_, T> {
    /// Accepts every connection up to `until` while there is room for it. Connections are freed only by an update, so this is
    /// exact as long as it runs before each.
    pub(super) fn accept(&mut self, until: Picoseconds) {
        if self.traffic.peek().is_some_and(|at| at <= until) && !self.is_full() {
            self.accept_arrived(until);
        }
    }

    #[inline(never)]
    fn accept_arrived(&mut self, until: Picoseconds) {
        while self.traffic.peek().is_some_and(|at| at <= until) && !self.is_full() {
            let Some(new) = self.traffic.next() else { return };
            self.look(1);
            if self.cancelled {
                return;
            }
            let refused = new.prompt_tokens >= self.max_model_len;
            self.recorder.arrive(&new, refused);
            if refused {
                self.tell_left(1, new.arrival);
            } else {
                self.in_flight += 1;
                self.ingress
                    .push_back((self.api_server.turn(new.arrival, new.adapter), new));
            }
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.in_flight >= self.max_connections
    }

    /// Refuses every connection up to `until`, in a full server: nobody looks at those requests before room is made, and then
    /// at all of them at once.
    #[inline(never)]
    pub(super) fn refuse(&mut self, until: Picoseconds) {
        let before = self.arrivals;
        if self.recorder.keeps_requests() {
            while self.traffic.peek().is_some_and(|at| at <= until)
                && let Some(new) = self.traffic.next()
            {
                self.traffic.refuse(&new);
                self.recorder.refuse_unseen(&new);
                self.look(1);
            }
        } else {
            let count = self.traffic.refuse_until(until);
            self.look(count);
        }
        self.refused |= self.arrivals > before;
        self.tell_left(self.arrivals - before, until);
    }

    /// Tells the router that requests of its are no longer with the client's connections.
    pub(super) fn tell_left(&mut self, count: u64, at: Picoseconds) {
        if let Some(outbox) = &mut self.outbox {
            outbox.left(count, at);
        }
    }

    /// Counts arrivals and looks at the cancel flag now and then.
    pub(super) fn look(&mut self, arrivals: u64) {
        self.arrivals += arrivals;
        if self.arrivals >= self.looked_at + CANCEL_EVERY_ARRIVALS {
            self.looked_at = self.arrivals;
            self.cancelled |= self.cancel.load(Ordering::Relaxed);
        }
    }
}
