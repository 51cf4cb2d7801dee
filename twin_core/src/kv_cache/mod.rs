//! PagedAttention blocks: who holds how many, and which.

pub mod block_pool;
pub mod manager;
pub mod prefix_cache;

pub use manager::{Admission, KvCacheManager};
