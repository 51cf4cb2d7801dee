//! Fleets: one replica is the single server, nothing gets lost, and fast is exact behind a router as well.

mod common;

use std::sync::atomic::AtomicBool;

use common::case;
use proptest::prelude::*;
use serde_json::{Value, json};
use twin_core::fleet::{FleetOutcome, FleetSpec, simulate_fleet};
use twin_core::metrics::{Metric, Summary};
use twin_core::simulation::{Library, Outcome, SimulationSpec, simulate};

fn routers(replicas: u32, adapters: u32) -> Vec<Value> {
    let shares: Vec<Value> = (0..=adapters)
        .flat_map(|adapter| {
            let first = adapter % replicas;
            let second = (adapter + 1) % replicas;
            let row = move |replica, fraction| json!({"adapter": adapter, "replica": replica, "fraction": fraction});
            let mut rows = vec![row(first, 0.7)];
            if second != first {
                rows.push(row(second, 0.3));
            }
            rows
        })
        .collect();
    vec![
        json!({"kind": "random"}),
        json!({"kind": "round_robin"}),
        json!({"kind": "least_outstanding"}),
        json!({"kind": "power_of_two"}),
        json!({"kind": "kv_aware"}),
        json!({"kind": "adapter_affinity", "by": "activity"}),
        json!({"kind": "adapter_affinity", "by": "residency", "spill": 3}),
        json!({"kind": "rendezvous", "copies": 1}),
        json!({"kind": "rendezvous", "copies": replicas}),
        json!({"kind": "fixed", "shares": shares}),
    ]
}

/// The fleet of a single server's document.
fn fleet(document: &Value, replicas: usize, router: &Value, delay_ms: f64) -> Value {
    let mut engine = document["engine"].clone();
    if replicas > 1 && engine["policies"]["lora_eviction"] == json!("clairvoyant") {
        engine["policies"]["lora_eviction"] = json!("lfu");
    }
    json!({
        "replicas": vec![json!({"profile": "test", "engine": engine}); replicas],
        "router": router, "signal_delay_ms": delay_ms, "seed": document["seed"], "workload": document["workload"],
        "collect": document["collect"],
    })
}

struct Ran {
    summary: Summary,
    frames: String,
    replicas: Vec<(Summary, String, Option<Vec<u32>>)>,
}

fn run(library: &Library, document: &Value) -> Ran {
    let spec = FleetSpec::parse(&document.to_string()).expect("a valid document");
    match simulate_fleet(library, &spec, &AtomicBool::new(false)).expect("it runs") {
        FleetOutcome::Ok {
            summary,
            frames,
            replicas,
            unrouted,
        } => Ran {
            summary,
            frames: format!("{frames:?} {unrouted:?}"),
            replicas: replicas
                .into_iter()
                .map(|replica| (replica.summary, format!("{:?}", replica.frames), replica.serials))
                .collect(),
        },
        FleetOutcome::Infeasible { error } => panic!("{error}"),
    }
}

fn text(ran: &Ran) -> String {
    format!(
        "{:?} {} {:?}",
        ran.summary.values,
        ran.frames,
        ran.replicas
            .iter()
            .map(|r| (&r.0.values, &r.1, &r.2))
            .collect::<Vec<_>>()
    )
}

fn int(summary: &Summary, name: &str) -> u64 {
    match summary.get(name) {
        Some(Metric::Int(value)) => value,
        other => panic!("{name}: {other:?}"),
    }
}

