//! Prefix caching: hash chains per request and the map from hash to blocks.
//!
//! vLLM `v1/core/kv_cache_utils.py` hash_block_tokens(): H(parent, token ids, extra keys), the adapter among the extra keys, so
//! that nothing is shared between adapters or with the base model. Several blocks may carry one hash; the earliest is used.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use xxhash_rust::xxh3::xxh3_128;

/// 128 bits: two different prefixes never meet in practice.
pub type BlockHash = u128;

/// The key is a hash already: its low half is used as it is (and the map is never iterated).
#[derive(Default)]
pub struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }
    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

/// Token ids, hash chain and published blocks of one request.
#[derive(Debug, Default, Clone)]
pub struct Chain {
    tokens: Vec<u32>,
    hashes: Vec<BlockHash>,
    num_cached: u32,
}

/// The prefix cache of one engine.
#[derive(Debug)]
pub struct PrefixCache {
    block_size: usize,
    hash_of_block: Vec<Option<BlockHash>>,
    blocks_of_hash: HashMap<BlockHash, Vec<u32>, BuildHasherDefault<AlreadyHashed>>,
    chains: Vec<Chain>,
    bytes: Vec<u8>,
}

impl PrefixCache {
    /// An empty cache over `num_blocks` blocks of `block_size` tokens.
    pub fn new(num_blocks: u32, block_size: u32) -> Self {
        Self {
            block_size: block_size as usize,
            hash_of_block: vec![None; num_blocks as usize],
            blocks_of_hash: HashMap::default(),
            chains: Vec::new(),
            bytes: Vec::new(),
        }
    }

    /// Begins a request in slot `id` with its prompt's token ids.
    pub fn begin(&mut self, id: u32, prompt: Vec<u32>) {
        let at = id as usize;
        if at >= self.chains.len() {
            self.chains.resize_with(at + 1, Chain::default);
        }
        self.chains[at] = Chain {
            tokens: prompt,
            ..Chain::default()
        };
    }

    /// Appends a known output token.
    pub fn append(&mut self, id: u32, token: u32) {
        self.chains[id as usize].tokens.push(token);
    }

    /// Extends the request's hash chain to all full blocks of known tokens.
    pub fn hash_known_tokens(&mut self, id: u32, adapter: u32) {
        let Self {
            chains,
            bytes,
            block_size,
            ..
        } = self;
        let chain = &mut chains[id as usize];
        while (chain.hashes.len() + 1) * *block_size <= chain.tokens.len() {
            let k = chain.hashes.len();
            bytes.clear();
            bytes.extend(
                k.checked_sub(1)
                    .map_or(0, |last| chain.hashes[last])
                    .to_le_bytes(),
            );
            bytes.push(u8::from(k > 0));
            bytes.extend(adapter.to_le_bytes());
            for token in &chain.tokens[k * *block_size..(k + 1) * *block_size] {
                bytes.extend(token.to_le_bytes());
            }
            chain.hashes.push(xxh3_128(bytes));
        }
    }

    /// Full blocks whose hash is known.
    pub fn num_hashes(&self, id: u32) -> u32 {
        self.chains[id as usize].hashes.len() as u32
    }

    /// The longest run of cached blocks at the start of the request, at most `most` blocks, into `hits`.
    pub fn lookup(&self, id: u32, most: u32, earliest: bool, hits: &mut Vec<u32>) {
        hits.clear();
        for hash in self.chains[id as usize].hashes.iter().take(most as usize) {
            let Some(blocks) = self.blocks_of_hash.get(hash) else {
                break;
            };
            hits.push(if earliest {
                blocks[0]
            } else {
                blocks[blocks.len() - 1]
            });
        }
    }

    /// Publishes the request's blocks up to `num_full` under their hashes.
    pub fn publish(&mut self, id: u32, table: &[u32], num_full: u32) {
        let chain = &mut self.chains[id as usize];
        // A prompt beyond max_model_len (the API server refuses it; the scheduler does not) fills fewer blocks than it has.
        for k in chain.num_cached..num_full.min(table.len() as u32) {
            let (block, hash) = (table[k as usize], chain.hashes[k as usize]);
            self.hash_of_block[block as usize] = Some(hash);
            let blocks = self.blocks_of_hash.entry(hash).or_default();
            if !blocks.contains(&block) {
                blocks.push(block);
            }
        }
        chain.num_cached = chain.num_cached.max(num_full);
    }

    /// Sets how many of the request's blocks are already published (its prefix hits; 0 after a release).
    pub fn set_num_cached(&mut self, id: u32, num_cached: u32) {
        self.chains[id as usize].num_cached = num_cached;
    }

    /// Whether a block carries a hash.
    pub fn is_hashed(&self, block: u32) -> bool {
        self.hash_of_block[block as usize].is_some()
    }

    /// Forgets the hash of a block that is handed out anew.
    pub fn evict(&mut self, block: u32) {
        if let Some(hash) = self.hash_of_block[block as usize].take()
            && let Some(blocks) = self.blocks_of_hash.get_mut(&hash)
        {
            blocks.retain(|&other| other != block);
            if blocks.is_empty() {
                self.blocks_of_hash.remove(&hash);
            }
        }
    }
}
