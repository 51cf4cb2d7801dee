//! `simulate_fleets`.

use std::sync::atomic::{AtomicUsize, Ordering};

use numpy::IntoPyArray;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use twin_core::fleet::FleetOutcome;
use twin_core::sweep::{self, Row};

use crate::library::Library;
use crate::{frames, interrupt};

/// Runs many fleets on `workers` threads: see `_core.pyi`.
#[pyfunction]
#[pyo3(signature = (library, specs, workers, progress=None))]
pub fn simulate_fleets<'py>(
    py: Python<'py>,
    library: &Library,
    specs: Vec<String>,
    workers: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyList>> {
    let library = library.snapshot();
    let done = AtomicUsize::new(0);
    let rows = interrupt::run(
        py,
        |cancel| sweep::simulate_fleets(&library, &specs, workers, cancel, &done),
        |py| match &progress {
            Some(progress) => progress.call1(py, (done.load(Ordering::Relaxed),)).map(drop),
            None => Ok(()),
        },
    )?;
    let list = PyList::empty(py);
    for row in rows {
        list.append(outcome(py, row)?)?;
    }
    Ok(list)
}

fn outcome(py: Python<'_>, row: Row<FleetOutcome>) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    let (status, error) = match row {
        Ok(FleetOutcome::Ok {
            summary,
            frames,
            unrouted,
            replicas,
        }) => {
            dict.set_item("metrics", frames::summary(py, &summary)?)?;
            frames::all(py, &dict, *frames)?;
            dict.set_item("serials", unrouted.into_pyarray(py))?;
            let list = PyList::empty(py);
            for replica in replicas {
                let one = PyDict::new(py);
                one.set_item("metrics", frames::summary(py, &replica.summary)?)?;
                frames::all(py, &one, replica.frames)?;
                one.set_item("serials", replica.serials.map(|serials| serials.into_pyarray(py)))?;
                one.set_item("gpu_s", replica.gpu_s)?;
                list.append(one)?;
            }
            dict.set_item("replicas", list)?;
            ("ok", None)
        }
        Ok(FleetOutcome::Infeasible { error }) => ("infeasible", Some(error)),
        Err(why) => ("failed", Some(why.to_string())),
    };
    dict.set_item("status", status)?;
    dict.set_item("error", error)?;
    Ok(dict)
}
