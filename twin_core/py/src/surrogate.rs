//! `surrogate_features` and `TreeModel`: answers without a simulation.

use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray2};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use twin_core::surrogate::{self, FEATURES, Query};

use crate::library::Library;
use crate::to_py;

/// Names of the features, in the order of the columns of `surrogate_features`.
#[pyfunction]
pub fn surrogate_feature_names() -> Vec<&'static str> {
    FEATURES.to_vec()
}

/// One row of features per candidate, NaN where the server cannot start: see `_core.pyi`.
#[pyfunction]
pub fn surrogate_features<'py>(
    py: Python<'py>,
    library: &Library,
    query_json: &str,
) -> PyResult<Bound<'py, PyArray2<f64>>> {
    let query = Query::parse(query_json).map_err(to_py)?;
    let rows = surrogate::features(&library.snapshot(), &query).map_err(to_py)?;
    let width = FEATURES.len();
    let mut flat = Vec::with_capacity(rows.len() * width);
    for row in &rows {
        match row {
            Some(row) => flat.extend_from_slice(row),
            None => flat.resize(flat.len() + width, f64::NAN),
        }
    }
    flat.into_pyarray(py).reshape([rows.len(), width])
}

/// A tree model of `pytwin learn`.
#[pyclass(frozen, module = "pytwin._core")]
pub struct TreeModel(surrogate::TreeModel);

#[pymethods]
impl TreeModel {
    /// Reads the JSON export of a model.
    #[new]
    fn new(json: &str) -> PyResult<Self> {
        surrogate::TreeModel::parse(json).map(Self).map_err(to_py)
    }

    /// Names of the features that it reads, in order.
    #[getter]
    fn features(&self) -> Vec<String> {
        self.0.features.clone()
    }

    /// Predictions for rows of features, shape (n, features) -> (n,).
    fn predict<'py>(
        &self,
        py: Python<'py>,
        rows: PyReadonlyArray2<'py, f64>,
    ) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let rows = rows.as_array();
        if rows.ncols() != self.0.features.len() {
            return Err(PyValueError::new_err(format!(
                "rows have {} columns, the model reads {}: give its features in their order",
                rows.ncols(),
                self.0.features.len()
            )));
        }
        let flat: Vec<f64> = rows.iter().copied().collect();
        let predicted = self.0.predict(&flat);
        Ok(predicted.into_pyarray(py))
    }
}
