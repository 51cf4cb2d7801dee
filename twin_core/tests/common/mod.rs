//! Random servers under random traffic, for properties that hold for all.

use proptest::prelude::*;
use serde_json::{Value, json};
use twin_core::simulation::Library;

/// Terms that make a step's duration, or the egress, depend on the context in every way that a profile allows.
fn context_terms(variant: usize) -> (Vec<Value>, Vec<Value>) {
    let term = |coefficient: f64, factors: Value| json!({"coefficient": coefficient, "factors": factors});
    let linear = term(0.0213, json!(["context_tokens"]));
    match variant {
        0 => (vec![linear], vec![]),
        1 => (
            vec![
                linear,
                term(0.4, json!([{"of": "context_tokens", "above": 300}])),
                term(
                    -0.3,
                    json!([{"of": "context_tokens", "at_most": 500}, "adapters"]),
                ),
                term(900.0, json!([{"of": "context_tokens", "at_least": 1000}])),
            ],
            vec![],
        ),
        2 => (vec![term(-1.7, json!(["context_tokens"]))], vec![]),
        3 => (
            vec![linear],
            vec![
                term(1.1, json!([{"of": "context_tokens", "above": 700}])),
                term(90.0, json!([{"of": "context_tokens", "at_least": 400}])),
            ],
        ),
        _ => (
            vec![term(
                1e-4,
                json!(["context_tokens", {"of": "context_tokens", "at_most": 900}]),
            )],
            vec![],
        ),
    }
}

/// A library of one profile whose steps take `step_ms` and more.
pub fn library(step_ms: f64, variant: usize, first_request_us: f64) -> Library {
    let (step, egress) = context_terms(variant);
    let mut profile = json!({
        "schema": 1, "name": "test",
        "step_time": {"unit": "us", "terms": [
            {"coefficient": step_ms * 1000.0, "factors": []},
            {"coefficient": 31.7, "factors": ["seqs"]},
            {"coefficient": 40.1, "factors": ["prefill_tokens"]},
            {"coefficient": 200.9, "factors": ["adapters"]},
            {"coefficient": 1.3, "factors": ["adapters", "lora_seqs"]},
            {"coefficient": 0.7, "factors": ["waiting"]},
            {"coefficient": 150.0, "factors": [{"of": "tokens", "at_least": 33}]}]},
        "load_time": {"unit": "us", "disk": [{"coefficient": 9_000.0, "factors": []}],
                      "memory": [{"coefficient": 100.0, "factors": ["rank"]}]},
        "frontend": {"unit": "us", "ingress": [{"coefficient": 900.0, "factors": []}, {"coefficient": 3.0, "factors": ["running"]},
                                 {"coefficient": 11.0, "factors": ["waiting"]}],
                     "egress": [{"coefficient": 500.0, "factors": []}, {"coefficient": 2.0, "factors": ["seqs"]}],
                     "first_request": [{"coefficient": first_request_us, "factors": []}],
                     "poll": [{"coefficient": 1_000.0, "factors": ["label_sets"]}]},
        "memory": {"gpu_bytes": 64e9, "weights_bytes": 16e9, "kv_bytes_per_token": 131_072.0,
                   "lora_slot_bytes": 6e6, "lora_slot_bytes_per_rank": 6e6, "overhead_bytes": 3e9},
    });
    for (terms, more) in [("step_time", step), ("frontend", egress)] {
        let list = if terms == "step_time" { "terms" } else { "egress" };
        profile[terms][list].as_array_mut().expect("a list").extend(more);
    }
    let mut library = Library::default();
    library
        .add_profile("test", &profile.to_string())
        .expect("a valid profile");
    library
}

/// A document, and the library that it needs.
#[derive(Clone, Debug)]
pub struct Case {
    /// A `SimulationSpec`.
    pub document: Value,
    costs: (f64, usize, f64),
}

impl Case {
    /// The library of its profile.
    pub fn library(&self) -> Library {
        let (step_ms, variant, first_request_us) = self.costs;
        library(step_ms, variant, first_request_us)
    }
}

