//! Fast mode and exact mode: the same decisions, measures and times, to the bit.

use std::sync::atomic::AtomicBool;

use proptest::prelude::*;
use serde_json::{Value, json};
use twin_core::simulation::{Library, Outcome, SimulationSpec, simulate};

fn library(step_ms: f64) -> Library {
    let profile = json!({
        "schema": 1, "name": "test",
        "step_time": {"unit": "us", "terms": [
            {"coefficient": step_ms * 1000.0, "factors": []},
            {"coefficient": 31.7, "factors": ["seqs"]},
            {"coefficient": 40.1, "factors": ["prefill_tokens"]},
            {"coefficient": 0.0213, "factors": ["context_tokens"]},
            {"coefficient": 200.9, "factors": ["adapters"]},
            {"coefficient": 1.3, "factors": ["adapters", "lora_seqs"]},
            {"coefficient": 0.7, "factors": ["waiting"]},
            {"coefficient": 150.0, "factors": [{"of": "tokens", "at_least": 33}]}]},
        "load_time": {"unit": "us", "disk": [{"coefficient": 9_000.0, "factors": []}],
                      "memory": [{"coefficient": 100.0, "factors": ["rank"]}]},
        "frontend": {"unit": "us", "ingress": [{"coefficient": 900.0, "factors": []}, {"coefficient": 3.0, "factors": ["running"]}],
                     "egress": [{"coefficient": 500.0, "factors": []}, {"coefficient": 2.0, "factors": ["seqs"]}],
                     "first_request": [{"coefficient": 20_000.0, "factors": []}],
                     "poll": [{"coefficient": 1_000.0, "factors": ["label_sets"]}]},
        "memory": {"gpu_bytes": 64e9, "weights_bytes": 16e9, "kv_bytes_per_token": 131_072.0,
                   "lora_slot_bytes": 6e6, "lora_slot_bytes_per_rank": 6e6, "overhead_bytes": 3e9},
    });
    let mut library = Library::default();
    library
        .add_profile("test", &profile.to_string())
        .expect("a valid profile");
    library
}

fn results(library: &Library, document: &Value, exact: bool) -> String {
    let mut document = document.clone();
    document["exact"] = json!(exact);
    let spec = SimulationSpec::parse(&document.to_string()).expect("a valid document");
    match simulate(library, &spec, &AtomicBool::new(false)).expect("it runs") {
        Outcome::Ok { summary, frames, .. } => format!("{:?} {frames:?}", summary.values),
        Outcome::Infeasible { error, .. } => error,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn fast_is_exact(
        seed in any::<u64>(),
        old in any::<bool>(),
        asynchronous in any::<bool>(),
        block_size in prop::sample::select(vec![1u32, 7, 16, 32]),
        tokens_of_kv in 260u32..6000,
        max_num_seqs in prop::sample::select(vec![3u32, 16, 64, 256]),
        budget in prop::sample::select(vec![16u32, 48, 256, 2048]),
        threshold in prop::sample::select(vec![0u32, 0, 0, 24]),
        max_model_len in prop::sample::select(vec![120u32, 256]),
        max_loras in 1u32..6,
        cpu_extra in 0u32..4,
        adapters in 1u32..14,
        rate in 0.05f64..3.0,
        base_rate in prop::sample::select(vec![0.0, 2.0]),
        cap in prop::option::of(5u32..60),
        step_ms in 2.0f64..30.0,
        early_eos in prop::sample::select(vec![0.0, 0.3]),
        drain in any::<bool>(),
        poll in prop::option::of(0.3f64..2.0),
        caching in prop::sample::select(vec![false, false, false, true]),
    ) {
        let document = json!({
            "profile": "test", "seed": seed,
            "engine": {"engine_version": if old { "0.8.5" } else { "0.32" }, "async_scheduling": asynchronous && !old,
                       "max_loras": max_loras, "max_cpu_loras": max_loras + cpu_extra, "max_lora_rank": 16,
                       "max_num_seqs": max_num_seqs, "max_num_batched_tokens": budget, "block_size": block_size,
                       "gpu_memory_utilization": 0.9, "max_model_len": max_model_len,
                       "long_prefill_token_threshold": threshold,
                       "num_gpu_blocks_override": tokens_of_kv.div_ceil(block_size) + 1, "max_connections": cap,
                       "metrics_poll_s": poll, "enable_prefix_caching": caching},
            "workload": {"kind": "generated", "duration_s": 20.0, "drain": drain,
                         "adapters": [{"count": adapters, "rates_rps": [rate, rate / 3.0], "ranks": [8, 16]}],
                         "base_rate_rps": base_rate,
                         "lengths": {"law": "lognormal", "prompt_median": 40.0, "prompt_sigma": 0.9,
                                     "output_median": 30.0, "output_sigma": 0.9, "max_total_tokens": 256},
                         "early_eos": early_eos},
            "collect": {"requests": true, "adapters": true, "steps": true, "timeseries_s": 0.5},
        });
        let library = library(step_ms);
        prop_assert_eq!(results(&library, &document, false), results(&library, &document, true));
    }
}
