//! Many simulations on all cores.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rayon::prelude::*;

use crate::error::{Result, TwinError};
use crate::fleet::{FleetOutcome, FleetSpec, simulate_fleet};
use crate::simulation::{Library, Outcome, SimulationSpec, simulate};

/// One row: the outcome, or why there is none.
pub type Row<T> = std::result::Result<T, TwinError>;

/// Simulates every document on `workers` threads, rows in order. A document that fails is a row with its error; only an
/// interruption ends the whole. `done` counts finished rows.
pub fn simulate_many(
    library: &Library,
    specs: &[String],
    workers: usize,
    cancel: &AtomicBool,
    done: &AtomicUsize,
) -> Result<Vec<Row<Outcome>>> {
    many(specs, workers, cancel, done, |json| {
        SimulationSpec::parse(json).and_then(|spec| simulate(library, &spec, cancel))
    })
}

/// The same for fleets.
pub fn simulate_fleets(
    library: &Library,
    specs: &[String],
    workers: usize,
    cancel: &AtomicBool,
    done: &AtomicUsize,
) -> Result<Vec<Row<FleetOutcome>>> {
    many(specs, workers, cancel, done, |json| {
        FleetSpec::parse(json).and_then(|spec| simulate_fleet(library, &spec, cancel))
    })
}

fn many<T: Send>(
    specs: &[String],
    workers: usize,
    cancel: &AtomicBool,
    done: &AtomicUsize,
    run: impl Fn(&str) -> Result<T> + Sync,
) -> Result<Vec<Row<T>>> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(workers.max(1))
        .build()
        .map_err(|cause| TwinError::Invalid(format!("cannot start {workers} threads: {cause}")))?;
    pool.install(|| {
        specs
            .par_iter()
            .with_max_len(1)
            .map(|json| {
                if cancel.load(Ordering::Relaxed) {
                    return Err(TwinError::Interrupted);
                }
                // A defect of ours costs one row, never a sweep.
                let row = catch_unwind(AssertUnwindSafe(|| run(json)))
                    .unwrap_or_else(|panic| Err(internal(panic.as_ref())));
                done.fetch_add(1, Ordering::Relaxed);
                match row {
                    Err(TwinError::Interrupted) => Err(TwinError::Interrupted),
                    row => Ok(row),
                }
            })
            .collect()
    })
}

fn internal(panic: &(dyn Any + Send)) -> TwinError {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    TwinError::Invalid(format!(
        "internal error: {text}: please report it with this configuration"
    ))
}
