//! Simulations in time: conservation, determinism, units, edges.

use std::sync::atomic::{AtomicBool, AtomicUsize};

use proptest::prelude::*;
use serde_json::{Value, json};
use twin_core::metrics::Metric;
use twin_core::simulation::{Library, Outcome, SimulationSpec, simulate};
use twin_core::sweep::simulate_many;

fn library() -> Library {
    let profile = json!({
        "schema": 1, "name": "test",
        "step_time": {"unit": "us", "terms": [
            {"coefficient": 10_000.0, "factors": []},
            {"coefficient": 50.0, "factors": ["seqs"]},
            {"coefficient": 40.0, "factors": ["prefill_tokens"]},
            {"coefficient": 300.0, "factors": ["adapters"]},
            {"coefficient": 2.0, "factors": ["max_loras", {"of": "seqs", "above": 64}]}]},
        "load_time": {"unit": "us", "disk": [{"coefficient": 50_000.0, "factors": []}],
                      "memory": [{"coefficient": 5_000.0, "factors": []}]},
        "frontend": {"unit": "us", "ingress": [{"coefficient": 3_000.0, "factors": []}],
                     "egress": [{"coefficient": 2_000.0, "factors": []}]},
        "host": {"unit": "us", "async_schedule": [{"coefficient": 1_000.0, "factors": []}]},
        "memory": {"gpu_bytes": 64e9, "weights_bytes": 16e9, "kv_bytes_per_token": 131_072.0,
                   "lora_slot_bytes": 6e6, "lora_slot_bytes_per_rank": 6e6, "overhead_bytes": 3e9},
    });
    let mut library = Library::default();
    library
        .add_profile("test", &profile.to_string())
        .expect("a valid profile");
    library
}

fn document(seed: u64, max_loras: u32, adapters: u32, rate: f64) -> Value {
    json!({
        "profile": "test", "seed": seed,
        "engine": {"engine_version": "0.8.5", "max_loras": max_loras, "max_cpu_loras": adapters.max(max_loras),
                   "max_lora_rank": 16, "max_num_seqs": 256, "max_num_batched_tokens": 2048, "block_size": 16,
                   "gpu_memory_utilization": 0.9, "max_model_len": 8192},
        "workload": {"kind": "generated", "duration_s": 120.0,
                     "adapters": [{"count": adapters, "rates_rps": [rate], "ranks": [8, 16]}],
                     "lengths": {"law": "lognormal", "prompt_median": 100.0, "prompt_sigma": 0.8,
                                 "output_median": 60.0, "output_sigma": 0.8, "max_total_tokens": 2048},
                     "early_eos": 0.1},
        "collect": {"requests": true, "adapters": true, "steps": true, "timeseries_s": 1.0},
    })
}

fn run(document: &Value) -> Outcome {
    let spec = SimulationSpec::parse(&document.to_string()).expect("a valid document");
    simulate(&library(), &spec, &AtomicBool::new(false)).expect("it runs")
}

