//! The short cuts of [`LoraManager::apply`] against visiting every adapter of every step.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::config::EngineVersion;
use crate::rng::keyed;

/// A batch of these adapters behind a batch of those.
fn batch(now: &BTreeSet<u32>, before: &BTreeSet<u32>) -> Batch {
    Batch {
        adapters: now.iter().copied().collect(),
        joined_adapters: now.difference(before).copied().collect(),
        left_adapters: before.difference(now).copied().collect(),
        ..Batch::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Adapters come and go a few at a time; one manager is told the order of the visits and makes them all, the other works out
    /// what it needs. Same events, slots and LRU orders.
    #[test]
    fn visits_left_out_change_nothing(
        max_loras in 1u32..7,
        cpu_extra in 0u32..8,
        seed in any::<u64>(),
        preload in any::<bool>(),
        steps in prop::collection::vec((prop::collection::vec(1u32..15, 0..4), 0usize..8, 1u64..4), 1..120),
    ) {
        let rules = Rules::of(EngineVersion::V0_32);
        let [mut brief, mut full] =
            [(); 2].map(|()| LoraManager::new(rules, max_loras, max_loras + cpu_extra, 14, seed));
        if preload {
            brief.preload(1..=14);
            full.preload(1..=14);
        }
        let mut before = BTreeSet::new();
        for (come, stay, times) in steps {
            let mut now: BTreeSet<u32> = before.iter().copied().take(stay).collect();
            now.extend(come);
            while now.len() > max_loras as usize {
                now.pop_first();
            }
            if now.is_empty() {
                continue;
            }
            for time in 0..times {
                let batch = batch(&now, if time == 0 { &before } else { &now });
                let mut order = batch.adapters.clone();
                order.sort_by_key(|&adapter| keyed(seed, full.visits + 1, u64::from(adapter)));
                let (mut some, mut all) = (Vec::new(), Vec::new());
                brief.apply(&batch, None, &mut some);
                full.apply(&batch, Some(&order), &mut all);
                prop_assert_eq!(some, all);
                prop_assert_eq!(brief.last_order(&batch.adapters), order);
                prop_assert_eq!(brief.slots(), full.slots());
                // Where visits of one step tie, the one knows their places and the other their hashes: the same order.
                prop_assert_eq!(brief.gpu_lru(), full.gpu_lru());
                prop_assert_eq!(brief.cpu_lru(), full.cpu_lru());
            }
            before = now;
        }
    }
}
