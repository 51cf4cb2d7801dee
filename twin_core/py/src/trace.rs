//! `conformance_trace`, `mutations`.

use pyo3::prelude::*;
use twin_core::config::EngineVersion;
use twin_core::engine::scheduler::Fidelity;
use twin_core::rules::Rules;

use crate::{interrupt, to_py};

/// Runs a conformance case and returns its trace as JSON lines: see `_core.pyi`.
#[pyfunction]
#[pyo3(signature = (case_json, engine_version, write=true, exact=true))]
pub fn conformance_trace(
    py: Python<'_>,
    case_json: &str,
    engine_version: &str,
    write: bool,
    exact: bool,
) -> PyResult<Vec<String>> {
    let version = EngineVersion::parse(engine_version).map_err(to_py)?;
    let fidelity = Fidelity::of(exact);
    interrupt::run(
        py,
        |_| twin_core::trace::run_case(case_json, version, write, fidelity),
        |_| Ok(()),
    )
}

/// Names of the deliberate rule changes that a case may ask for.
#[pyfunction]
pub fn mutations() -> Vec<&'static str> {
    Rules::MUTATIONS.to_vec()
}
