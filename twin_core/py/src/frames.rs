//! Result columns as dicts of numpy arrays.

use numpy::IntoPyArray;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use twin_core::metrics::recorder::Frames;
use twin_core::metrics::{AdapterColumns, Metric, RequestColumns, StepColumns, Summary, TimeseriesColumns};

/// Moves the named columns of a struct into a dict.
macro_rules! columns {
    ($py:expr, $frame:expr, $($name:ident),+ $(,)?) => {{
        let frame = $frame;
        let dict = PyDict::new($py);
        $(dict.set_item(stringify!($name), frame.$name.into_pyarray($py))?;)+
        Ok(dict)
    }};
}

fn requests<'py>(py: Python<'py>, frame: RequestColumns) -> PyResult<Bound<'py, PyDict>> {
    columns!(
        py,
        frame,
        adapter,
        arrival_s,
        prompt_tokens,
        output_tokens,
        ttft_ms,
        tpot_ms,
        e2el_ms,
        status,
        preemptions,
    )
}

fn adapters<'py>(py: Python<'py>, frame: AdapterColumns) -> PyResult<Bound<'py, PyDict>> {
    columns!(
        py,
        frame,
        adapter,
        rank,
        rate_rps,
        arrived,
        refused,
        finished,
        offered_tokens,
        input_tokens,
        output_tokens,
        mean_ttft_ms,
        p50_ttft_ms,
        p90_ttft_ms,
        p99_ttft_ms,
        mean_tpot_ms,
        loads_disk,
        loads_memory,
        slo_miss,
    )
}

fn timeseries<'py>(py: Python<'py>, frame: TimeseriesColumns) -> PyResult<Bound<'py, PyDict>> {
    columns!(
        py,
        frame,
        t_s,
        running,
        waiting,
        kv_usage,
        adapters_active,
        preemptions,
        prompt_tokens,
        generation_tokens,
    )
}

fn steps<'py>(py: Python<'py>, frame: StepColumns) -> PyResult<Bound<'py, PyDict>> {
    columns!(
        py,
        frame,
        start_s,
        duration_ms,
        prefill_tokens,
        decode_seqs,
        context_tokens,
        adapters,
        running,
        waiting,
        load_ms,
        preempted,
        kv_blocks_used,
    )
}

/// Puts the frames under their names, `None` where one was not asked for.
pub fn all(py: Python<'_>, dict: &Bound<'_, PyDict>, frames: Frames) -> PyResult<()> {
    dict.set_item("requests", frames.requests.map(|f| requests(py, f)).transpose()?)?;
    dict.set_item("adapters", frames.adapters.map(|f| adapters(py, f)).transpose()?)?;
    dict.set_item(
        "timeseries",
        frames.timeseries.map(|f| timeseries(py, f)).transpose()?,
    )?;
    dict.set_item("steps", frames.steps.map(|f| steps(py, f)).transpose()?)
}

/// A scalar as a Python int or float.
pub fn metric(py: Python<'_>, value: Metric) -> PyResult<Bound<'_, PyAny>> {
    Ok(match value {
        Metric::Int(value) => value.into_pyobject(py)?.into_any(),
        Metric::Float(value) => value.into_pyobject(py)?.into_any(),
    })
}

/// A summary as a dict.
pub fn summary<'py>(py: Python<'py>, summary: &Summary) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for &(name, value) in &summary.values {
        dict.set_item(name, metric(py, value)?)?;
    }
    Ok(dict)
}
