//! The CPU tier (`max_cpu_loras` adapters, vLLM's `_registered_adapters`).

use super::AdapterId;

const NOWHERE: u32 = u32::MAX;

/// Adapters in CPU memory.
#[derive(Debug)]
pub struct CpuCache {
    capacity: usize,
    held: Vec<AdapterId>,
    index_of: Vec<u32>,
}

impl CpuCache {
    /// Room for `max_cpu_loras` adapters.
    pub fn new(max_cpu_loras: u32, num_adapters: u32) -> Self {
        Self {
            capacity: max_cpu_loras as usize,
            held: Vec::new(),
            index_of: vec![NOWHERE; num_adapters as usize + 1],
        }
    }

    /// Whether the adapter is in memory.
    pub fn holds(&self, adapter: AdapterId) -> bool {
        self.index_of[adapter as usize] != NOWHERE
    }

    /// Whether an insertion needs an eviction.
    pub fn is_full(&self) -> bool {
        self.held.len() >= self.capacity
    }

    /// Places that nobody holds.
    pub fn num_free(&self) -> usize {
        self.capacity - self.held.len()
    }

    /// Adapters in memory, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = AdapterId> + '_ {
        self.held.iter().copied()
    }

    /// Puts an adapter in.
    pub fn insert(&mut self, adapter: AdapterId) {
        self.index_of[adapter as usize] = self.held.len() as u32;
        self.held.push(adapter);
    }

    /// Takes an adapter out.
    pub fn remove(&mut self, adapter: AdapterId) {
        let index = std::mem::replace(&mut self.index_of[adapter as usize], NOWHERE) as usize;
        self.held.swap_remove(index);
        if let Some(&moved) = self.held.get(index) {
            self.index_of[moved as usize] = index as u32;
        }
    }
}
