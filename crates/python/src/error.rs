//! Errors of the engine crates as Python exceptions.

use pyo3::exceptions::PyMemoryError;
use pyo3::{PyErr, Python};
use weft_coroutine::slotted::SwitchError;

/// The exception for an engine error; every variant is a shortage of memory of one kind.
pub(crate) fn switch_error(error: &SwitchError) -> PyErr {
    match error {
        SwitchError::Mapping(_) | SwitchError::Image { .. } => PyMemoryError::new_err(error.to_string()),
    }
}

/// Sets the exception for an engine error.
pub(crate) fn set_switch_error(error: &SwitchError) {
    // SAFETY: only called while the GIL is held, by code that the interpreter called.
    let py = unsafe { Python::assume_attached() };
    switch_error(error).restore(py);
}
