//! The waiting queue, indexed by adapter.
//!
//! vLLM walks its queue from the head and skips requests whose adapter has no `max_loras` place; with 25,000 waiting that walk
//! is the whole step. Here a request has a key that never changes while it waits, one queue holds all of them in key order and
//! one holds those of each adapter. Until the places are full nothing is skipped, so the global head is the candidate; after
//! that only the heads of the adapters in the batch (and of the base model) can be admitted, smallest key first. Skipped
//! requests keep their order because nothing moves (vLLM 0.32 `v1/core/sched/scheduler.py` schedule(): `prepend_requests`).

use std::collections::VecDeque;

use super::request::RequestId;
use crate::config::SchedulingPolicy;

/// Position in the queue: (priority, arrival time, tie), smaller first. FCFS uses the last field alone: a counter up for
/// arrivals, down for requests put back at the head.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct QueueKey {
    priority: i64,
    arrival: f64,
    tie: i64,
}

impl QueueKey {
    fn before(&self, other: &Self) -> bool {
        self < other
    }
}

/// A queue of this length is cheap to keep free of stale entries.
const EXACT_UP_TO: usize = 256;

/// One entry: the key and the request.
#[derive(Clone, Copy, Debug)]
struct Entry {
    key: QueueKey,
    id: RequestId,
}

/// Requests that wait, in the order in which vLLM would try them.
#[derive(Debug)]
pub struct WaitingQueue {
    policy: SchedulingPolicy,
    /// All waiting requests and stale entries of departed ones, in key order.
    all: VecDeque<Entry>,
    /// The same without stale entries, by adapter.
    by_adapter: Vec<VecDeque<Entry>>,
    len: usize,
    next_back: i64,
    next_front: i64,
}

impl WaitingQueue {
    /// An empty queue for adapters `0..=num_adapters`.
    pub fn new(policy: SchedulingPolicy, num_adapters: u32) -> Self {
        Self {
            policy,
            all: VecDeque::new(),
            by_adapter: vec![VecDeque::new(); num_adapters as usize + 1],
            len: 0,
            next_back: 0,
            next_front: -1,
        }
    }

    /// Requests waiting.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a request at the end (`at_head` false) or at the head of the queue; by priority it goes where its key says.
    /// Returns the key it waits under.
    pub fn push(
        &mut self,
        id: RequestId,
        adapter: u32,
        priority: i64,
        order: (f64, u32),
        at_head: bool,
    ) -> QueueKey {
        let key = match (self.policy, at_head) {
            (SchedulingPolicy::Priority, _) => QueueKey {
                priority,
                arrival: order.0,
                tie: i64::from(order.1),
            },
            (SchedulingPolicy::Fcfs, false) => {
                self.next_back += 1;
                QueueKey {
                    tie: self.next_back,
                    ..QueueKey::default()
                }
            }
            (SchedulingPolicy::Fcfs, true) => {
                self.next_front -= 1;
                QueueKey {
                    tie: self.next_front,
                    ..QueueKey::default()
                }
            }
        };
        let entry = Entry { key, id };
        insert(&mut self.all, entry);
        insert(&mut self.by_adapter[adapter as usize], entry);
        self.len += 1;
        key
    }

    /// Takes a waiting request out. `key` is what [`Self::push`] returned.
    pub fn remove(&mut self, id: RequestId, adapter: u32, key: QueueKey) {
        let queue = &mut self.by_adapter[adapter as usize];
        let at = queue.partition_point(|entry| entry.key.before(&key));
        debug_assert!(queue.get(at).is_some_and(|entry| entry.id == id));
        queue.remove(at);
        self.len -= 1;
        let front = self
            .all
            .front()
            .is_some_and(|entry| entry.id == id && entry.key == key);
        if front {
            self.all.pop_front();
        } else if self.policy == SchedulingPolicy::Priority || self.all.len() <= EXACT_UP_TO {
            // Priority keys can return, so their entries may not linger.
            let at = self.all.partition_point(|entry| entry.key.before(&key));
            self.all.remove(at);
        } else {
            self.compact_when_sparse();
        }
    }

    /// The first waiting request at or after position `from` of the whole queue for which `live` holds, with the position.
    /// Stale entries at the head are dropped on the way.
    pub fn first(
        &mut self,
        mut from: usize,
        live: impl Fn(RequestId, QueueKey) -> bool,
    ) -> Option<(usize, RequestId)> {
        while from == 0 && self.all.front().is_some_and(|entry| !live(entry.id, entry.key)) {
            self.all.pop_front();
        }
        while let Some(entry) = self.all.get(from) {
            if live(entry.id, entry.key) {
                return Some((from, entry.id));
            }
            from += 1;
        }
        None
    }

