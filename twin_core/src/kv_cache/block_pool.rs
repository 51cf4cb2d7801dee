//! The free list of KV block ids, in vLLM's order.
//!
//! Block 0 is the null block and is never handed out; blocks are taken from the head; where a freed block goes differs by
//! version (vLLM `v1/core/block_pool.py` free_blocks()). A doubly linked list over arrays: every move is O(1).

const NIL: u32 = u32::MAX;

/// Free blocks and reference counts.
#[derive(Debug)]
pub struct BlockPool {
    next: Vec<u32>,
    prev: Vec<u32>,
    head: u32,
    tail: u32,
    free: u32,
    references: Vec<u32>,
}

impl BlockPool {
    /// `num_blocks` blocks, block 0 among them.
    pub fn new(num_blocks: u32) -> Self {
        let n = num_blocks as usize;
        let mut pool = Self {
            next: vec![NIL; n],
            prev: vec![NIL; n],
            head: NIL,
            tail: NIL,
            free: 0,
            references: vec![0; n],
        };
        for block in 1..num_blocks {
            pool.push_back(block);
        }
        pool
    }

    /// Free blocks.
    pub fn num_free(&self) -> u32 {
        self.free
    }

    /// The next blocks to be handed out, at most `count`.
    pub fn free_head(&self, count: usize) -> Vec<u32> {
        std::iter::successors((self.head != NIL).then_some(self.head), |&block| {
            Some(self.next[block as usize]).filter(|&next| next != NIL)
        })
        .take(count)
        .collect()
    }

    /// Whether nobody holds the block.
    pub fn is_unreferenced(&self, block: u32) -> bool {
        self.references[block as usize] == 0
    }

    /// Takes the head of the free list for one holder.
    ///
    /// # Panics
    /// If no block is free: the manager checks first.
    pub fn take(&mut self) -> u32 {
        let block = self.head;
        assert!(block != NIL, "take() from an empty free list");
        self.unlink(block);
        self.references[block as usize] = 1;
        block
    }

    /// Adds a holder to a block that may be free.
    pub fn touch(&mut self, block: u32) {
        if self.references[block as usize] == 0 {
            self.unlink(block);
        }
        self.references[block as usize] += 1;
    }

    /// Drops one holder; true if it was the last, so that the block must go back to the free list.
    pub fn release(&mut self, block: u32) -> bool {
        let references = &mut self.references[block as usize];
        *references -= 1;
        *references == 0
    }

    /// Puts a released block at the tail of the free list.
    pub fn push_back(&mut self, block: u32) {
        self.prev[block as usize] = self.tail;
        self.next[block as usize] = NIL;
        if self.tail == NIL {
            self.head = block;
        } else {
            self.next[self.tail as usize] = block;
        }
        self.tail = block;
        self.free += 1;
    }

    /// Puts a released block at the head of the free list.
    pub fn push_front(&mut self, block: u32) {
        self.next[block as usize] = self.head;
        self.prev[block as usize] = NIL;
        if self.head == NIL {
            self.tail = block;
        } else {
            self.prev[self.head as usize] = block;
        }
        self.head = block;
        self.free += 1;
    }

    fn unlink(&mut self, block: u32) {
        let (prev, next) = (self.prev[block as usize], self.next[block as usize]);
        if prev == NIL {
            self.head = next;
        } else {
            self.next[prev as usize] = next;
        }
        if next == NIL {
            self.tail = prev;
        } else {
            self.prev[next as usize] = prev;
        }
        self.free -= 1;
    }
}
