//! The waiting queue, indexed by adapter.
//!
//! vLLM walks its queue from the head and skips requests whose adapter has no `max_loras` place; with 25,000 waiting that walk
//! is the whole step. Here each adapter has a queue of its own, and two tournament trees over their heads know the first of
//! all and the first among the adapters that hold a place: a look costs nothing, a change O(log adapters). Skipped requests
//! keep their order because nothing moves (vLLM 0.32 `v1/core/sched/scheduler.py` schedule(): `prepend_requests`).

use std::collections::VecDeque;

use super::request::RequestId;
use super::tournament::Tournament;
use crate::config::SchedulingPolicy;

/// Position in the queue: (priority, arrival time, tie), smaller first. FCFS uses the last field alone: a counter up for
/// arrivals, down for requests put back at the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueKey {
    priority: i64,
    /// The arrival time's bits, made to order as the number does.
    arrival: i64,
    tie: i64,
}

impl QueueKey {
    /// Behind every request.
    pub const NONE: Self = Self {
        priority: i64::MAX,
        arrival: i64::MAX,
        tie: i64::MAX,
    };
}

/// Bits of a float that order as the floats do (its sign bit turns the others round).
fn ordered_bits(value: f64) -> i64 {
    let bits = (value + 0.0).to_bits() as i64; // + 0.0: there is one zero
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

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
    by_adapter: Vec<VecDeque<Entry>>,
    /// How many requests at the head of each adapter's queue are passed over for the rest of this step.
    passed: Vec<u32>,
    /// Adapters with requests passed over.
    passed_adapters: Vec<u32>,
    /// Whether requests of the adapter can come in when all places are taken.
    open: Vec<bool>,
    /// Heads of all adapters' queues, but for those of `changed`: with all places taken nobody asks for it.
    heads: Tournament,
    changed: Vec<u32>,
    is_changed: Vec<bool>,
    /// Heads of the open adapters' queues.
    open_heads: Tournament,
    len: usize,
    next_back: i64,
    next_front: i64,
}

