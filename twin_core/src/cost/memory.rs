//! GPU memory: how many KV blocks a configuration leaves, or why it cannot start.
//!
//! vLLM 0.8.5 and 0.32 `v1/worker/gpu_worker.py` determine_available_memory() and `v1/core/kv_cache_utils.py`: weights and all
//! LoRA slots are allocated first (slots at `max_lora_rank`, whatever the adapters' ranks), a profile run finds the peak of
//! activations, the rest of `gpu_memory_utilization` becomes KV blocks.

use super::profile::Memory;
use crate::config::EngineConfig;

/// Why a server cannot start, in the words of `error_class` of the measured runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Infeasible {
    /// Weights and LoRA slots do not fit on the GPU.
    OomCuda,
    /// Nothing is left for the KV cache.
    NoKvMemory,
    /// Not even one request of `max_model_len` fits.
    KvSmallerThanMaxModelLen,
}

impl Infeasible {
    /// The class name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OomCuda => "oom_cuda",
            Self::NoKvMemory => "no_kv_memory",
            Self::KvSmallerThanMaxModelLen => "kv_smaller_than_max_model_len",
        }
    }
}

/// The KV cache of a configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct KvPlan {
    /// KV blocks, the null block among them.
    pub num_blocks: u32,
    /// Why the server would not start, with one line for the user.
    pub infeasible: Option<(Infeasible, String)>,
}

const GIB: f64 = (1u64 << 30) as f64;

impl Memory {
    /// Bytes that LoRA takes at model load.
    pub fn lora_bytes(&self, config: &EngineConfig) -> f64 {
        if !config.lora_enabled() {
            return 0.0;
        }
        let (slots, rank) = (f64::from(config.max_loras), f64::from(config.max_lora_rank));
        let tensors: f64 = self
            .lora_tensors
            .iter()
            .map(|t| t.count * allocated(slots * rank * t.bytes))
            .sum();
        self.lora_fixed_bytes
            + slots * (self.lora_slot_bytes + self.lora_slot_bytes_per_rank * rank)
            + tensors
    }

    /// KV blocks of a configuration, and whether it starts. `num_gpu_blocks_override` replaces the computed count but not the
    /// check that weights and slots fit.
    pub fn plan(&self, config: &EngineConfig) -> KvPlan {
        let lora = self.lora_bytes(config);
        let overhead = (self.overhead_bytes + self.overhead_bytes_per_seq * f64::from(config.max_num_seqs))
            .max(self.overhead_min_bytes);
        let available = self.gpu_bytes * config.gpu_memory_utilization
            - self.weights_bytes
            - overhead
            - lora
            - self.overhead_bytes_per_slot * f64::from(config.max_loras);
        let block_bytes = self.kv_bytes_per_token * f64::from(config.block_size);
        let computed = (available / block_bytes).floor().max(0.0) as u32;
        let num_blocks = config.num_gpu_blocks_override.unwrap_or(computed);
        let tokens = u64::from(num_blocks) * u64::from(config.block_size);
        let loaded = self.weights_bytes + lora + self.load_reserve_bytes;
        let why = if loaded > self.gpu_bytes {
            Some((
                Infeasible::OomCuda,
                format!(
                    "weights and {} LoRA slots need {:.2} GiB of {:.2} GiB: lower max_loras ({}) or max_lora_rank ({})",
                    config.max_loras,
                    loaded / GIB,
                    self.gpu_bytes / GIB,
                    config.max_loras,
                    config.max_lora_rank
                ),
            ))
        } else if num_blocks == 0 {
            Some((
                Infeasible::NoKvMemory,
                format!(
                    "no memory is left for the KV cache ({:.2} GiB): lower max_loras ({}) or raise gpu_memory_utilization ({})",
                    available / GIB,
                    config.max_loras,
                    config.gpu_memory_utilization
                ),
            ))
        } else if tokens < u64::from(config.max_model_len) {
            Some((
                Infeasible::KvSmallerThanMaxModelLen,
                format!(
                    "the KV cache holds {tokens} tokens, less than max_model_len ({}): lower max_model_len or max_loras ({})",
                    config.max_model_len, config.max_loras
                ),
            ))
        } else {
            None
        };
        let infeasible = why.map(|(reason, text)| (reason, format!("{}: {text}", reason.as_str())));
        KvPlan {
            num_blocks,
            infeasible,
        }
    }
}

/// Bytes that PyTorch's caching allocator takes for a tensor of `bytes` (c10/cuda/CUDACachingAllocator.cpp: tensors up to 1 MiB
/// share small segments, those below 10 MiB share segments of 20 MiB, larger ones are rounded up to 2 MiB).
fn allocated(bytes: f64) -> f64 {
    const MIB: f64 = (1u64 << 20) as f64;
    if bytes <= MIB {
        bytes
    } else if bytes < 10.0 * MIB {
        20.0 * MIB / (20.0 * MIB / bytes).floor()
    } else {
        (bytes / (2.0 * MIB)).ceil() * 2.0 * MIB
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_rounded_as_the_allocator_rounds() {
        let mib = f64::from(1 << 20);
        for (asked, taken) in [
            (0.5, 0.5),
            (1.0, 1.0),
            (6.0, 20.0 / 3.0),
            (9.0, 10.0),
            (10.0, 10.0),
            (11.0, 12.0),
        ] {
            assert!(
                (allocated(asked * mib) / mib - taken).abs() < 1e-12,
                "{asked} MiB"
            );
        }
    }
}
