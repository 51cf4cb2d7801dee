//! The adapters of a step: who holds a `max_loras` place.

/// Counts, per adapter, what holds its place: members of the cohort, and items of the step being scheduled.
#[derive(Debug)]
pub struct Places {
    holders: Vec<u32>,
    index_of: Vec<u32>,
    list: Vec<u32>,
    /// Adapters whose place may have been taken or given up since the last [`Self::drain_changes`].
    changed: Vec<u32>,
    is_changed: Vec<bool>,
}

impl Places {
    /// No place taken, of adapters `0..=num_adapters`.
    pub fn new(num_adapters: u32) -> Self {
        let n = num_adapters as usize + 1;
        Self {
            holders: vec![0; n],
            index_of: vec![0; n],
            list: Vec::new(),
            changed: Vec::new(),
            is_changed: vec![false; n],
        }
    }

    /// Adapters that hold a place, in no particular order.
    pub fn list(&self) -> &[u32] {
        &self.list
    }

    /// Whether the adapter holds a place.
    pub fn holds(&self, adapter: u32) -> bool {
        self.holders[adapter as usize] > 0
    }

    /// How many requests hold the adapter's place.
    pub fn holders(&self, adapter: u32) -> u32 {
        self.holders[adapter as usize]
    }

    /// One more request of the adapter; true if that took a place. The base model needs none.
    pub fn hold(&mut self, adapter: u32) -> bool {
        if adapter == 0 {
            return false;
        }
        let holders = &mut self.holders[adapter as usize];
        *holders += 1;
        if *holders > 1 {
            return false;
        }
        self.index_of[adapter as usize] = self.list.len() as u32;
        self.list.push(adapter);
        self.note(adapter);
        true
    }

    /// One request less; true if that freed a place.
    pub fn release(&mut self, adapter: u32) -> bool {
        if adapter == 0 {
            return false;
        }
        let holders = &mut self.holders[adapter as usize];
        *holders -= 1;
        if *holders > 0 {
            return false;
        }
        let index = self.index_of[adapter as usize] as usize;
        self.list.swap_remove(index);
        if let Some(&moved) = self.list.get(index) {
            self.index_of[moved as usize] = index as u32;
        }
        self.note(adapter);
        true
    }

    /// The adapters for which [`Self::holds`] may have changed since the last call, each once.
    pub fn drain_changes(&mut self, mut each: impl FnMut(u32, bool)) {
        for adapter in self.changed.drain(..) {
            self.is_changed[adapter as usize] = false;
            each(adapter, self.holders[adapter as usize] > 0);
        }
    }

    fn note(&mut self, adapter: u32) {
        if !std::mem::replace(&mut self.is_changed[adapter as usize], true) {
            self.changed.push(adapter);
        }
    }
}
