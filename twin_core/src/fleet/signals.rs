//! What replicas tell a router, and when it hears of it.
//!
//! A router knows at once what it sent and what has come back to its clients. The rest (queues, KV cache, which adapters are
//! active or resident) it reads from the replicas' metrics, which are `signal_delay_ms` old.

use std::collections::VecDeque;

use crate::engine::Scheduler;
use crate::lora::{AdapterId, LoraEvent};
use crate::time::Picoseconds;

/// Which signals a router listens to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// Requests sent and not come back.
    pub outstanding: bool,
    /// Queue and KV cache.
    pub load: bool,
    /// Adapters with a running or waiting request.
    pub activity: bool,
    /// Adapters in a GPU slot.
    pub residency: bool,
}

impl Wants {
    /// Whether it listens at all.
    pub fn any(self) -> bool {
        self != Self::default()
    }
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Signal {
    Load { waiting: u32, kv_used: f64 },
    Begins(AdapterId),
    Ends(AdapterId),
    Resident(AdapterId, bool),
}

/// What one replica has said and nobody has collected.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    wants: Wants,
    late: bool,
    signals: Vec<(Picoseconds, Signal)>,
    left: Vec<(Picoseconds, u64)>,
}

impl Outbox {
    /// Says only what is listened to; `late` if it is heard later than it is said.
    pub fn new(wants: Wants, late: bool) -> Self {
        Self {
            wants,
            late,
            ..Self::default()
        }
    }

    /// Whether every step must be told: who hears of the KV cache later may look at any of them.
    pub fn tells_steps(&self) -> bool {
        self.wants.load && self.late
    }

    /// Whether there is nothing to tell as long as no request reaches the scheduler or leaves it.
    pub fn rests_between_requests(&self) -> bool {
        !self.wants.load
    }

    /// A request has reached the scheduler.
    pub fn begins(&mut self, adapter: AdapterId, at: Picoseconds) {
        if self.wants.activity {
            self.signals.push((at, Signal::Begins(adapter)));
        }
    }

    /// A request has left it.
    pub fn ends(&mut self, adapter: AdapterId, at: Picoseconds) {
        if self.wants.activity {
            self.signals.push((at, Signal::Ends(adapter)));
        }
    }

    /// Queue and KV cache as they are now.
    pub fn load(&mut self, scheduler: &Scheduler, at: Picoseconds) {
        if self.wants.load {
            let (waiting, kv_used) = (scheduler.num_waiting() as u32, scheduler.kv.usage());
            let now = (at, Signal::Load { waiting, kv_used });
            match self.signals.last_mut() {
                // Heard at once, of several in a row only the last is.
                Some(last @ (_, Signal::Load { .. })) if !self.late => *last = now,
                _ => self.signals.push(now),
            }
        }
    }

    /// Adapters came into slots and lost theirs.
    pub fn lora(&mut self, events: &[LoraEvent], at: Picoseconds) {
        if !self.wants.residency {
            return;
        }
        for event in events {
            match *event {
                LoraEvent::Activate(adapter, _) => {
                    self.signals.push((at, Signal::Resident(adapter, true)));
                }
                LoraEvent::Deactivate(adapter) => {
                    self.signals.push((at, Signal::Resident(adapter, false)));
                }
                LoraEvent::Load(_) | LoraEvent::EvictCpu(_) => {}
            }
        }
    }

    /// The last tokens of `count` requests have reached their clients, or they were refused.
    pub fn left(&mut self, count: u64, at: Picoseconds) {
        if self.wants.outstanding && count > 0 {
            self.left.push((at, count));
        }
    }
}

/// One replica as the router sees it.
#[derive(Debug)]
pub struct View {
    delay: Picoseconds,
    /// Requests sent and not come back.
    pub outstanding: u64,
    /// Requests waiting.
    pub waiting: u32,
    /// Share of the KV cache in use.
    pub kv_used: f64,
    active: Vec<u32>,
    /// Adapters with a running or waiting request.
    pub num_active: u32,
    resident: Vec<bool>,
    signals: VecDeque<(Picoseconds, Signal)>,
    left: VecDeque<(Picoseconds, u64)>,
}

impl View {
    /// A replica that has said nothing but which adapters are `resident` at first.
    pub fn new(num_adapters: u32, delay: Picoseconds, resident: impl Iterator<Item = AdapterId>) -> Self {
        let n = num_adapters as usize + 1;
        let mut view = Self {
            delay,
            outstanding: 0,
            waiting: 0,
            kv_used: 0.0,
            active: vec![0; n],
            num_active: 0,
            resident: vec![false; n],
            signals: VecDeque::new(),
            left: VecDeque::new(),
        };
        for adapter in resident {
            view.resident[adapter as usize] = true;
        }
        view
    }

    /// Takes what the replica has said.
    pub fn collect(&mut self, outbox: &mut Outbox) {
        if !outbox.signals.is_empty() {
            self.signals.extend(outbox.signals.drain(..));
        }
        if !outbox.left.is_empty() {
            self.left.extend(outbox.left.drain(..));
        }
    }

    /// Moves on to `now`.
    pub fn look(&mut self, now: Picoseconds) {
        while let Some(&(at, count)) = self.left.front()
            && at <= now
        {
            self.outstanding -= count;
            self.left.pop_front();
        }
        while let Some(&(at, signal)) = self.signals.front()
            && at.saturating_add(self.delay) <= now
        {
            self.apply(signal);
            self.signals.pop_front();
        }
    }

    /// Whether the adapter has a request there.
    pub fn is_active(&self, adapter: AdapterId) -> bool {
        self.active[adapter as usize] > 0
    }

    /// Whether the adapter has a slot there.
    pub fn is_resident(&self, adapter: AdapterId) -> bool {
        self.resident[adapter as usize]
    }

    fn apply(&mut self, signal: Signal) {
        match signal {
            Signal::Load { waiting, kv_used } => {
                self.waiting = waiting;
                self.kv_used = kv_used;
            }
            Signal::Begins(adapter) => {
                let count = &mut self.active[adapter as usize];
                *count += 1;
                self.num_active += u32::from(*count == 1 && adapter != 0);
            }
            Signal::Ends(adapter) => {
                let count = &mut self.active[adapter as usize];
                *count -= 1;
                self.num_active -= u32::from(*count == 0 && adapter != 0);
            }
            Signal::Resident(adapter, resident) => self.resident[adapter as usize] = resident,
        }
    }
}
