//! Asking a template for children.

use std::os::fd::{AsRawFd, IntoRawFd, RawFd};
use std::sync::Arc;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use weft_process::client::{self, AfterSignal, Started};

use super::child::Child;
use super::error::exception;
use super::lifeline::borrowed;

/// The way to one template.
#[pyclass(frozen, module = "weft._native._process")]
pub(super) struct Link(pub(super) Arc<client::Link>);

/// Runs Python's signal handlers; an exception in one is kept, and ends the wait.
struct Signals(Option<PyErr>);

impl Signals {
    fn check(&mut self) -> AfterSignal {
        match Python::attach(|py| py.check_signals()) {
            Ok(()) => AfterSignal::GoOn,
            Err(error) => {
                self.0 = Some(error);
                AfterSignal::GiveUp
            }
        }
    }

    fn into_error(self) -> PyErr {
        self.0.unwrap_or_else(|| PyRuntimeError::new_err("a wait ended without a reason"))
    }
}

#[pymethods]
impl Link {
    /// A link, and the two descriptors that the template has to inherit; the caller closes them.
    #[staticmethod]
    fn create() -> PyResult<(Self, RawFd, RawFd)> {
        let (link, inherited) = client::Link::create().map_err(|error| exception(&error))?;
        Ok((Self(Arc::new(link)), inherited.socket.into_raw_fd(), inherited.table.into_raw_fd()))
    }

    /// Tells the child process that is to be the template what to prepare.
    fn prepare(&self, pid: u32, payload: &[u8]) -> PyResult<()> {
        self.0.prepare(pid, payload).map_err(|error| exception(&error))
    }

    /// Waits until the template is ready; what it says then.
    fn wait_ready<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let link = Arc::clone(&self.0);
        let mut signals = Signals(None);
        match py.detach(|| link.wait_ready(&mut || signals.check())).map_err(|error| exception(&error))? {
            Some(payload) => Ok(PyBytes::new(py, &payload)),
            None => Err(signals.into_error()),
        }
    }

    /// Whether the template lives.
    fn is_alive(&self) -> bool {
        self.0.is_alive()
    }

    /// The end of the template's socket that clients hold.
    fn fileno(&self) -> RawFd {
        self.0.socket().as_raw_fd()
    }

    /// Has a child started; `parent` is a descriptor by which it sees the end of this process.
    fn start(
        &self,
        py: Python<'_>,
        payload: &[u8],
        descriptors: Vec<RawFd>,
        parent: RawFd,
    ) -> PyResult<Child> {
        let descriptors = descriptors.into_iter().map(borrowed).collect::<PyResult<Vec<_>>>()?;
        let parent = borrowed(parent)?;
        let mut signals = Signals(None);
        let started = py
            .detach(|| self.0.start(payload, &descriptors, parent, &mut || signals.check()))
            .map_err(|error| exception(&error))?;
        match started {
            Started::Child(child) => Ok(Child(child)),
            Started::GivenUp => Err(signals.into_error()),
        }
    }
}
