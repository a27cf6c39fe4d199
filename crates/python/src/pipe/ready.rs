//! Waiting for many descriptors at once.

use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyInt, PyList};
use rustix::io::Errno;
use weft_reactor::Ready;
use weft_wait::thread::Slices;

use super::connection::ConnectionBase;
use super::error::system_error;
use crate::hub::{For, here};
use crate::queue::parker::{deadline, without_gil};

/// Those of `objects` (integers, connections, and whatever has a `fileno`) that are ready to be read from, in
/// their order. Waits up to `timeout` seconds for one; None: for ever.
///
/// Returns None, at once, if one of them is none that can be waited for, or two have one descriptor.
#[pyfunction]
pub(super) fn wait_ready<'py>(
    py: Python<'py>,
    objects: &Bound<'py, PyList>,
    timeout: Option<f64>,
) -> PyResult<Option<Bound<'py, PyList>>> {
    let mut polled = Vec::with_capacity(objects.len());
    for object in objects.iter() {
        let number = if let Ok(connection) = object.cast::<ConnectionBase>()
            && !overrides_fileno(&connection.as_any().get_type())?
        {
            connection.get().number()?
        } else if object.is_instance_of::<PyInt>() {
            match object.extract::<i32>() {
                Ok(number) => number,
                Err(_) => return Ok(None),
            }
        } else {
            let Ok(method) = object.getattr(pyo3::intern!(py, "fileno")) else { return Ok(None) };
            // What it raises is its own; what it returns may be anything.
            match method.call0()?.extract::<i32>() {
                Ok(number) => number,
                Err(_) => return Ok(None),
            }
        };
        if number < 0 {
            return Ok(None);
        }
        polled.push(libc::pollfd { fd: number, events: libc::POLLIN, revents: 0 });
    }
    let mut numbers: Vec<_> = polled.iter().map(|entry| entry.fd).collect();
    numbers.sort_unstable();
    if numbers.windows(2).any(|pair| pair[0] == pair[1]) {
        return Ok(None);
    }
    let deadline = deadline(timeout.is_none_or(|seconds| seconds > 0.0), timeout);
    let mut slices = Slices::default();
    let mut patience = Duration::ZERO;
    let watched: Vec<_> = if here(py).is_some() {
        numbers.iter().map(|&number| (number, Ready::READ)).collect()
    } else {
        Vec::new()
    };
    loop {
        if !patience.is_zero()
            && let Some(here) = here(py)
        {
            here.wait(&For::Descriptors(&watched), Some(patience), false)?;
            patience = Duration::ZERO;
        }
        let milliseconds = patience.as_micros().div_ceil(1000) as libc::c_int;
        let mut poll = || {
            // SAFETY: the entries are as many as said, and only this call writes to them.
            match unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, milliseconds) } {
                -1 => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
                count => Ok(count),
            }
        };
        let outcome = if milliseconds == 0 { poll() } else { without_gil(py, poll) };
        match outcome {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => break,
            Err(error) => return Err(system_error(error)),
        }
        py.check_signals()?;
        if deadline.is_over() {
            break;
        }
        patience = slices.next(deadline);
    }
    let ready = PyList::empty(py);
    for (entry, object) in polled.iter().zip(objects.iter()) {
        if entry.revents != 0 {
            ready.append(object)?;
        }
    }
    Ok(Some(ready))
}

fn overrides_fileno(class: &Bound<'_, pyo3::types::PyType>) -> PyResult<bool> {
    let py = class.py();
    let name = pyo3::intern!(py, "fileno");
    Ok(!class.getattr(name)?.is(&py.get_type::<ConnectionBase>().getattr(name)?))
}