impl WaitingQueue {
    /// An empty queue for adapters `0..=num_adapters`, none of them open.
    pub fn new(policy: SchedulingPolicy, num_adapters: u32) -> Self {
        let n = num_adapters as usize + 1;
        Self {
            policy,
            by_adapter: vec![VecDeque::new(); n],
            passed: vec![0; n],
            passed_adapters: Vec::new(),
            open: vec![false; n],
            heads: Tournament::new(n),
            changed: Vec::new(),
            is_changed: vec![false; n],
            open_heads: Tournament::new(n),
            len: 0,
            next_back: 0,
            next_front: 0,
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
    pub fn push(&mut self, id: RequestId, adapter: u32, priority: i64, order: (f64, u32), at_head: bool) {
        let key = match (self.policy, at_head) {
            (SchedulingPolicy::Priority, _) => QueueKey {
                priority,
                arrival: ordered_bits(order.0),
                tie: i64::from(order.1),
            },
            (SchedulingPolicy::Fcfs, false) => {
                self.next_back += 1;
                Self::fcfs_key(self.next_back)
            }
            (SchedulingPolicy::Fcfs, true) => {
                self.next_front -= 1;
                Self::fcfs_key(self.next_front)
            }
        };
        let at = insert(&mut self.by_adapter[adapter as usize], Entry { key, id });
        self.len += 1;
        if at == 0 {
            self.refresh(adapter);
        }
    }

    fn fcfs_key(tie: i64) -> QueueKey {
        QueueKey {
            priority: 0,
            arrival: 0,
            tie,
        }
    }

    /// Takes a waiting request out.
    pub fn remove(&mut self, id: RequestId, adapter: u32) {
        let queue = &mut self.by_adapter[adapter as usize];
        let first = self.passed[adapter as usize] as usize;
        let at = (first..queue.len())
            .chain(0..first)
            .find(|&at| queue[at].id == id);
        debug_assert!(at.is_some(), "request {id} does not wait");
        if let Some(at) = at {
            queue.remove(at);
            self.len -= 1;
            if at <= first {
                self.refresh(adapter);
            }
        }
    }

    /// From now on requests of the adapter can (or cannot) come in when all places are taken.
    pub fn set_open(&mut self, adapter: u32, open: bool) {
        self.open[adapter as usize] = open;
        let key = if open {
            self.head_key(adapter)
        } else {
            QueueKey::NONE
        };
        self.open_heads.set(adapter, key);
    }

    /// The first waiting request, of all or among those of open adapters.
    pub fn first(&mut self, among_open: bool) -> Option<RequestId> {
        let heads = if among_open {
            &self.open_heads
        } else {
            while let Some(adapter) = self.changed.pop() {
                self.is_changed[adapter as usize] = false;
                self.heads.set(adapter, self.head_key(adapter));
            }
            &self.heads
        };
        let adapter = heads.first()? as usize;
        Some(self.by_adapter[adapter][self.passed[adapter] as usize].id)
    }

    /// The first waiting request of one adapter.
    pub fn head(&self, adapter: u32) -> Option<RequestId> {
        let queue = &self.by_adapter[adapter as usize];
        queue
            .get(self.passed[adapter as usize] as usize)
            .map(|entry| entry.id)
    }

    /// Passes over the first request of the adapter until [`Self::end_step`].
    pub fn pass_over(&mut self, adapter: u32) {
        if self.passed[adapter as usize] == 0 {
            self.passed_adapters.push(adapter);
        }
        self.passed[adapter as usize] += 1;
        self.refresh(adapter);
    }

    /// Requests passed over count again.
    pub fn end_step(&mut self) {
        while let Some(adapter) = self.passed_adapters.pop() {
            self.passed[adapter as usize] = 0;
            self.refresh(adapter);
        }
    }

    /// Waiting requests in order (sorted anew: for traces).
    pub fn ids(&self) -> Vec<RequestId> {
        let mut entries: Vec<Entry> = self.by_adapter.iter().flatten().copied().collect();
        entries.sort_unstable_by_key(|entry| entry.key);
        entries.into_iter().map(|entry| entry.id).collect()
    }

    fn head_key(&self, adapter: u32) -> QueueKey {
        self.by_adapter[adapter as usize]
            .get(self.passed[adapter as usize] as usize)
            .map_or(QueueKey::NONE, |entry| entry.key)
    }

    fn refresh(&mut self, adapter: u32) {
        if !std::mem::replace(&mut self.is_changed[adapter as usize], true) {
            self.changed.push(adapter);
        }
        if self.open[adapter as usize] {
            self.open_heads.set(adapter, self.head_key(adapter));
        }
    }
}

/// Keeps `queue` in key order and tells where the entry went. Arrivals and FCFS returns land at an end, in constant time.
fn insert(queue: &mut VecDeque<Entry>, entry: Entry) -> usize {
    if queue.back().is_none_or(|last| last.key < entry.key) {
        queue.push_back(entry);
        queue.len() - 1
    } else if queue.front().is_some_and(|first| entry.key < first.key) {
        queue.push_front(entry);
        0
    } else {
        let at = queue.partition_point(|other| other.key < entry.key);
        queue.insert(at, entry);
        at
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
        Open {
            adapter: u32,
            open: bool,
        },
        PassOver {
            among_open: bool,
        },
        CountAgain,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let push = (0u32..4, any::<bool>(), 0i64..3).prop_map(|(adapter, at_head, priority)| Step::Push {
            adapter,
            at_head,
            priority,
        });
        let open = (0u32..4, any::<bool>()).prop_map(|(adapter, open)| Step::Open { adapter, open });
        let pass_over = any::<bool>().prop_map(|among_open| Step::PassOver { among_open });
        let remove = any::<usize>().prop_map(|nth| Step::Remove { nth });
        prop::collection::vec(
            prop_oneof![5 => push, 3 => remove, 1 => open, 1 => pass_over, 1 => Just(Step::CountAgain)],
            1..500,
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// The index lists requests in the order of a plain list with insertion where vLLM inserts, and knows the first of
        /// all and of the open adapters, those passed over left out.
        #[test]
        fn order_is_that_of_a_plain_list(steps in steps(), by_priority in any::<bool>()) {
            let policy = if by_priority { SchedulingPolicy::Priority } else { SchedulingPolicy::Fcfs };
            let mut queue = WaitingQueue::new(policy, 3);
            let mut list: Vec<(i64, u32, u32)> = Vec::new(); // (priority, id, adapter)
            let (mut open, mut passed, mut next) = ([false; 4], Vec::new(), 0);
            for step in steps {
                match step {
                    Step::Push { adapter, at_head, priority } => {
                        // A return to the head while others are passed over: not before the step has ended.
                        queue.end_step();
                        passed.clear();
                        queue.push(next, adapter, priority, (f64::from(next), next), at_head);
                        let at = match policy {
                            SchedulingPolicy::Priority => list.partition_point(|&(p, _, _)| p <= priority),
                            SchedulingPolicy::Fcfs if at_head => 0,
                            SchedulingPolicy::Fcfs => list.len(),
                        };
                        list.insert(at, (priority, next, adapter));
                        next += 1;
                    }
                    Step::Remove { nth } if !list.is_empty() => {
                        let at = nth % list.len();
                        if !passed.contains(&list[at].1) {
                            let (_, id, adapter) = list.remove(at);
                            queue.remove(id, adapter);
                        }
                    }
                    Step::Remove { .. } => {}
                    Step::Open { adapter, open: now } => {
                        open[adapter as usize] = now;
                        queue.set_open(adapter, now);
                    }
                    Step::PassOver { among_open } => {
                        if let Some(id) = queue.first(among_open) {
                            passed.push(id);
                            let &(_, _, adapter) = list.iter().find(|entry| entry.1 == id).expect("it waits");
                            queue.pass_over(adapter);
                        }
                    }
                    Step::CountAgain => {
                        queue.end_step();
                        passed.clear();
                    }
                }
                prop_assert_eq!(queue.len(), list.len());
                let left = || list.iter().filter(|entry| !passed.contains(&entry.1));
                prop_assert_eq!(queue.first(false), left().map(|entry| entry.1).next());
                let among_open = left().find(|entry| open[entry.2 as usize]).map(|entry| entry.1);
                prop_assert_eq!(queue.first(true), among_open);
            }
            prop_assert_eq!(queue.ids(), list.iter().map(|&(_, id, _)| id).collect::<Vec<_>>());
        }
    }
}
