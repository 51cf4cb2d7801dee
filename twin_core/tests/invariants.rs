//! What must hold in every run, whatever the configuration and the traffic.
//!
//! Each invariant is checked on traces of random cases: the same event loop, with every decision written down.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};
use twin_core::config::EngineVersion;
use twin_core::engine::scheduler::Fidelity;
use twin_core::trace::run_case;

#[derive(Clone, Debug)]
struct Random {
    config: Value,
    requests: Vec<Value>,
    aborts: Vec<Value>,
    version: EngineVersion,
}

prop_compose! {
    fn cases()(
        old in any::<bool>(),
        num_blocks in 40u32..200,
        block_size in prop::sample::select(vec![1u32, 8, 16]),
        max_num_seqs in 1u32..40,
        budget in 8u32..300,
        max_loras in 0u32..4,
        cpu_extra in 0u32..3,
        caching in any::<bool>(),
        priority in any::<bool>(),
        asynchronous in any::<bool>(),
        full_isl in any::<bool>(),
        requests in prop::collection::vec((0u64..120, 1u32..40, 1u32..40, 0u32..10, 0i64..3, any::<bool>()), 1..50),
        aborts in prop::collection::vec((0u64..200, 0usize..50), 0..5),
    ) -> Random {
        let config = json!({
            "num_blocks": num_blocks.max(90 / block_size + 2), "block_size": block_size,
            "max_num_seqs": max_num_seqs, "max_num_batched_tokens": budget, "max_model_len": 4096,
            "max_loras": max_loras, "max_cpu_loras": max_loras + cpu_extra,
            "enable_prefix_caching": caching, "policy": if priority && !old { "priority" } else { "fcfs" },
            "async_scheduling": asynchronous && !old, "long_prefill_token_threshold": 0,
            "long_prefill_token_threshold_adaptive": false, "enable_chunked_prefill": true,
            "max_num_scheduled_tokens": null, "max_num_active_seqs": null, "watermark": 0.0,
            "scheduler_reserve_full_isl": full_isl,
        });
        let requests = requests.into_iter().enumerate().map(|(k, (step, prompt, output, lora, priority, stops))| {
            let mut request = json!({
                "id": format!("r{k}"), "arrival_step": step, "max_tokens": output, "priority": priority,
                "arrival_time": k as f64, "lora_id": (max_loras > 0 && lora > 0).then_some(lora),
                "stop_at": stops.then_some(output.div_ceil(2)),
            });
            if caching {
                let shared = prompt / 2;
                let ids = (0..prompt).map(|at| if at < shared { at } else { 1000 + 64 * k as u32 + at });
                request["prompt_token_ids"] = ids.collect::<Vec<_>>().into();
            } else {
                request["prompt_len"] = prompt.into();
            }
            request
        }).collect();
        let aborts = aborts.into_iter().map(|(step, k)| json!({"step": step, "id": format!("r{k}")})).collect();
        let version = if old { EngineVersion::V0_8_5 } else { EngineVersion::V0_32 };
        Random { config, requests, aborts, version }
    }
}

fn trace(case: &Random, write: bool) -> Vec<Value> {
    let json = json!({"config": case.config, "requests": case.requests, "aborts": case.aborts});
    let lines = run_case(&json.to_string(), case.version, write, Fidelity::Fast).expect("the case runs");
    lines
        .iter()
        .map(|line| serde_json::from_str(line).expect("a JSON line"))
        .collect()
}

