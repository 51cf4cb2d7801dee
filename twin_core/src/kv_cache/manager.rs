//! Allocation of KV blocks to requests (vLLM `v1/core/kv_cache_manager.py` allocate_slots(), free()).
//!
//! Two levels of detail, equal in their decisions: *counts* (how many blocks each request holds) and *ids* (which ones, in
//! vLLM's free-list order). Ids are kept for prefix caching and for traces.

use super::block_pool::BlockPool;
use super::prefix_cache::PrefixCache;
use crate::config::EngineConfig;
use crate::engine::request::{Request, RequestId};
use crate::rules::Rules;

/// What an allocation for a waiting request must also leave free.
#[derive(Clone, Copy, Debug)]
pub struct Admission {
    /// Whether `running` holds a request (the watermark applies only then).
    pub others_running: bool,
}

/// Block ids, when they are kept.
#[derive(Debug)]
struct Ids {
    pool: BlockPool,
    tables: Vec<Vec<u32>>,
    prefix: Option<PrefixCache>,
    unhashed: Vec<u32>,
    hashed: Vec<u32>,
}

/// The KV cache of one engine.
#[derive(Debug)]
pub struct KvCacheManager {
    block_size: u32,
    num_blocks: u32,
    max_model_len: u32,
    watermark_blocks: u32,
    full_sequence_gate: bool,
    rules: Rules,
    free: u32,
    ids: Option<Ids>,
}

impl KvCacheManager {
    /// A cache of `num_blocks` blocks (the null block among them). `with_ids` keeps block ids.
    pub fn new(config: &EngineConfig, rules: Rules, num_blocks: u32, with_ids: bool) -> Self {
        let ids = (with_ids || config.enable_prefix_caching).then(|| Ids {
            pool: BlockPool::new(num_blocks),
            tables: Vec::new(),
            prefix: config
                .enable_prefix_caching
                .then(|| PrefixCache::new(num_blocks, config.block_size)),
            unhashed: Vec::new(),
            hashed: Vec::new(),
        });
        Self {
            block_size: config.block_size,
            num_blocks,
            max_model_len: config.max_model_len,
            watermark_blocks: (config.watermark * f64::from(num_blocks)) as u32,
            full_sequence_gate: config.scheduler_reserve_full_isl && rules.full_sequence_gate,
            rules,
            free: num_blocks - 1,
            ids,
        }
    }

    /// Free blocks.
    pub fn num_free_blocks(&self) -> u32 {
        self.free
    }

    /// Blocks that can be handed out at all.
    pub fn num_usable_blocks(&self) -> u32 {
        self.num_blocks - 1
    }

    /// Share of blocks in use, as vLLM reports it.
    pub fn usage(&self) -> f64 {
        let total = self.num_blocks - u32::from(self.rules.usage_excludes_null_block);
        1.0 - f64::from(self.free) / f64::from(total)
    }

    /// Begins a request in slot `id`; `prompt` is used by prefix caching only.
    pub fn begin(&mut self, id: RequestId, adapter: u32, prompt: &[u32]) {
        let hash_now = !self.rules.hash_at_first_lookup;
        if let Some(ids) = &mut self.ids {
            if ids.tables.len() <= id as usize {
                ids.tables.resize_with(id as usize + 1, Vec::new);
            }
            if let Some(prefix) = &mut ids.prefix {
                prefix.begin(id, prompt.to_vec());
                if hash_now {
                    prefix.hash_known_tokens(id, adapter);
                }
            }
        }
    }

    /// A known output token joins the request.
    pub fn append_token(&mut self, id: RequestId, adapter: u32, token: impl FnOnce() -> u32) {
        let hash_now = !self.rules.hash_at_first_lookup;
        if let Some(prefix) = self.ids.as_mut().and_then(|ids| ids.prefix.as_mut()) {
            prefix.append(id, token());
            if hash_now {
                prefix.hash_known_tokens(id, adapter);
            }
        }
    }

    /// Cached blocks at the start of a waiting request, into `hits`.
    pub fn lookup(&mut self, id: RequestId, request: &Request, hits: &mut Vec<u32>) {
        hits.clear();
        if let Some(prefix) = self.ids.as_mut().and_then(|ids| ids.prefix.as_mut()) {
            if prefix.num_hashes(id) == 0 {
                prefix.hash_known_tokens(id, request.adapter);
            }
            let reusable = request.num_tokens - u32::from(self.rules.recompute_last_token);
            prefix.lookup(
                id,
                reusable / self.block_size,
                self.rules.earliest_duplicate,
                hits,
            );
        }
    }

    /// Takes blocks for requests that keep their own count (no ids). False changes nothing.
    pub fn take_counted(&mut self, needed: u32) -> bool {
        debug_assert!(self.ids.is_none());
        let fits = needed <= self.free;
        if fits {
            self.free -= needed;
        }
        fits
    }

