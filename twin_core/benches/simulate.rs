//! Whole simulations on one core: traffic, engine, measures. `cargo bench` prints time per simulation and requests per second.
//!
//! The cases with 10,000 requests are those on which peers were measured; each iteration draws another seed, so that nothing
//! is cached between them.

use std::hint::black_box;
use std::sync::atomic::AtomicBool;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::json;
use twin_core::simulation::{Library, Outcome, SimulationSpec, simulate};

const PROFILE: &str = include_str!("../../pytwin/profiles/llama-3.1-8b-instruct@h100-64gb.json");

struct Case {
    name: &'static str,
    requests: u64,
    rate_rps: f64,
    adapters: u32,
    max_loras: u32,
    kv_blocks: Option<u32>,
}

const CASES: [Case; 5] = [
    Case {
        name: "10k requests, no adapters, 10 rps",
        requests: 10_000,
        rate_rps: 10.0,
        adapters: 0,
        max_loras: 0,
        kv_blocks: None,
    },
    Case {
        name: "10k requests, 64 adapters on 32 slots, 10 rps",
        requests: 10_000,
        rate_rps: 10.0,
        adapters: 64,
        max_loras: 32,
        kv_blocks: None,
    },
    Case {
        name: "10k requests, 64 adapters on 32 slots, saturated at 40 rps",
        requests: 10_000,
        rate_rps: 40.0,
        adapters: 64,
        max_loras: 32,
        kv_blocks: None,
    },
    Case {
        name: "10k requests, 64 adapters on 64 slots, preempting",
        requests: 10_000,
        rate_rps: 15.0,
        adapters: 64,
        max_loras: 64,
        kv_blocks: Some(1500),
    },
    Case {
        name: "10k requests, 384 adapters on 160 slots, 10 rps",
        requests: 10_000,
        rate_rps: 10.0,
        adapters: 384,
        max_loras: 160,
        kv_blocks: None,
    },
];

fn document(case: &Case, seed: u64) -> String {
    let adapters = if case.adapters == 0 {
        json!([])
    } else {
        json!([{"count": case.adapters, "rates_rps": [case.rate_rps / f64::from(case.adapters)], "ranks": [8, 16]}])
    };
    json!({
        "profile": "bench", "seed": seed,
        "engine": {"engine_version": "0.8.5", "max_loras": case.max_loras, "max_cpu_loras": case.adapters,
                   "max_lora_rank": 16, "max_num_seqs": 2048, "max_num_batched_tokens": 2048, "block_size": 16,
                   "gpu_memory_utilization": 0.9, "max_model_len": 8192, "max_connections": 25_000,
                   "num_gpu_blocks_override": case.kv_blocks},
        "workload": {"kind": "generated", "duration_s": case.requests as f64 / case.rate_rps, "adapters": adapters,
                     "base_rate_rps": if case.adapters == 0 { case.rate_rps } else { 0.0 },
                     "lengths": {"law": "constant", "prompt_tokens": 250, "output_tokens": 231}},
    })
    .to_string()
}

fn simulations(criterion: &mut Criterion) {
    let mut library = Library::default();
    library
        .add_profile("bench", PROFILE)
        .expect("the shipped profile");
    let mut group = criterion.benchmark_group("simulate");
    group.sample_size(20);
    for case in &CASES {
        group.throughput(Throughput::Elements(case.requests));
        let mut seed = 0;
        group.bench_function(case.name, |bencher| {
            bencher.iter(|| {
                seed += 1;
                let spec = SimulationSpec::parse(&document(case, seed)).expect("a valid document");
                let outcome = simulate(&library, &spec, &AtomicBool::new(false)).expect("it runs");
                assert!(matches!(outcome, Outcome::Ok { .. }), "the case starts");
                black_box(outcome)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, simulations);
criterion_main!(benches);
