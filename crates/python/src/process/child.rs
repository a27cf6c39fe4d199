//! A started process as a Python object.

use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use weft_process::child::{self, Waited};
use weft_reactor::Ready;

use super::error::exception;
use super::patience;
use crate::hub::{For, Here, here};

/// How long a greenlet waits before it looks again, if no descriptor can tell it.
const LOOK: Duration = Duration::from_millis(20);
/// How long otherwise.
const SLICE: Duration = Duration::from_secs(1);

/// A process that this one forked or spawned, or had a template fork.
#[pyclass(frozen, module = "weft._native._process")]
pub(super) struct Child(pub(super) child::Child);

impl Child {
    /// As `wait`, for a greenlet: others run meanwhile.
    fn wait_in_hub(&self, here: Here<'_>, deadline: Option<Instant>) -> PyResult<Option<i32>> {
        loop {
            match self.0.wait(Some(Duration::ZERO)).map_err(|error| exception(&error))? {
                Waited::Ended(status) => return Ok(Some(status)),
                Waited::NotOurs => return Ok(None),
                Waited::TimedOut | Waited::Interrupted => {}
            }
            let left = deadline.map_or(SLICE, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(None);
            }
            match self.0.sentinel() {
                Ok(descriptor) => {
                    let watched = [(descriptor.as_raw_fd(), Ready::READ)];
                    here.wait(&For::Descriptors(&watched), Some(left.min(SLICE)), false)?;
                }
                // There is none left to be had.
                Err(_) => {
                    here.wait(&For::Time, Some(left.min(LOOK)), false)?;
                }
            }
        }
    }
}

#[pymethods]
impl Child {
    /// The child of this process with this id.
    #[new]
    fn new(pid: u32) -> PyResult<Self> {
        child::Child::own(pid).map(Self).ok_or_else(|| PyValueError::new_err("no process id"))
    }

    /// Says that a template's child is wanted: until then it is ended when this object goes.
    fn claim(&self) {
        self.0.claim();
    }

    #[getter]
    fn pid(&self) -> i32 {
        self.0.pid()
    }

    /// The exit code, or minus the signal; None while it runs, and if it cannot be known.
    fn poll(&self) -> Option<i32> {
        // With the GIL, so that no fork finds the lock inside taken.
        match self.0.poll() {
            Waited::Ended(status) => Some(status),
            Waited::NotOurs | Waited::TimedOut | Waited::Interrupted => None,
        }
    }

    /// As poll, after at most that many seconds of waiting; None waits for ever.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<i32>> {
        let patience = patience(timeout)?;
        let deadline = patience.and_then(|patience| Instant::now().checked_add(patience));
        if let Some(here) = here(py) {
            return self.wait_in_hub(here, deadline);
        }
        loop {
            let left = deadline.map_or(SLICE, |end| end.saturating_duration_since(Instant::now()));
            match py.detach(|| self.0.wait(Some(left.min(SLICE)))).map_err(|error| exception(&error))? {
                Waited::Ended(status) => return Ok(Some(status)),
                Waited::NotOurs => return Ok(None),
                Waited::TimedOut if left <= SLICE && deadline.is_some() => return Ok(None),
                // A signal that came right before the sleep did not end it.
                Waited::TimedOut | Waited::Interrupted => py.check_signals()?,
            }
        }
    }

    /// Sends a signal, unless the process has ended.
    fn signal(&self, number: i32) -> PyResult<()> {
        self.0.signal(number).map_err(|error| exception(&error))
    }

    /// A descriptor that is readable once the process has ended; it lives as long as this object.
    fn sentinel(&self) -> PyResult<RawFd> {
        self.0.sentinel().map(|descriptor| descriptor.as_raw_fd()).map_err(|error| exception(&error))
    }
}
