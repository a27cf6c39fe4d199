//! The module `weft._native._process`: what `weft.multiprocessing` needs to start processes and to know how they end.
//!
//! * [`child`]: one started process.
//! * [`link`]: asking a template for children.
//! * [`template`]: being a template.
//! * [`lifeline`]: hanging on the root program's life.
//! * [`error`]: the engine's errors as Python exceptions.

mod child;
mod error;
mod lifeline;
mod link;
mod template;

use std::time::Duration;

use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;
use weft_process::title;

/// The names of this process's threads but the main one, as the kernel has them.
#[pyfunction]
fn other_threads() -> Vec<String> {
    weft_process::threads::other_threads()
}

/// Call this process `weft-worker`, for `ps` and `top`, unless the program has given it a name. Says whether it is called so.
#[pyfunction]
fn take_title_of_worker() -> bool {
    title::take(title::WORKER)
}

/// As `take_title_of_worker`: `weft-manager`.
#[pyfunction]
fn take_title_of_manager() -> bool {
    title::take(title::MANAGER)
}

/// Call this process, which is the program's own, what it was called before it, or whatever it was forked off, had a title.
#[pyfunction]
fn give_title_back() {
    title::give_back();
}

/// Seconds as the engine wants them: `None` is for ever, nothing is less than no time.
fn patience(seconds: Option<f64>) -> PyResult<Option<Duration>> {
    match seconds {
        None => Ok(None),
        Some(seconds) if seconds.is_nan() => {
            Err(PyValueError::new_err("a timeout must be a number, not nan"))
        }
        Some(seconds) if seconds <= 0.0 => Ok(Some(Duration::ZERO)),
        Some(f64::INFINITY) => Ok(None),
        Some(seconds) => Duration::try_from_secs_f64(seconds)
            .map(Some)
            .map_err(|_| PyOverflowError::new_err("timeout is too large")),
    }
}

/// Makes `_native._process`.
pub(crate) fn init(native: &Bound<'_, PyModule>) -> PyResult<()> {
    // Before any thread can start a process, or fork.
    weft_process::lifeline::install_fork_handler();
    let py = native.py();
    let module = PyModule::new(py, "weft._native._process")?;
    module.add_class::<child::Child>()?;
    module.add_class::<link::Link>()?;
    module.add_class::<template::Template>()?;
    module.add_class::<template::Job>()?;
    module.add("NoAnswer", py.get_type::<error::NoAnswer>())?;
    module.add("TemplateGone", py.get_type::<error::TemplateGone>())?;
    module.add_function(wrap_pyfunction!(other_threads, &module)?)?;
    module.add_function(wrap_pyfunction!(take_title_of_worker, &module)?)?;
    module.add_function(wrap_pyfunction!(take_title_of_manager, &module)?)?;
    module.add_function(wrap_pyfunction!(give_title_back, &module)?)?;
    module.add_function(wrap_pyfunction!(template::probe_fork, &module)?)?;
    module.add_function(wrap_pyfunction!(lifeline::lifeline_ensure, &module)?)?;
    module.add_function(wrap_pyfunction!(lifeline::lifeline_arm, &module)?)?;
    module.add_function(wrap_pyfunction!(lifeline::lifeline_join, &module)?)?;
    module.add_function(wrap_pyfunction!(lifeline::lifeline_also, &module)?)?;
    module.add_function(wrap_pyfunction!(lifeline::lifeline_identity, &module)?)?;
    module.add_function(wrap_pyfunction!(lifeline::lifeline_role, &module)?)?;
    native.setattr("_process", module)
}
