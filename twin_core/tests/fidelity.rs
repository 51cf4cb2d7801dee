//! Fast mode and exact mode: the same decisions, measures and times, to the bit.

mod common;

use std::sync::atomic::AtomicBool;

use common::case;
use proptest::prelude::*;
use serde_json::{Value, json};
use twin_core::simulation::{Library, Outcome, SimulationSpec, simulate};

fn results(library: &Library, document: &Value, exact: bool) -> String {
    let mut document = document.clone();
    document["exact"] = json!(exact);
    let spec = SimulationSpec::parse(&document.to_string()).expect("a valid document");
    match simulate(library, &spec, &AtomicBool::new(false)).expect("it runs") {
        Outcome::Ok {
            summary,
            stopped,
            frames,
        } => format!("{:?} {stopped:?} {frames:?}", summary.values),
        Outcome::Infeasible { error, .. } => error,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn fast_is_exact(case in case()) {
        let (library, document) = (case.library(), &case.document);
        prop_assert_eq!(results(&library, document, false), results(&library, document, true));
    }
}