fn strings(value: &Value) -> Vec<String> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .map(|v| v.as_str().expect("an id").to_owned())
        .collect()
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// INV-1 requests: every request that arrives ends exactly once, or is aborted.
    /// INV-2 limits: budget, running list and adapter places are never exceeded.
    /// INV-3 blocks: held + free = all; without prefix caching no block has two holders; all are free at the end.
    /// INV-4 tokens: what a finished request computed is its prompt and all its outputs but the last.
    #[test]
    fn traces_keep_the_invariants(case in cases()) {
        let config = &case.config;
        let caching = config["enable_prefix_caching"].as_bool().unwrap();
        let asynchronous = config["async_scheduling"].as_bool().unwrap();
        let usable = number(&config["num_blocks"]) - 1;
        let mut tables: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let (mut arrived, mut ended, mut computed) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
        let lines = trace(&case, true);
        for step in &lines[1..lines.len() - 1] {
            for id in strings(&step["preempted"]) {
                tables.remove(&id);
            }
            arrived.extend(strings(&step["added"]));
            for id in strings(&step["aborted"]) {
                // Before its arrival and after its end an abort means nothing.
                if arrived.contains(&id) {
                    tables.remove(&id);
                    ended.insert(id);
                }
            }
            if step["scheduled"].is_array() {
                prop_assert!(number(&step["total_tokens"]) <= number(&config["max_num_batched_tokens"]));
                prop_assert!(strings(&step["running"]).len() as u64 <= number(&config["max_num_seqs"]));
                if number(&config["max_loras"]) > 0 {
                    prop_assert!(step["loras"].as_array().unwrap().len() as u64 <= number(&config["max_loras"]));
                }
                for item in step["scheduled"].as_array().unwrap() {
                    let end = number(&item[1]) + number(&item[2]);
                    computed.insert(item[0].as_str().unwrap().to_owned(), end);
                }
                for (id, blocks) in step["blocks"].as_object().unwrap() {
                    let table = tables.entry(id.clone()).or_default();
                    table.resize(number(&blocks[0]) as usize, 0); // prefix hits: ids not written
                    table.extend(blocks[1].as_array().unwrap().iter().map(number));
                }
                if !caching {
                    let held: Vec<u64> = tables.values().flatten().copied().collect();
                    let distinct: BTreeSet<u64> = held.iter().copied().collect();
                    prop_assert_eq!(held.len(), distinct.len());
                    prop_assert!(!distinct.contains(&0));
                    prop_assert_eq!(held.len() as u64 + number(&step["free_blocks"]), usable);
                }
            }
            if let Some(finished) = step["finished"].as_object() {
                for id in finished.keys() {
                    tables.remove(id);
                    prop_assert!(ended.insert(id.clone()), "{} ended twice", id);
                    let request = case.requests.iter().find(|r| r["id"] == **id).unwrap();
                    let prompt = request["prompt_len"].as_u64()
                        .unwrap_or_else(|| request["prompt_token_ids"].as_array().unwrap().len() as u64);
                    let outputs = request["stop_at"].as_u64().unwrap_or(number(&request["max_tokens"]));
                    // The last output is never computed; async scheduling may have one more step in flight at a stop token.
                    let expected = prompt + outputs - 1;
                    let overrun = computed[id] - expected;
                    prop_assert!(overrun == 0 || (overrun == 1 && asynchronous), "{} computed {}", id, computed[id]);
                }
            }
        }
        let summary = &lines[lines.len() - 1];
        prop_assert_eq!(number(&summary["unfinished"]), 0);
        for request in &case.requests {
            prop_assert!(ended.contains(request["id"].as_str().unwrap()));
        }
        if let Some(last) = lines.iter().rev().find(|line| line["free_blocks_after"].is_u64()) {
            prop_assert_eq!(number(&last["free_blocks_after"]), usable);
        }
    }

    /// INV-5 fidelity: fast mode (no block ids, decodes kept as one) and exact mode make the same decisions.
    #[test]
    fn fast_decides_as_exact_does(case in cases()) {
        let (full, brief) = (trace(&case, true), trace(&case, false));
        prop_assert_eq!(full.last(), brief.last());
    }

    /// INV-6 determinism: the same case gives the same bytes.
    #[test]
    fn the_same_case_gives_the_same_trace(case in cases()) {
        prop_assert_eq!(trace(&case, true), trace(&case, true));
    }
}
