//! The choke point of long calls: the core works on a thread of its own while this one, without the GIL but for an instant ten
//! times a second, looks for Ctrl-C and reports progress.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use pyo3::prelude::*;

use crate::to_py;

/// How long Ctrl-C may go unnoticed.
const POLL: Duration = Duration::from_millis(100);

/// Runs `work` without the GIL. `poll` is called about ten times a second with it; its error, or Ctrl-C, sets the cancel flag
/// that `work` watches, and is raised once `work` has come back.
pub fn run<T: Send>(
    py: Python<'_>,
    work: impl FnOnce(&AtomicBool) -> twin_core::error::Result<T> + Send,
    mut poll: impl FnMut(Python<'_>) -> PyResult<()> + Send,
) -> PyResult<T> {
    let cancel = AtomicBool::new(false);
    py.detach(|| {
        std::thread::scope(|scope| {
            let (sender, receiver) = channel();
            let cancel = &cancel;
            scope.spawn(move || {
                // The receiver outlives this thread.
                let _ = sender.send(work(cancel));
            });
            let mut failure = None;
            loop {
                match receiver.recv_timeout(POLL) {
                    Ok(result) => return failure.map_or_else(|| result.map_err(to_py), Err),
                    Err(RecvTimeoutError::Timeout) if failure.is_none() => {
                        let looked = Python::attach(|py| py.check_signals().and_then(|()| poll(py)));
                        if let Err(error) = looked {
                            cancel.store(true, Ordering::Relaxed);
                            failure = Some(error);
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    // The thread died without an answer: the scope re-raises its panic.
                    Err(RecvTimeoutError::Disconnected) => {
                        return Err(pyo3::exceptions::PyRuntimeError::new_err(
                            "the simulation thread died",
                        ));
                    }
                }
            }
        })
    })
}