    /// Room for `num_new` more tokens of a running request. False changes nothing.
    pub fn grow(&mut self, id: RequestId, request: &mut Request, num_new: u32) -> bool {
        let tokens = (request.num_computed_tokens + num_new).min(self.max_model_len);
        // Nearly always: the last block has room. One multiplication, no division.
        if u64::from(tokens) > u64::from(request.num_blocks) * u64::from(self.block_size) {
            let needed = tokens.div_ceil(self.block_size) - request.num_blocks;
            if needed > self.free {
                return false;
            }
            self.take(id, request, needed);
        }
        self.publish(
            id,
            request,
            (request.num_computed_tokens + num_new).min(request.num_tokens),
        );
        true
    }

    /// Room for `num_new` tokens of a waiting request behind its prefix `hits`. False changes nothing.
    pub fn admit(
        &mut self,
        id: RequestId,
        request: &mut Request,
        num_new: u32,
        hits: &[u32],
        admission: Admission,
    ) -> bool {
        let watermark = if admission.others_running {
            self.watermark_blocks
        } else {
            0
        };
        let evictable = self.ids.as_ref().map_or(0, |ids| {
            hits.iter()
                .filter(|&&block| ids.pool.is_unreferenced(block))
                .count() as u32
        });
        let held = request.num_blocks + hits.len() as u32;
        let blocks_for = |tokens: u32| tokens.div_ceil(self.block_size).saturating_sub(held);
        let within_model_len = |tokens: u32| blocks_for(tokens.min(self.max_model_len));
        if self.full_sequence_gate && within_model_len(request.num_tokens) + evictable + watermark > self.free
        {
            return false;
        }
        let computed = request.num_computed_tokens + hits.len() as u32 * self.block_size;
        let needed = within_model_len(computed + num_new);
        let asked = if self.rules.demand_within_model_len {
            needed
        } else {
            blocks_for(computed + num_new)
        };
        if asked + evictable + watermark > self.free {
            return false;
        }
        if let Some(ids) = self.ids.as_mut().filter(|_| !hits.is_empty()) {
            for &block in hits {
                ids.pool.touch(block);
            }
            ids.tables[id as usize].extend_from_slice(hits);
            if let Some(prefix) = &mut ids.prefix {
                prefix.set_num_cached(id, hits.len() as u32);
            }
            request.num_blocks += hits.len() as u32;
            self.free -= evictable;
        }
        self.take(id, request, needed);
        self.publish(id, request, (computed + num_new).min(request.num_tokens));
        true
    }

    /// Publishes the hashes of the blocks that `num_tokens` known tokens fill.
    pub fn publish(&mut self, id: RequestId, request: &Request, num_tokens: u32) {
        let Some(ids) = &mut self.ids else { return };
        let Some(prefix) = &mut ids.prefix else { return };
        let num_full = num_tokens / self.block_size;
        if self.rules.hash_at_first_lookup && num_full > prefix.num_hashes(id) {
            prefix.hash_known_tokens(id, request.adapter);
        }
        prefix.publish(id, &ids.tables[id as usize], num_full);
    }

    /// Frees all blocks of a request (finish, preemption, abort).
    pub fn release(&mut self, id: RequestId, request: &mut Request) {
        let Some(ids) = &mut self.ids else {
            self.free += request.num_blocks;
            request.num_blocks = 0;
            return;
        };
        let mut table = std::mem::take(&mut ids.tables[id as usize]);
        let caching = ids.prefix.is_some();
        if caching || !self.rules.free_forward_when_unhashed {
            table.reverse();
        }
        ids.unhashed.clear();
        ids.hashed.clear();
        for &block in &table {
            if ids.pool.release(block) {
                let hashed = ids.prefix.as_ref().is_some_and(|prefix| prefix.is_hashed(block));
                let to_tail = hashed || self.rules.free_to_tail;
                if to_tail {
                    &mut ids.hashed
                } else {
                    &mut ids.unhashed
                }
                .push(block);
            }
        }
        for &block in ids.unhashed.iter().rev() {
            ids.pool.push_front(block);
        }
        for &block in &ids.hashed {
            ids.pool.push_back(block);
        }
        if let Some(prefix) = &mut ids.prefix {
            prefix.set_num_cached(id, 0);
        }
        self.free = ids.pool.num_free();
        table.clear();
        ids.tables[id as usize] = table;
        request.num_blocks = 0;
    }

    /// The block table of a request; empty when ids are not kept.
    pub fn table(&self, id: RequestId) -> &[u32] {
        self.ids.as_ref().map_or(&[], |ids| &ids.tables[id as usize])
    }

    /// The next blocks to be handed out, at most `count`.
    pub fn free_head(&self, count: usize) -> Vec<u32> {
        self.ids
            .as_ref()
            .map_or_else(Vec::new, |ids| ids.pool.free_head(count))
    }

    fn take(&mut self, id: RequestId, request: &mut Request, needed: u32) {
        if let Some(ids) = &mut self.ids {
            for _ in 0..needed {
                let block = ids.pool.take();
                if let Some(prefix) = &mut ids.prefix {
                    prefix.evict(block);
                }
                ids.tables[id as usize].push(block);
            }
        }
        request.num_blocks += needed;
        self.free -= needed;
    }
}
