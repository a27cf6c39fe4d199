//! A function that the loop calls once, soon.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::gil::GilCell;

/// What is to be called. Emptied by the call, and by `stop()`.
#[derive(Debug, Default)]
struct Call {
    callback: Option<Py<PyAny>>,
    arguments: Option<Py<PyTuple>>,
}

/// A function that the loop calls once, soon: what `loop.run_callback` gives.
#[pyclass(frozen, name = "callback", module = "gevent.core")]
#[derive(Debug)]
pub(super) struct Callback(GilCell<Call>);

impl Callback {
    pub(super) fn new(callback: Py<PyAny>, arguments: Py<PyTuple>) -> Self {
        Self(GilCell::new(Call { callback: Some(callback), arguments: Some(arguments) }))
    }

    /// What to call; nothing is left to be called then.
    pub(super) fn take(&self, _py: Python<'_>) -> Option<(Py<PyAny>, Option<Py<PyTuple>>)> {
        // SAFETY: with the GIL, as `_py` shows; what is taken is dropped by the caller, when nothing is borrowed.
        let call = unsafe { std::mem::take(&mut *self.0.get()) };
        call.callback.map(|callback| (callback, call.arguments))
    }

    fn peek<'py>(&self, py: Python<'py>) -> (Option<Bound<'py, PyAny>>, Option<Bound<'py, PyTuple>>) {
        // SAFETY: with the GIL; nothing runs while it is borrowed.
        let call = unsafe { &*self.0.get() };
        (
            call.callback.as_ref().map(|it| it.bind(py).clone()),
            call.arguments.as_ref().map(|it| it.bind(py).clone()),
        )
    }
}

#[pymethods]
impl Callback {
    /// The function; None once it was called or stopped.
    #[getter]
    fn callback<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.peek(py).0
    }

    /// Its arguments; None once it was called or stopped.
    #[getter]
    fn args<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyTuple>> {
        self.peek(py).1
    }

    /// Whether it is still to be called.
    #[getter]
    fn pending(&self, py: Python<'_>) -> bool {
        self.peek(py).0.is_some()
    }

    /// Have it not called.
    fn stop(&self, py: Python<'_>) {
        drop(self.take(py));
    }

    /// The same as `stop()`.
    fn close(&self, py: Python<'_>) {
        drop(self.take(py));
    }

    #[allow(clippy::needless_pass_by_value, reason = "the signature is PyO3's")]
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: the collector runs with the GIL, and nothing is borrowed while Python code runs.
        let call = unsafe { &*self.0.get() };
        visit.call(&call.callback)?;
        visit.call(&call.arguments)
    }

    fn __clear__(&self) {
        // What is to be called is held by the loop, so this one is not.
        // SAFETY: as above; what is taken is dropped when nothing is borrowed.
        let call = unsafe { std::mem::take(&mut *self.0.get()) };
        drop(call);
    }

    fn __bool__(&self, py: Python<'_>) -> bool {
        self.pending(py)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let (callback, arguments) = slf.get().peek(slf.py());
        let mut text = format!("<callback at {:#x}", slf.as_ptr().addr());
        match callback {
            Some(callback) => {
                text += &format!(" pending callback={}", callback.repr()?);
                if let Some(arguments) = arguments.filter(|arguments| !arguments.is_empty()) {
                    text += &format!(" args={}", arguments.repr()?);
                }
            }
            None => text += " stopped",
        }
        Ok(text + ">")
    }
}
