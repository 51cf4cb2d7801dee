//! `simulate`, `simulate_many`, `memory`, `metric_columns`.

use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use twin_core::early_stop::StopReason;
use twin_core::metrics::{Metric, Summary};
use twin_core::simulation::{self, Outcome, SimulationSpec};
use twin_core::sweep;
use twin_core::time::{Picoseconds, to_seconds};

use crate::library::Library;
use crate::{frames, interrupt, to_py};

/// Runs one simulation: see `_core.pyi`.
#[pyfunction]
pub fn simulate<'py>(py: Python<'py>, library: &Library, spec_json: &str) -> PyResult<Bound<'py, PyDict>> {
    let spec = SimulationSpec::parse(spec_json).map_err(to_py)?;
    let library = library.snapshot();
    let outcome = interrupt::run(
        py,
        |cancel| simulation::simulate(&library, &spec, cancel),
        |_| Ok(()),
    )?;
    let dict = PyDict::new(py);
    match outcome {
        Outcome::Ok {
            summary,
            stopped,
            frames,
        } => {
            dict.set_item("status", "ok")?;
            dict.set_item("error", py.None())?;
            dict.set_item("stopped_at_s", stopped.map(stopped_at_s))?;
            dict.set_item("stop_reason", stopped.map(stop_reason))?;
            dict.set_item("metrics", frames::summary(py, &summary)?)?;
            frames::all(py, &dict, *frames)?;
        }
        Outcome::Infeasible { error, .. } => {
            dict.set_item("status", "infeasible")?;
            dict.set_item("error", error)?;
            dict.set_item("stopped_at_s", py.None())?;
            dict.set_item("stop_reason", py.None())?;
            dict.set_item("metrics", PyDict::new(py))?;
            for frame in ["requests", "adapters", "timeseries", "steps"] {
                dict.set_item(frame, py.None())?;
            }
        }
    }
    Ok(dict)
}

/// Runs many simulations on `workers` threads: see `_core.pyi`.
#[pyfunction]
#[pyo3(signature = (library, specs, workers, progress=None))]
pub fn simulate_many<'py>(
    py: Python<'py>,
    library: &Library,
    specs: Vec<String>,
    workers: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let library = library.snapshot();
    let done = AtomicUsize::new(0);
    let rows = interrupt::run(
        py,
        |cancel| sweep::simulate_many(&library, &specs, workers, cancel, &done),
        |py| match &progress {
            Some(progress) => progress.call1(py, (done.load(Ordering::Relaxed),)).map(drop),
            None => Ok(()),
        },
    )?;
    let [status, error, stopped_at, stopped_why] = [(); 4].map(|()| PyList::empty(py));
    let names = Summary::columns();
    let metrics: Vec<_> = names.iter().map(|_| PyList::empty(py)).collect();
    for row in rows {
        match row {
            Ok(Outcome::Ok { summary, stopped, .. }) => {
                status.append("ok")?;
                error.append(py.None())?;
                stopped_at.append(stopped.map(stopped_at_s))?;
                stopped_why.append(stopped.map(stop_reason))?;
                for (column, &(_, value)) in metrics.iter().zip(&summary.values) {
                    column.append(frames::metric(py, value)?)?;
                }
            }
            Ok(Outcome::Infeasible { error: why, .. }) => {
                status.append("infeasible")?;
                error.append(why)?;
                stopped_at.append(py.None())?;
                stopped_why.append(py.None())?;
                metrics.iter().try_for_each(|column| column.append(py.None()))?;
            }
            Err(why) => {
                status.append("failed")?;
                error.append(why.to_string())?;
                stopped_at.append(py.None())?;
                stopped_why.append(py.None())?;
                metrics.iter().try_for_each(|column| column.append(py.None()))?;
            }
        }
    }
    let dict = PyDict::new(py);
    dict.set_item("status", status)?;
    dict.set_item("error", error)?;
    dict.set_item("stopped_at_s", stopped_at)?;
    dict.set_item("stop_reason", stopped_why)?;
    for ((name, _), column) in names.iter().zip(metrics) {
        dict.set_item(name, column)?;
    }
    Ok(dict)
}

fn stopped_at_s((at, _): (Picoseconds, StopReason)) -> f64 {
    to_seconds(at)
}

fn stop_reason((_, reason): (Picoseconds, StopReason)) -> &'static str {
    reason.as_str()
}

/// Name and kind ("int" or "float") of every metric, in order.
#[pyfunction]
pub fn metric_columns() -> Vec<(&'static str, &'static str)> {
    let kind = |value| match value {
        Metric::Int(_) => "int",
        Metric::Float(_) => "float",
    };
    Summary::columns()
        .into_iter()
        .map(|(name, value)| (name, kind(value)))
        .collect()
}

/// KV blocks of a configuration, or why it cannot start: see `_core.pyi`.
#[pyfunction]
pub fn memory<'py>(py: Python<'py>, library: &Library, spec_json: &str) -> PyResult<Bound<'py, PyDict>> {
    let spec = SimulationSpec::parse(spec_json).map_err(to_py)?;
    let plan = simulation::memory(&library.snapshot(), &spec).map_err(to_py)?;
    let dict = PyDict::new(py);
    dict.set_item(
        "status",
        if plan.infeasible.is_some() {
            "infeasible"
        } else {
            "ok"
        },
    )?;
    dict.set_item("error", plan.infeasible.as_ref().map(|(_, error)| error.clone()))?;
    dict.set_item(
        "error_class",
        plan.infeasible.as_ref().map(|(class, _)| class.as_str()),
    )?;
    dict.set_item("kv_blocks", plan.num_blocks)?;
    dict.set_item(
        "kv_tokens",
        u64::from(plan.num_blocks) * u64::from(spec.engine.block_size),
    )?;
    Ok(dict)
}
