//! A tournament tree: who of many has the smallest key, kept up as keys change.

use super::waiting::QueueKey;

/// Contestants `0..n`, each with a key or without one; a change costs O(log n), the winner nothing.
#[derive(Debug)]
pub struct Tournament {
    /// Leaves, a power of two.
    size: usize,
    /// Winner of each inner node; node 1 is the root, the children of `k` are `2k` and `2k + 1`.
    winner: Vec<u32>,
    /// [`QueueKey::NONE`] for those who do not take part.
    keys: Vec<QueueKey>,
}

impl Tournament {
    /// `n` contestants without keys.
    pub fn new(n: usize) -> Self {
        let size = n.next_power_of_two();
        let mut tree = Self {
            size,
            winner: vec![0; 2 * size],
            keys: vec![QueueKey::NONE; size],
        };
        for (leaf, winner) in tree.winner[size..].iter_mut().zip(0..) {
            *leaf = winner;
        }
        for node in (1..size).rev() {
            tree.winner[node] = tree.winner[2 * node];
        }
        tree
    }

    /// Gives a contestant a key ([`QueueKey::NONE`] to take it out).
    pub fn set(&mut self, contestant: u32, key: QueueKey) {
        if self.keys[contestant as usize] == key {
            return;
        }
        self.keys[contestant as usize] = key;
        let mut node = (self.size + contestant as usize) / 2;
        while node > 0 {
            let (a, b) = (self.winner[2 * node], self.winner[2 * node + 1]);
            let best = if self.keys[b as usize] < self.keys[a as usize] {
                b
            } else {
                a
            };
            // Somebody else won before and wins now: nothing changes above.
            if self.winner[node] == best && best != contestant {
                return;
            }
            self.winner[node] = best;
            node /= 2;
        }
    }

    /// The contestant with the smallest key, if any has one.
    pub fn first(&self) -> Option<u32> {
        let winner = self.winner[1];
        (self.keys[winner as usize] != QueueKey::NONE).then_some(winner)
    }
}