fn without_early_stop(document: &Value) -> Value {
    let mut document = document.clone();
    document["early_stop"] = json!({});
    document
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn one_replica_is_the_single_server(case in case(), nth in 0usize..10, delay_ms in prop::sample::select(vec![0.0, 700.0])) {
        let document = without_early_stop(&case.document);
        let library = case.library();
        let spec = SimulationSpec::parse(&document.to_string()).expect("a valid document");
        let single = simulate(&library, &spec, &AtomicBool::new(false)).expect("it runs");
        let Outcome::Ok { summary, frames, .. } = single else { panic!("it starts") };
        let adapters = document["workload"]["adapters"][0]["count"].as_u64().expect("a count") as u32;
        let router = &routers(1, adapters)[nth];
        let ran = run(&library, &fleet(&document, 1, router, delay_ms));
        let known = summary.values.len();
        prop_assert_eq!(format!("{:?}", &ran.summary.values[..known]), format!("{:?}", summary.values));
        prop_assert_eq!(format!("{:?}", ran.replicas[0].0.values), format!("{:?}", summary.values));
        prop_assert_eq!(&ran.replicas[0].1, &format!("{:?}", *frames));
        prop_assert_eq!(int(&ran.summary, "unrouted"), 0);
    }

    #[test]
    fn nothing_is_lost_and_fast_is_exact(
        case in case(),
        nth in 0usize..10,
        replicas in 2usize..5,
        delay_ms in prop::sample::select(vec![0.0, 50.0, 3000.0]),
        stops in any::<bool>(),
        part in any::<bool>(),
        events in prop::collection::vec((0.0f64..20.0, 0u32..5, 1u32..14, any::<bool>()), 0..6),
    ) {
        let library = case.library();
        let adapters = case.document["workload"]["adapters"][0]["count"].as_u64().expect("a count") as u32;
        let router = &routers(replicas as u32, adapters)[nth];
        let mut document = fleet(&case.document, replicas, router, delay_ms);
        if stops {
            document["replicas"][0]["stop_s"] = json!(7.5);
            document["replicas"][1]["start_s"] = json!(3.0);
            document["replicas"][1]["startup_s"] = json!(1.0);
        }
        if part {
            document["replicas"][1]["adapters"] = json!([1]);
        }
        let mut events: Vec<_> = events.into_iter().map(|(at, replica, adapter, load)| {
            (at, replica % replicas as u32, 1 + adapter % adapters, if load { "load" } else { "unload" })
        }).collect();
        events.sort_by(|a, b| a.0.total_cmp(&b.0));
        document["events"] = events.iter().map(|(at, replica, adapter, action)| {
            json!({"at_s": at, "replica": replica, "adapter": adapter, "action": action})
        }).collect();
        let fast = run(&library, &document);
        let whole = &fast.summary;
        for name in ["completed", "unfinished_running", "unfinished_waiting", "steps", "lora_loads_memory"] {
            let parts: u64 = fast.replicas.iter().map(|replica| int(&replica.0, name)).sum();
            prop_assert_eq!(int(whole, name), parts, "{}", name);
        }
        for name in ["arrived", "refused"] {
            let parts: u64 = fast.replicas.iter().map(|replica| int(&replica.0, name)).sum();
            prop_assert_eq!(int(whole, name), parts + int(whole, "unrouted"), "{}", name);
        }
        let ended = ["completed", "refused", "unfinished_running", "unfinished_waiting"];
        prop_assert_eq!(int(whole, "arrived"), ended.iter().map(|name| int(whole, name)).sum::<u64>());
        document["exact"] = json!(true);
        prop_assert_eq!(text(&fast), text(&run(&library, &document)));
    }
}

/// Long outputs and many arrivals in each other's steps: replicas stay behind the router's clock while they have nothing to tell,
/// and a request that comes then ends their rest.
#[test]
fn a_busy_fleet_that_rests_is_the_exact_one() {
    let engine = json!({"engine_version": "0.8.5", "max_loras": 4, "max_cpu_loras": 8, "max_lora_rank": 16, "max_num_seqs": 24,
        "max_num_batched_tokens": 2048, "block_size": 16, "gpu_memory_utilization": 0.9, "max_model_len": 2048});
    let library = common::library(10.0, 0, 3_000.0);
    for router in routers(4, 8) {
        for (rate, max_model_len) in [(1.0, 2048), (1.6, 2048), (2.4, 2048), (1.6, 80)] {
            let mut engine = engine.clone();
            engine["max_model_len"] = json!(max_model_len); // 80: a quarter of the prompts are too long
            let mut document = json!({
                "replicas": vec![json!({"profile": "test", "engine": engine}); 4], "router": router, "seed": 3,
                "workload": {"kind": "generated", "duration_s": 120.0,
                             "adapters": [{"count": 8, "rates_rps": [rate], "ranks": [8]}],
                             "lengths": {"law": "lognormal", "prompt_median": 40.0, "prompt_sigma": 0.8,
                                         "output_median": 90.0, "output_sigma": 1.1, "max_total_tokens": 1500}},
                "collect": {"requests": true, "adapters": true},
            });
            let fast = text(&run(&library, &document));
            document["exact"] = json!(true);
            assert!(
                fast == text(&run(&library, &document)),
                "{router} {rate} {max_model_len}"
            );
        }
    }
}

