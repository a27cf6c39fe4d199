//! The engine's errors as Python exceptions.

use pyo3::exceptions::{PyEOFError, PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use rustix::io::Errno;
use weft_pipe::PipeError;

use crate::queue::arenas::shm_error;

/// The exception for an engine's error.
#[cold]
pub(super) fn pipe_error(py: Python<'_>, error: PipeError<PyErr>) -> PyErr {
    match error {
        PipeError::Interrupted(error) => error,
        PipeError::Eof => PyEOFError::new_err(()),
        PipeError::System(source) => system_error(source),
        PipeError::Memory(error) => shm_error(error),
        PipeError::Reentered => PyRuntimeError::new_err(error.to_string()),
        PipeError::WriterDied { .. } | PipeError::ReaderDied { .. } => owner_died(py, error.to_string()),
        _ => PyOSError::new_err(error.to_string()),
    }
}

/// As `os.read` and `os.write` raise it: the class follows from the number.
pub(super) fn system_error(source: Errno) -> PyErr {
    let number = source.raw_os_error();
    // SAFETY: the call returns a text that stays at least until the next one, and is copied at once.
    let text = unsafe { std::ffi::CStr::from_ptr(libc::strerror(number)) };
    PyOSError::new_err((number, text.to_string_lossy().into_owned()))
}

fn owner_died(py: Python<'_>, message: String) -> PyErr {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let class = CLASS.get_or_try_init(py, || {
        let module = py.import("weft.multiprocessing.connection")?;
        Ok::<_, PyErr>(module.getattr("MessageLost")?.unbind())
    });
    match class.and_then(|class| class.bind(py).call1((message,))) {
        Ok(value) => PyErr::from_value(value),
        Err(error) => error,
    }
}
