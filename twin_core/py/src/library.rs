//! `Library`: profiles, length tables and traces that simulations refer to by name.

use std::sync::{Arc, RwLock};

use numpy::PyReadonlyArray1;
use pyo3::prelude::*;
use twin_core::simulation::Library as CoreLibrary;
use twin_core::workload::{LengthTable, Trace};

use crate::to_py;

/// Named profiles, length tables and traces, shared by many simulations.
#[pyclass(frozen, module = "pytwin._core")]
#[derive(Default)]
pub struct Library {
    inner: RwLock<Arc<CoreLibrary>>,
}

impl Library {
    /// The library as it is now; later additions do not reach it.
    pub fn snapshot(&self) -> Arc<CoreLibrary> {
        Arc::clone(
            &self
                .inner
                .read()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }

    fn change<T>(&self, change: impl FnOnce(&mut CoreLibrary) -> T) -> T {
        let mut guard = self
            .inner
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        change(Arc::make_mut(&mut guard))
    }
}

#[pymethods]
impl Library {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces a profile.
    fn add_profile(&self, name: &str, profile_json: &str) -> PyResult<()> {
        self.change(|library| library.add_profile(name, profile_json))
            .map_err(to_py)
    }

    /// Adds or replaces a table of (prompt, output) lengths.
    fn add_lengths(
        &self,
        name: &str,
        prompt_tokens: PyReadonlyArray1<'_, u32>,
        output_tokens: PyReadonlyArray1<'_, u32>,
        weights: PyReadonlyArray1<'_, f64>,
    ) -> PyResult<()> {
        let table = LengthTable::new(
            prompt_tokens.as_slice()?,
            output_tokens.as_slice()?,
            weights.as_slice()?,
        );
        let table = table.map_err(to_py)?;
        self.change(|library| library.add_lengths(name, table));
        Ok(())
    }

    /// Adds or replaces a trace of requests.
    fn add_trace(
        &self,
        name: &str,
        arrival_s: PyReadonlyArray1<'_, f64>,
        adapter: PyReadonlyArray1<'_, u32>,
        prompt_tokens: PyReadonlyArray1<'_, u32>,
        output_tokens: PyReadonlyArray1<'_, u32>,
    ) -> PyResult<()> {
        let trace = Trace::new(
            arrival_s.as_slice()?,
            adapter.as_slice()?,
            prompt_tokens.as_slice()?,
            output_tokens.as_slice()?,
        );
        let trace = trace.map_err(to_py)?;
        self.change(|library| library.add_trace(name, trace));
        Ok(())
    }
}
