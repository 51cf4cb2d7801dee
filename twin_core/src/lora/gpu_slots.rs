//! The GPU slots (`max_loras` of them, vLLM's `lora_index_to_id`).

use super::AdapterId;

/// Slots and who holds them.
#[derive(Debug)]
pub struct GpuSlots {
    slots: Vec<Option<AdapterId>>,
    slot_of: Vec<Option<u32>>,
    used: usize,
}

impl GpuSlots {
    /// `max_loras` empty slots.
    pub fn new(max_loras: u32, num_adapters: u32) -> Self {
        Self {
            slots: vec![None; max_loras as usize],
            slot_of: vec![None; num_adapters as usize + 1],
            used: 0,
        }
    }

    /// Whether the adapter has a slot.
    pub fn holds(&self, adapter: AdapterId) -> bool {
        self.slot_of[adapter as usize].is_some()
    }

    /// Whether every slot is taken.
    pub fn is_full(&self) -> bool {
        self.used == self.slots.len()
    }

    /// Slots that nobody holds.
    pub fn num_free(&self) -> usize {
        self.slots.len() - self.used
    }

    /// What each slot holds.
    pub fn slots(&self) -> &[Option<AdapterId>] {
        &self.slots
    }

    /// Gives the adapter the first free slot (the last one for a mutation) and returns it.
    ///
    /// # Panics
    /// If every slot is taken: the caller evicts first.
    pub fn take(&mut self, adapter: AdapterId, first: bool) -> u32 {
        let mut free = self
            .slots
            .iter()
            .enumerate()
            .filter(|(_, held)| held.is_none())
            .map(|(i, _)| i);
        let slot = if first { free.next() } else { free.next_back() }.expect("a free slot");
        self.slots[slot] = Some(adapter);
        self.slot_of[adapter as usize] = Some(slot as u32);
        self.used += 1;
        slot as u32
    }

    /// Frees the adapter's slot; false if it had none.
    pub fn free(&mut self, adapter: AdapterId) -> bool {
        let Some(slot) = self.slot_of[adapter as usize].take() else {
            return false;
        };
        self.slots[slot as usize] = None;
        self.used -= 1;
        true
    }
}
