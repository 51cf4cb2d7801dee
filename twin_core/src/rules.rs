//! What differs between engine versions, as data: one scheduler reads these switches.
//!
//! Each switch names one rule of vLLM's source. The two versions are two values of [`Rules`]; a [`Mutation`] turns one switch
//! away from vLLM's behaviour, so that the conformance suite can prove that it would notice.

use crate::config::EngineVersion;
use crate::error::{Result, invalid};

/// One rule set. Read from vLLM 0.8.5 and 0.32, `v1/core/sched/scheduler.py`, `v1/core/kv_cache_manager.py`,
/// `v1/core/block_pool.py` and `v1/core/sched/utils.py`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Freed blocks go to the tail of the free list whether hashed or not (0.8.5); else unhashed ones go to the head (0.32).
    pub free_to_tail: bool,
    /// Freed blocks are visited from the request's last block to its first. Without prefix caching 0.8.5 goes forward.
    pub free_forward_when_unhashed: bool,
    /// Admission needs room for the whole known sequence (`scheduler_reserve_full_isl`, 0.32).
    pub full_sequence_gate: bool,
    /// `long_prefill_token_threshold` also cuts a request that is alone (0.8.5).
    pub threshold_when_alone: bool,
    /// Positions kept free below `max_model_len` when a running request is cut: 0 in 0.8.5, 1 in 0.32.
    pub reserved_positions: u32,
    /// Block hashes are made at a request's first prefix look-up (0.8.5); else as soon as tokens are known (0.32).
    pub hash_at_first_lookup: bool,
    /// The length limit is checked before stop tokens (0.8.5): changes the reported reason only.
    pub length_before_stop: bool,
    /// A prompt beyond `max_model_len` (the API server refuses it) asks for no more blocks than that length has (0.32); 0.8.5
    /// asks for all and takes as many.
    pub demand_within_model_len: bool,
    /// KV usage leaves the null block out of the denominator (0.32).
    pub usage_excludes_null_block: bool,
    /// FCFS preempts the last of `running`.
    pub preempt_last: bool,
    /// Waiting requests are admitted only in steps without preemption.
    pub no_admission_after_preemption: bool,
    /// A preempted request goes to the head of the waiting queue.
    pub requeue_at_head: bool,
    /// A request whose adapter has no place is skipped; the queue behind it goes on.
    pub skip_blocked_adapter: bool,
    /// Only adapters of the requests scheduled in this step hold `max_loras` places.
    pub adapters_of_scheduled_only: bool,
    /// A request without an adapter is never blocked by `max_loras`.
    pub base_model_unblocked: bool,
    /// A failed allocation stops admission.
    pub allocation_failure_breaks: bool,
    /// Visiting an adapter moves it to the recent end of both LRU tiers.
    pub touch_on_visit: bool,
    /// The least recently used adapter is evicted.
    pub evict_least_recent: bool,
    /// Dropping an adapter from CPU memory frees its GPU slot.
    pub cpu_eviction_frees_slot: bool,
    /// A new adapter takes the first free slot.
    pub first_free_slot: bool,
    /// The last known token is always recomputed: at most (tokens - 1) / block_size blocks may hit.
    pub recompute_last_token: bool,
    /// The earliest block of those that carry one hash is used.
    pub earliest_duplicate: bool,
    /// A request preempted under the priority policy after it was scheduled gives its tokens back to the budget.
    pub return_budget: bool,
    /// A request whose last token is already in flight is left out of the batch (async scheduling).
    pub skip_complete_in_flight: bool,
}

impl Rules {
    /// The rules of one vLLM release.
    pub fn of(version: EngineVersion) -> Self {
        let old = version == EngineVersion::V0_8_5;
        Self {
            free_to_tail: old,
            free_forward_when_unhashed: old,
            full_sequence_gate: !old,
            threshold_when_alone: old,
            reserved_positions: if old { 0 } else { 1 },
            hash_at_first_lookup: old,
            length_before_stop: old,
            demand_within_model_len: !old,
            usage_excludes_null_block: !old,
            preempt_last: true,
            no_admission_after_preemption: true,
            requeue_at_head: true,
            skip_blocked_adapter: true,
            adapters_of_scheduled_only: true,
            base_model_unblocked: true,
            allocation_failure_breaks: true,
            touch_on_visit: true,
            evict_least_recent: true,
            cpu_eviction_frees_slot: true,
            first_free_slot: true,
            recompute_last_token: true,
            earliest_duplicate: true,
            return_budget: true,
            skip_complete_in_flight: true,
        }
    }

    /// Every mutation's name, in a fixed order.
    pub const MUTATIONS: [&str; 20] = [
        "free_order_swapped",
        "full_sequence_gate_flipped",
        "threshold_when_alone_flipped",
        "reserved_positions_flipped",
        "preempt_first",
        "admit_after_preemption",
        "requeue_at_tail",
        "blocked_adapter_blocks_queue",
        "adapters_of_all_running",
        "base_model_blocked",
        "allocation_failure_skips",
        "no_touch_on_visit",
        "evict_most_recent",
        "cpu_eviction_keeps_slot",
        "last_free_slot",
        "last_token_from_cache",
        "latest_duplicate",
        "budget_not_returned",
        "schedule_complete_in_flight",
        "free_direction_swapped",
    ];

    /// These rules with one turned away from vLLM's.
    pub fn mutated(mut self, name: &str) -> Result<Self> {
        let flag = match name {
            "free_order_swapped" => &mut self.free_to_tail,
            "free_direction_swapped" => &mut self.free_forward_when_unhashed,
            "full_sequence_gate_flipped" => &mut self.full_sequence_gate,
            "threshold_when_alone_flipped" => &mut self.threshold_when_alone,
            "preempt_first" => &mut self.preempt_last,
            "admit_after_preemption" => &mut self.no_admission_after_preemption,
            "requeue_at_tail" => &mut self.requeue_at_head,
            "blocked_adapter_blocks_queue" => &mut self.skip_blocked_adapter,
            "adapters_of_all_running" => &mut self.adapters_of_scheduled_only,
            "base_model_blocked" => &mut self.base_model_unblocked,
            "allocation_failure_skips" => &mut self.allocation_failure_breaks,
            "no_touch_on_visit" => &mut self.touch_on_visit,
            "evict_most_recent" => &mut self.evict_least_recent,
            "cpu_eviction_keeps_slot" => &mut self.cpu_eviction_frees_slot,
            "last_free_slot" => &mut self.first_free_slot,
            "last_token_from_cache" => &mut self.recompute_last_token,
            "latest_duplicate" => &mut self.earliest_duplicate,
            "budget_not_returned" => &mut self.return_budget,
            "schedule_complete_in_flight" => &mut self.skip_complete_in_flight,
            "reserved_positions_flipped" => {
                self.reserved_positions = 1 - self.reserved_positions;
                return Ok(self);
            }
            _ => {
                return invalid(format!(
                    "mutation ({name}) must be one of {}",
                    Self::MUTATIONS.join(", ")
                ));
            }
        };
        *flag = !*flag;
        Ok(self)
    }
}
