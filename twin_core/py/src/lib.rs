//! `pytwin._core`: converts, releases the GIL, maps errors. All logic lives in `twin_core`.

use pyo3::prelude::*;

mod fleet;
mod frames;
mod interrupt;
mod library;
mod simulate;
mod surrogate;
mod trace;

/// The compiled part of pytwin.
#[pymodule]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::fleet::simulate_fleets;
    #[pymodule_export]
    use super::library::Library;
    #[pymodule_export]
    use super::simulate::{memory, metric_columns, simulate, simulate_many};
    #[pymodule_export]
    use super::surrogate::{TreeModel, surrogate_feature_names, surrogate_features};
    #[pymodule_export]
    use super::trace::{conformance_trace, mutations};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}

/// Errors of the core as Python's own.
fn to_py(error: twin_core::error::TwinError) -> PyErr {
    use pyo3::exceptions::{PyKeyboardInterrupt, PyValueError};
    match error {
        twin_core::error::TwinError::Interrupted => PyKeyboardInterrupt::new_err("interrupted"),
        error => PyValueError::new_err(error.to_string()),
    }
}
