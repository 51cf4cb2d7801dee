//! Adapters that only chance tells apart: of equal rate, rank and length law.
//!
//! The worst of some hundred means of ten requests each is noise. What an adapter can *expect* is the mean over all adapters
//! like it.

use std::collections::HashMap;

use super::adapters::AdapterCounters;

/// Number of the group of each adapter, the base model first; keys are (rate in requests/s, rank, number of the length law).
pub fn alike(keys: impl Iterator<Item = (f64, u32, u32)>) -> Vec<u32> {
    let mut seen = HashMap::new();
    keys.enumerate()
        .map(|(index, (rate, rank, law))| {
            // The base model is a group of its own; so is an adapter whose rate is not known.
            if index == 0 || rate.is_nan() {
                return index as u32;
            }
            *seen.entry((rate.to_bits(), rank, law)).or_insert(index as u32)
        })
        .collect()
}

/// Counters added up by group; entries that lead no group are empty.
pub fn pooled(counters: &[AdapterCounters], groups: &[u32]) -> Vec<AdapterCounters> {
    let mut pools = vec![AdapterCounters::default(); counters.len()];
    for (counter, &group) in counters.iter().zip(groups) {
        pools[group as usize].pool(counter);
    }
    pools
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_led_by_their_first_adapter() {
        let keys = [(0.1, 0, 0), (0.1, 8, 0), (0.2, 8, 0), (0.1, 8, 0), (0.1, 8, 1)];
        assert_eq!(alike(keys.into_iter()), [0, 1, 2, 1, 4]);
    }

    #[test]
    fn adapters_of_unknown_rate_stay_alone() {
        assert_eq!(alike([(f64::NAN, 8, 0); 3].into_iter()), [0, 1, 2]);
    }
}