fn int(outcome: &Outcome, name: &str) -> u64 {
    match outcome {
        Outcome::Ok { summary, .. } => match summary.get(name) {
            Some(Metric::Int(value)) => value,
            other => panic!("{name}: {other:?}"),
        },
        Outcome::Infeasible { error, .. } => panic!("{error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// arrived = finished + running + waiting + refused, in the summary, per adapter and per request.
    #[test]
    fn requests_are_conserved(
        seed in any::<u64>(), max_loras in 1u32..12, adapters in 1u32..24, rate in 0.01f64..2.0,
        cap in prop::option::of(1u32..60), asynchronous in any::<bool>(), drain in any::<bool>(),
        blocks in 130u32..2000,
    ) {
        let mut document = document(seed, max_loras, adapters, rate);
        document["engine"]["max_connections"] = json!(cap);
        document["engine"]["max_model_len"] = json!(2048);
        document["engine"]["num_gpu_blocks_override"] = json!(blocks);
        document["workload"]["drain"] = json!(drain);
        if asynchronous {
            document["engine"]["engine_version"] = json!("0.32");
            document["engine"]["async_scheduling"] = json!(true);
        }
        let outcome = run(&document);
        let unfinished = int(&outcome, "unfinished_running") + int(&outcome, "unfinished_waiting");
        prop_assert_eq!(
            int(&outcome, "arrived"),
            int(&outcome, "completed") + int(&outcome, "refused") + unfinished
        );
        if drain {
            prop_assert_eq!(unfinished, 0);
        }
        let Outcome::Ok { frames, .. } = &outcome else { unreachable!() };
        let (requests, per_adapter) = (frames.requests.as_ref().unwrap(), frames.adapters.as_ref().unwrap());
        let with_status = |status: u8| requests.status.iter().filter(|&&s| s == status).count() as u64;
        prop_assert_eq!(with_status(0), int(&outcome, "completed"));
        prop_assert_eq!(with_status(1), unfinished);
        prop_assert_eq!(with_status(2), int(&outcome, "refused"));
        prop_assert_eq!(per_adapter.arrived.iter().sum::<u64>(), int(&outcome, "arrived"));
        prop_assert_eq!(per_adapter.finished.iter().sum::<u64>(), int(&outcome, "completed"));
        let steps = frames.steps.as_ref().unwrap();
        prop_assert!(steps.kv_blocks_used.iter().all(|&used| used < blocks));
        prop_assert!(steps.duration_ms.iter().all(|&ms| ms >= 10.0));
        for row in 0..requests.status.len() {
            if requests.status[row] == 0 {
                // Ingress, a first step and egress are the least that a first token costs.
                prop_assert!(requests.ttft_ms[row] >= 15.0 - 1e-9);
                prop_assert!(requests.e2el_ms[row] >= requests.ttft_ms[row] - 1e-9);
            }
        }
    }

    /// Engine settings leave the traffic alone: common random numbers.
    #[test]
    fn traffic_does_not_depend_on_the_engine(seed in any::<u64>(), a in 1u32..12, b in 1u32..12) {
        let frames = [a, b].map(|max_loras| match run(&document(seed, max_loras, 12, 0.3)) {
            Outcome::Ok { frames, .. } => frames.requests.unwrap(),
            Outcome::Infeasible { error, .. } => panic!("{error}"),
        });
        prop_assert_eq!(&frames[0].arrival_s, &frames[1].arrival_s);
        prop_assert_eq!(&frames[0].adapter, &frames[1].adapter);
        prop_assert_eq!(&frames[0].prompt_tokens, &frames[1].prompt_tokens);
    }

    /// Requests that find no free connection are not looked at unless somebody wants their rows: the figures are the same.
    #[test]
    fn refusing_unseen_changes_nothing(
        seed in any::<u64>(), adapters in 1u32..24, rate in 0.2f64..4.0, cap in 1u32..40, fixed in any::<bool>(),
        constant in any::<bool>(),
    ) {
        let mut document = document(seed, 4, adapters, rate);
        document["engine"]["max_connections"] = json!(cap);
        if fixed {
            document["workload"]["total_requests"] = json!(900);
        }
        if constant {
            document["workload"]["lengths"] = json!({"law": "constant", "prompt_tokens": 90, "output_tokens": 40});
        }
        let with_rows = run(&document);
        document["collect"] = json!({"adapters": true});
        let without = run(&document);
        let (Outcome::Ok { summary: a, frames: rows, .. }, Outcome::Ok { summary: b, frames, .. }) = (with_rows, without) else {
            panic!("both start")
        };
        prop_assert_eq!(format!("{a:?}"), format!("{b:?}"));
        let (x, y) = (rows.adapters.unwrap(), frames.adapters.unwrap());
        prop_assert_eq!(x.refused, y.refused);
        prop_assert_eq!(&x.offered_tokens, &y.offered_tokens);
        if constant {
            let offered: Vec<u64> = x.arrived.iter().map(|&n| 130 * n).collect();
            prop_assert_eq!(offered, x.offered_tokens);
        }
    }
}

#[test]
fn rows_do_not_depend_on_threads() {
    let documents: Vec<String> = (0..6)
        .map(|seed| document(seed, 4, 12, 0.5).to_string())
        .collect();
    let rows = |workers| {
        let (cancel, done) = (AtomicBool::new(false), AtomicUsize::new(0));
        simulate_many(&library(), &documents, workers, &cancel, &done)
            .expect("not interrupted")
            .into_iter()
            .map(|row| match row.expect("a valid row") {
                Outcome::Ok { summary, .. } => format!("{:?}", summary.values),
                Outcome::Infeasible { error, .. } => error,
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(rows(1), rows(3));
}

#[test]
fn a_bad_document_is_a_row_and_not_the_end() {
    let mut bad = document(0, 4, 12, 0.5);
    bad["engine"]["max_cpu_loras"] = json!(2);
    let documents = [
        bad.to_string(),
        document(0, 4, 12, 0.5).to_string(),
        "{".to_owned(),
    ];
    let (cancel, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let rows = simulate_many(&library(), &documents, 2, &cancel, &done).expect("not interrupted");
    let message = rows[0].as_ref().expect_err("a bad row").to_string();
    assert_eq!(message, "max_cpu_loras (2) must be >= max_loras (4)");
    assert!(rows[1].is_ok() && rows[2].is_err());
}

#[test]
fn a_fixed_count_arrives_in_full_and_in_time() {
    let mut document = document(3, 4, 12, 0.5);
    document["workload"]["total_requests"] = json!(777);
    let outcome = run(&document);
    assert_eq!(int(&outcome, "arrived"), 777);
    let Outcome::Ok { frames, .. } = &outcome else {
        unreachable!()
    };
    let arrivals = &frames.requests.as_ref().unwrap().arrival_s;
    assert!(arrivals.is_sorted() && arrivals.iter().all(|&at| at < 120.0));
    // Uniform: the mean of 777 points lies within five standard errors (120 / sqrt(12 * 777)) of the middle.
    let mean = arrivals.iter().sum::<f64>() / 777.0;
    assert!(
        (mean - 60.0).abs() < 5.0 * 120.0 / (12.0f64 * 777.0).sqrt(),
        "{mean}"
    );
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let mut document = document(0, 4, 12, 0.5);
    document["engine"]["max_model_len"] = json!(10_000_000);
    let Outcome::Infeasible { error, .. } = run(&document) else {
        panic!("it must not start")
    };
    assert!(error.starts_with("kv_smaller_than_max_model_len: "), "{error}");
    document["engine"]["max_loras"] = json!(900);
    document["engine"]["max_cpu_loras"] = json!(900);
    let Outcome::Infeasible { error, .. } = run(&document) else {
        panic!("it must not start")
    };
    assert!(error.starts_with("oom_cuda: "), "{error}");
}

#[test]
fn a_cancelled_run_stops() {
    let spec = SimulationSpec::parse(&document(0, 4, 12, 2.0).to_string()).expect("a valid document");
    let result = simulate(&library(), &spec, &AtomicBool::new(true));
    assert_eq!(
        result.expect_err("cancelled"),
        twin_core::error::TwinError::Interrupted
    );
}
