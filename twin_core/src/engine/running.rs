//! The running list: requests in order of admission.

use super::request::{RequestId, Requests};

const GONE: RequestId = RequestId::MAX;

/// Running requests. A request that leaves is a gap until the next [`Self::compact`], so that leaving costs nothing and
/// positions hold while a step is scheduled.
#[derive(Debug, Default)]
pub struct RunningList {
    places: Vec<RequestId>,
    len: usize,
}

impl RunningList {
    /// Requests in the list.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing runs.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions, gaps included: the end of a walk with [`Self::get`].
    pub fn end(&self) -> usize {
        self.places.len()
    }

    /// The request at a position; `None` for a gap.
    pub fn get(&self, at: usize) -> Option<RequestId> {
        Some(self.places[at]).filter(|&id| id != GONE)
    }

    /// Requests in order.
    pub fn iter(&self) -> impl Iterator<Item = RequestId> + '_ {
        self.places.iter().copied().filter(|&id| id != GONE)
    }

    /// The latest one.
    pub fn last(&mut self) -> Option<RequestId> {
        while self.places.last() == Some(&GONE) {
            self.places.pop();
        }
        self.places.last().copied()
    }

    /// A request joins at the end.
    pub fn push(&mut self, id: RequestId, requests: &mut Requests) {
        requests[id].running_at = self.places.len() as u32;
        self.places.push(id);
        self.len += 1;
    }

    /// A request leaves.
    pub fn remove(&mut self, id: RequestId, requests: &Requests) {
        let at = requests[id].running_at as usize;
        debug_assert_eq!(self.places[at], id);
        self.places[at] = GONE;
        self.len -= 1;
    }

    /// Closes the gaps once they are half of the list.
    pub fn compact(&mut self, requests: &mut Requests) {
        if self.places.len() > 2 * self.len + 16 {
            self.places.retain(|&id| id != GONE);
            for (&id, at) in self.places.iter().zip(0..) {
                requests[id].running_at = at;
            }
        }
    }
}
