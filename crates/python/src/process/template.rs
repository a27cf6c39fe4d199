//! Being a template: forking with the interpreter's hooks, and what a child finds.

use std::io;
use std::os::fd::{IntoRawFd, RawFd};
use std::sync::{Arc, Mutex};

use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use weft_process::server::{self, Forked, Host, Outcome};

use super::error::exception;
use super::lifeline::owned;
use super::link::Link;

/// Forks as `os.fork` does, without its audit event and its warning: there is one thread.
struct Interpreter<'py> {
    py: Python<'py>,
    rehearse: Option<Py<PyAny>>,
}

impl Host for Interpreter<'_> {
    fn rehearse(&mut self) {
        if let Some(rehearse) = &self.rehearse
            && let Err(error) = rehearse.call0(self.py)
        {
            error.write_unraisable(self.py, None);
        }
    }

    fn fork(&mut self) -> io::Result<Forked> {
        // SAFETY: the GIL is held, and these calls belong around a fork, in this order.
        unsafe {
            ffi::PyOS_BeforeFork();
            match libc::fork() {
                0 => {
                    ffi::PyOS_AfterFork_Child();
                    Ok(Forked::Child)
                }
                -1 => {
                    let error = io::Error::last_os_error();
                    ffi::PyOS_AfterFork_Parent();
                    Err(error)
                }
                pid => {
                    ffi::PyOS_AfterFork_Parent();
                    Ok(Forked::Parent(pid.cast_unsigned()))
                }
            }
        }
    }
}

/// A template process, in that process.
#[pyclass(frozen, module = "weft._native._process")]
pub(super) struct Template(Mutex<Option<server::Template>>);

#[pymethods]
impl Template {
    /// Takes over the two descriptors that the process inherited.
    #[new]
    fn new(socket: RawFd, table: RawFd) -> PyResult<Self> {
        let template = server::Template::adopt(owned(socket)?, owned(table)?);
        Ok(Self(Mutex::new(Some(template.map_err(|error| exception(&error))?))))
    }

    /// Waits for what to prepare; None if there is no client any more.
    fn receive_preparation<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let mut place = self.0.lock().map_err(|_| gone())?;
        let template = place.as_mut().ok_or_else(gone)?;
        let payload = template.receive_preparation().map_err(|error| exception(&error))?;
        Ok(payload.map(|payload| PyBytes::new(py, &payload)))
    }

    /// Tells the client that the preparation is done.
    fn ready(&self, payload: &[u8]) -> PyResult<()> {
        let place = self.0.lock().map_err(|_| gone())?;
        place.as_ref().ok_or_else(gone)?.ready(payload).map_err(|error| exception(&error))
    }

    /// Serves clients until there are none: returns None then, and a job in every child.
    /// `rehearse` is called in every process that is forked in advance.
    fn run(&self, py: Python<'_>, rehearse: Py<PyAny>) -> PyResult<Option<Job>> {
        let template = self.0.lock().map_err(|_| gone())?.take().ok_or_else(gone)?;
        match template
            .run(&mut Interpreter { py, rehearse: Some(rehearse) })
            .map_err(|error| exception(&error))?
        {
            Outcome::Finished => Ok(None),
            Outcome::Child(job) => {
                let server::Job { payload, descriptors, parent, link, exit } = *job;
                Ok(Some(Job {
                    payload: PyBytes::new(py, &payload).unbind(),
                    descriptors: descriptors.into_iter().map(IntoRawFd::into_raw_fd).collect(),
                    parent: parent.into_raw_fd(),
                    link: Py::new(py, Link(Arc::new(link)))?,
                    exit,
                }))
            }
        }
    }
}

fn gone() -> PyErr {
    PyRuntimeError::new_err("this template runs already")
}

/// What a template's child has to do. The descriptors belong to whoever reads them.
#[pyclass(frozen, module = "weft._native._process")]
pub(super) struct Job {
    #[pyo3(get)]
    payload: Py<PyBytes>,
    #[pyo3(get)]
    descriptors: Vec<RawFd>,
    #[pyo3(get)]
    parent: RawFd,
    #[pyo3(get)]
    link: Py<Link>,
    exit: server::Exit,
}

#[pymethods]
impl Job {
    /// Tells whoever waits for this process that it is about to end with `code`. Nothing may follow but the exit.
    fn say(&self, code: i64) {
        self.exit.say(code as u8); // as the kernel cuts it
    }
}

/// Forks a child that ends at once, and reaps it. Libraries that stop their threads before a fork have done so then.
#[pyfunction]
pub(super) fn probe_fork(py: Python<'_>) -> PyResult<()> {
    match (Interpreter { py, rehearse: None }).fork() {
        // SAFETY: the child has nothing to clean up that its parent would not.
        Ok(Forked::Child) => unsafe { libc::_exit(0) },
        Ok(Forked::Parent(pid)) => {
            let mut status = 0;
            // SAFETY: the status is a place of this function; the process is a child nobody else knows of.
            unsafe { libc::waitpid(pid.cast_signed(), &raw mut status, 0) };
            Ok(())
        }
        Err(error) => Err(PyOSError::new_err(error.to_string())),
    }
}