    /// The `at`-th waiting request of one adapter, with its key.
    pub fn of_adapter(&self, adapter: u32, at: usize) -> Option<(QueueKey, RequestId)> {
        self.by_adapter[adapter as usize]
            .get(at)
            .map(|entry| (entry.key, entry.id))
    }

    /// Waiting requests in order; `live` tells stale entries apart.
    pub fn iter<'a>(
        &'a self,
        live: impl Fn(RequestId, QueueKey) -> bool + 'a,
    ) -> impl Iterator<Item = RequestId> + 'a {
        self.all
            .iter()
            .filter(move |entry| live(entry.id, entry.key))
            .map(|entry| entry.id)
    }

    /// Drops stale entries once they are most of the queue, so that it stays proportional to what waits.
    fn compact_when_sparse(&mut self) {
        if self.all.len() > 2 * self.len + EXACT_UP_TO {
            let mut live: Vec<Entry> = self.by_adapter.iter().flatten().copied().collect();
            live.sort_unstable_by_key(|entry| entry.key.tie);
            self.all = live.into();
        }
    }
}

/// Keeps `queue` in key order. Arrivals and FCFS returns land at an end, in constant time.
fn insert(queue: &mut VecDeque<Entry>, entry: Entry) {
    if queue.back().is_none_or(|last| last.key.before(&entry.key)) {
        queue.push_back(entry);
    } else if queue.front().is_some_and(|first| entry.key.before(&first.key)) {
        queue.push_front(entry);
    } else {
        let at = queue.partition_point(|other| other.key.before(&entry.key));
        queue.insert(at, entry);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push {
            adapter: u32,
            at_head: bool,
            priority: i64,
        },
        Remove {
            nth: usize,
        },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let push = (0u32..4, any::<bool>(), 0i64..3).prop_map(|(adapter, at_head, priority)| Step::Push {
            adapter,
            at_head,
            priority,
        });
        // More arrivals than departures, so that the queue grows past the length that is kept exact.
        prop::collection::vec(
            prop_oneof![5 => push, 3 => any::<usize>().prop_map(|nth| Step::Remove { nth })],
            1..2000,
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// The index lists requests in the order of a plain list with insertion where vLLM inserts.
        #[test]
        fn order_is_that_of_a_plain_list(steps in steps(), by_priority in any::<bool>()) {
            let policy = if by_priority { SchedulingPolicy::Priority } else { SchedulingPolicy::Fcfs };
            let mut queue = WaitingQueue::new(policy, 3);
            let mut list: Vec<(i64, u32, u32)> = Vec::new(); // (priority, id, adapter)
            let mut keys: Vec<Option<QueueKey>> = Vec::new(); // by id; None = not waiting
            for step in steps {
                match step {
                    Step::Push { adapter, at_head, priority } => {
                        let id = keys.len() as u32;
                        keys.push(Some(queue.push(id, adapter, priority, (f64::from(id), id), at_head)));
                        let at = match policy {
                            SchedulingPolicy::Priority => list.partition_point(|&(p, _, _)| p <= priority),
                            SchedulingPolicy::Fcfs if at_head => 0,
                            SchedulingPolicy::Fcfs => list.len(),
                        };
                        list.insert(at, (priority, id, adapter));
                    }
                    Step::Remove { nth } if !list.is_empty() => {
                        let (_, id, adapter) = list.remove(nth % list.len());
                        queue.remove(id, adapter, keys[id as usize].take().expect("waiting"));
                    }
                    Step::Remove { .. } => {}
                }
                prop_assert_eq!(queue.len(), list.len());
            }
            let live = |id: RequestId, key: QueueKey| keys[id as usize] == Some(key);
            let ids: Vec<u32> = list.iter().map(|&(_, id, _)| id).collect();
            prop_assert_eq!(queue.iter(live).collect::<Vec<_>>(), ids.clone());
            prop_assert_eq!(queue.first(0, live).map(|(_, id)| id), ids.first().copied());
            for adapter in 0..4 {
                let of_adapter: Vec<u32> = (0..).map_while(|at| queue.of_adapter(adapter, at)).map(|(_, id)| id).collect();
                let expected: Vec<u32> = list.iter().filter(|&&(_, _, a)| a == adapter).map(|&(_, id, _)| id).collect();
                prop_assert_eq!(of_adapter, expected);
            }
        }
    }
}
