//! Errors of the process engine as Python exceptions.

use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use weft_process::ProcessError;

pyo3::create_exception!(
    weft._native._process,
    TemplateGone,
    PyRuntimeError,
    "The template process has ended; what was asked of it was not begun."
);
pyo3::create_exception!(
    weft._native._process,
    NoAnswer,
    PyRuntimeError,
    "The process that took the request was killed before it answered; what was asked was not begun."
);

/// The exception for an error of the engine.
pub(super) fn exception(error: &ProcessError) -> PyErr {
    match error {
        ProcessError::System { source, .. } | ProcessError::Refused { source } => {
            let text = std::io::Error::from(*source).to_string();
            let reason = text.split(" (os error").next().unwrap_or_default();
            let message = match error {
                ProcessError::System { action, .. } => {
                    format!("{reason} (in starting or watching a process: {action})")
                }
                _ => format!("{reason} (the template process cannot start a child)"),
            };
            // With an error number the interpreter picks the subclass: BlockingIOError, PermissionError.
            PyOSError::new_err((source.raw_os_error(), message))
        }
        ProcessError::TemplateGone => TemplateGone::new_err(error.to_string()),
        ProcessError::NoAnswer => NoAnswer::new_err(error.to_string()),
        // The standard library's text, which programs may know.
        ProcessError::TooManyDescriptors { .. } => PyValueError::new_err("too many fds"),
        ProcessError::Frame(_) => PyRuntimeError::new_err(error.to_string()),
    }
}