prop_compose! {
    fn engine()(
        (old, asynchronous, priority) in any::<(bool, bool, bool)>(),
        (block_size, tokens_of_kv) in (prop::sample::select(vec![1u32, 7, 16, 32]), 260u32..6000),
        max_num_seqs in prop::sample::select(vec![3u32, 16, 64, 256]),
        budget in prop::sample::select(vec![16u32, 48, 256, 2048]),
        threshold in prop::sample::select(vec![0u32, 0, 0, 24]),
        max_model_len in prop::sample::select(vec![120u32, 256, 600]),
        (max_loras, cpu_extra) in (1u32..6, 0u32..4),
        cap in prop::option::of(5u32..60),
        poll in prop::option::of(0.3f64..2.0),
        caching in prop::sample::select(vec![false, false, false, true]),
        policies in policies(),
    ) -> Value {
        json!({"engine_version": if old { "0.8.5" } else { "0.32" }, "async_scheduling": asynchronous && !old,
               "scheduling_policy": if priority && !old { "priority" } else { "fcfs" },
               "max_loras": max_loras, "max_cpu_loras": max_loras + cpu_extra, "max_lora_rank": 16,
               "max_num_seqs": max_num_seqs, "max_num_batched_tokens": budget, "block_size": block_size,
               "gpu_memory_utilization": 0.9, "max_model_len": max_model_len,
               "long_prefill_token_threshold": threshold,
               "num_gpu_blocks_override": tokens_of_kv.max(max_model_len).div_ceil(block_size) + 1,
               "max_connections": cap, "metrics_poll_s": poll, "enable_prefix_caching": caching,
               "policies": if max_loras > 1 { policies } else { json!({}) }})
    }
}

prop_compose! {
    /// vLLM's own rules half of the time.
    fn policies()(
        own in any::<bool>(),
        eviction in prop::sample::select(vec!["lru", "lfu", "cost_aware", "clairvoyant"]),
        half_life in prop::sample::select(vec![2.0, 300.0]),
        pinned in any::<bool>(),
        loading in prop::sample::select(vec!["blocking", "overlapped"]),
        ageing in prop::sample::select(vec![None, Some(0.0), Some(1.5)]),
    ) -> Value {
        if own {
            return json!({});
        }
        json!({"lora_eviction": eviction, "lfu_half_life_s": half_life, "pinned_loras": if pinned { vec![1] } else { vec![] },
               "lora_loading": loading, "admission_ageing_s": ageing})
    }
}

prop_compose! {
    fn workload()(
        adapters in 1u32..14,
        rate in prop_oneof![0.004f64..0.1, 0.05f64..3.0],
        base_rate in prop::sample::select(vec![0.0, 0.0, 0.2, 2.0]),
        output_median in prop::sample::select(vec![30.0, 30.0, 150.0]),
        early_eos in prop::sample::select(vec![0.0, 0.3]),
        drain in any::<bool>(),
    ) -> Value {
        json!({"kind": "generated", "duration_s": 20.0, "drain": drain,
               "adapters": [{"count": adapters, "rates_rps": [rate, rate / 3.0], "ranks": [8, 16]}],
               "base_rate_rps": base_rate,
               "lengths": {"law": "lognormal", "prompt_median": 40.0, "prompt_sigma": 0.9,
                           "output_median": output_median, "output_sigma": 0.9, "max_total_tokens": 256},
               "early_eos": early_eos})
    }
}

prop_compose! {
    /// Any server under any traffic.
    pub fn case()(
        seed in any::<u64>(),
        engine in engine(),
        mut workload in workload(),
        step_ms in 2.0f64..30.0,
        (variant, first_request_us) in (0usize..5, prop::sample::select(vec![0.0, 20_000.0, 300_000.0])),
        (requests, steps) in any::<(bool, bool)>(),
        timeseries_s in prop::sample::select(vec![None, Some(0.5), Some(3.0)]),
        (starving, tolerance) in (any::<bool>(), prop::sample::select(vec![None, None, Some(0.3)])),
    ) -> Case {
        let longest = engine["max_model_len"].as_u64().unwrap_or(0).max(256);
        workload["lengths"]["max_total_tokens"] = json!(longest);
        let early_stop = if workload["drain"] == json!(true) {
            json!({})
        } else {
            json!({"starving": starving, "tolerance": tolerance})
        };
        let document = json!({
            "profile": "test", "seed": seed, "engine": engine, "workload": workload, "early_stop": early_stop,
            "collect": {"requests": requests, "adapters": true, "steps": steps, "timeseries_s": timeseries_s},
        });
        Case { document, costs: (step_ms, variant, first_request_us) }
    }
}