/// A replica gets nothing before it is ready and after it stops, and nothing for adapters that it does not serve.
#[test]
fn service_times_and_adapters_are_kept() {
    let library = common::library(10.0, 0, 0.0);
    let engine = json!({"engine_version": "0.8.5", "max_loras": 4, "max_cpu_loras": 4, "max_lora_rank": 16, "max_num_seqs": 64,
        "max_num_batched_tokens": 2048, "block_size": 16, "gpu_memory_utilization": 0.9, "max_model_len": 2048});
    let replica = json!({"profile": "test", "engine": engine});
    let mut document = json!({
        "replicas": [replica, replica, replica], "router": {"kind": "least_outstanding"},
        "workload": {"kind": "generated", "duration_s": 60.0, "adapters": [{"count": 3, "rates_rps": [2.0], "ranks": [8]}],
                     "lengths": {"law": "constant", "prompt_tokens": 20, "output_tokens": 20}},
        "events": [{"at_s": 30.0, "replica": 2, "adapter": 3, "action": "load"},
                   {"at_s": 40.0, "replica": 2, "adapter": 1, "action": "unload"}],
        "collect": {"requests": true, "adapters": true},
    });
    document["replicas"][0]["stop_s"] = json!(20.0);
    document["replicas"][1]["start_s"] = json!(5.0);
    document["replicas"][1]["startup_s"] = json!(5.0);
    document["replicas"][2]["adapters"] = json!([1, 2]);
    let spec = FleetSpec::parse(&document.to_string()).expect("a valid document");
    let outcome = simulate_fleet(&library, &spec, &AtomicBool::new(false)).expect("it runs");
    let FleetOutcome::Ok {
        replicas, summary, ..
    } = outcome
    else {
        panic!("it starts")
    };
    let rows = |number: usize| {
        let frame = replicas[number].frames.requests.clone().expect("rows");
        frame.arrival_s.into_iter().zip(frame.adapter).collect::<Vec<_>>()
    };
    assert!(rows(0).iter().all(|&(at, _)| at < 20.0) && rows(0).len() > 20);
    assert!(rows(1).iter().all(|&(at, _)| at >= 10.0) && rows(1).len() > 20);
    assert!(rows(2).iter().any(|&(_, adapter)| adapter == 3));
    assert!(rows(2).iter().all(|&(at, adapter)| at >= 30.0 || adapter != 3));
    assert!(rows(2).iter().all(|&(at, adapter)| at < 40.0 || adapter != 1));
    assert_eq!(int(&summary, "unrouted"), 0);
    let gpu: Vec<f64> = replicas.iter().map(|replica| replica.gpu_s).collect();
    assert!(
        (20.0..21.0).contains(&gpu[0]) && gpu[1] == 55.0 && gpu[2] == 60.0,
        "{gpu:?}"
    );
    // Adapter 3 was not preloaded on the third: one load by the API.
    let loads = replicas[2]
        .frames
        .adapters
        .as_ref()
        .expect("a frame")
        .loads_memory[3];
    assert_eq!(loads, 1);
}

#[test]
fn a_wrong_document_is_one_line() {
    let engine = json!({"engine_version": "0.8.5", "max_loras": 4, "max_cpu_loras": 4, "max_lora_rank": 16, "max_num_seqs": 64,
        "max_num_batched_tokens": 2048, "block_size": 16, "gpu_memory_utilization": 0.9, "max_model_len": 2048});
    let good = json!({
        "replicas": [{"profile": "test", "engine": engine}], "router": {"kind": "random"},
        "workload": {"kind": "generated", "duration_s": 10.0, "adapters": [{"count": 3, "rates_rps": [2.0], "ranks": [8]}],
                     "lengths": {"law": "constant", "prompt_tokens": 20, "output_tokens": 20}},
    });
    let library = common::library(10.0, 0, 0.0);
    let error = |change: &dyn Fn(&mut Value)| {
        let mut document = good.clone();
        change(&mut document);
        match FleetSpec::parse(&document.to_string())
            .and_then(|spec| simulate_fleet(&library, &spec, &AtomicBool::new(false)))
        {
            Ok(_) => panic!("{document} is taken"),
            Err(error) => error.to_string(),
        }
    };
    type Change<'a> = &'a dyn Fn(&mut Value);
    let cases: [(Change<'_>, &str); 12] = [
        (&|d| d["replicas"] = json!([]), "replicas (0) must be from 1"),
        (
            &|d| d["router"] = json!({"kind": "psychic"}),
            "unknown variant `psychic`",
        ),
        (
            &|d| d["router"] = json!({"kind": "fixed", "shares": []}),
            "shares ([]) must place",
        ),
        (
            &|d| {
                d["router"] =
                    json!({"kind": "fixed", "shares": [{"adapter": 1, "replica": 1, "fraction": 1.0}]})
            },
            "share of adapter 1 on replica 1",
        ),
        (
            &|d| {
                d["router"] =
                    json!({"kind": "fixed", "shares": [{"adapter": 1, "replica": 0, "fraction": 0.0}]})
            },
            "fraction (0) must be > 0",
        ),
        (
            &|d| {
                let row = json!({"adapter": 1, "replica": 0, "fraction": 1.0});
                d["router"] = json!({"kind": "fixed", "shares": [row, row]});
            },
            "adapter 1 has two shares on replica 0",
        ),
        (
            &|d| d["router"] = json!({"kind": "rendezvous", "copies": 2}),
            "copies (2) must be from 1 to 1",
        ),
        (
            &|d| d["replicas"][0]["adapters"] = json!([4]),
            "adapter (4) must be one of the workload's",
        ),
        (
            &|d| {
                d["replicas"][0]["start_s"] = json!(5.0);
                d["replicas"][0]["stop_s"] = json!(4.0);
            },
            "replica 0: stop_s (4) must be >= start_s + startup_s (5)",
        ),
        (
            &|d| d["signal_delay_ms"] = json!(-1.0),
            "signal_delay_ms (-1) must be >= 0",
        ),
        (
            &|d| {
                let event = |at: f64| json!({"at_s": at, "replica": 0, "adapter": 1, "action": "load"});
                d["events"] = json!([event(2.0), event(1.0)]);
            },
            "event at_s (1) must be >= 2",
        ),
        (
            &|d| d["replicas"][0]["engine"]["max_lora_rank"] = json!(1),
            "replica 0: adapter rank (8) must be >= 1 and <= max_lora_rank (1)",
        ),
    ];
    for (change, expected) in cases {
        let message = error(change);
        assert!(message.contains(expected), "{message}");
        assert!(!message.contains('\n'));
    }
}
