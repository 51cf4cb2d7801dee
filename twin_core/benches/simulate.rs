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
    asynchronous: bool,
}

impl Case {
    const fn new(name: &'static str, requests: u64, rate_rps: f64, adapters: u32, max_loras: u32) -> Self {
        Self {
            name,
            requests,
            rate_rps,
            adapters,
            max_loras,
            kv_blocks: None,
            asynchronous: false,
        }
    }

    const fn kv_blocks(mut self, blocks: u32) -> Self {
        self.kv_blocks = Some(blocks);
        self
    }

    const fn asynchronous(mut self) -> Self {
        self.asynchronous = true;
        self
    }
}

const CASES: [Case; 9] = [
    Case::new("10k requests, no adapters, 10 rps", 10_000, 10.0, 0, 0),
    Case::new("10k requests, no adapters, 10 rps, async", 10_000, 10.0, 0, 0).asynchronous(),
    Case::new("1k requests, no adapters, 0.5 rps", 1_000, 0.5, 0, 0),
    Case::new(
        "10k requests, 64 adapters on 32 slots, 10 rps",
        10_000,
        10.0,
        64,
        32,
    ),
    Case::new(
        "10k requests, 64 adapters on 32 slots, near-critical at 14 rps",
        10_000,
        14.0,
        64,
        32,
    ),
    Case::new(
        "10k requests, 64 adapters on 32 slots, saturated at 40 rps",
        10_000,
        40.0,
        64,
        32,
    ),
    Case::new(
        "10k requests, 64 adapters on 64 slots, preempting",
        10_000,
        15.0,
        64,
        64,
    )
    .kv_blocks(1500),
    Case::new(
        "10k requests, 384 adapters on 160 slots, 10 rps",
        10_000,
        10.0,
        384,
        160,
    ),
    Case::new(
        "500k requests in an hour, 384 adapters on 64 slots, 25,000 connections",
        500_000,
        138.0,
        384,
        64,
    ),
];

fn document(case: &Case, seed: u64) -> String {
    let adapters = if case.adapters == 0 {
        json!([])
    } else {
        json!([{"count": case.adapters, "rates_rps": [case.rate_rps / f64::from(case.adapters)], "ranks": [8, 16]}])
    };
    json!({
        "profile": "bench", "seed": seed,
        "engine": {"engine_version": if case.asynchronous { "0.32" } else { "0.8.5" },
                   "async_scheduling": case.asynchronous, "max_loras": case.max_loras, "max_cpu_loras": case.adapters,
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
    group.sample_size(10);
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
