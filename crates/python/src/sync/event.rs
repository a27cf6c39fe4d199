//! A flag to wait for.

use std::sync::OnceLock;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use weft_sync::{Event, WaitError};

use super::{Address, address, find_arena, handle, own_arena, shm_error};
use crate::queue::parker::{GilParker, deadline};

/// An event that processes share. A class that derives from it calls `_create` or `_attach` once.
#[pyclass(frozen, subclass, weakref, name = "EventBase", module = "weft.multiprocessing._sync")]
pub(super) struct EventBase(OnceLock<Event>);

impl EventBase {
    fn event(&self) -> PyResult<&Event> {
        self.0.get().ok_or_else(|| PyRuntimeError::new_err("the event was not initialised: call __init__"))
    }

    fn put(&self, event: Event) -> PyResult<()> {
        self.0.set(event).map_err(|_| PyRuntimeError::new_err("the event was initialised already"))
    }
}

#[pymethods]
impl EventBase {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> Self {
        Self(OnceLock::new())
    }

    /// Make a new one.
    fn _create(&self, py: Python<'_>) -> PyResult<()> {
        let arena = own_arena(py)?;
        self.put(Event::create(&arena).map_err(shm_error)?)
    }

    /// Become a handle of what `_handle` of another process's describes.
    fn _attach(&self, py: Python<'_>, place: Address) -> PyResult<()> {
        let arena = find_arena(py, place.0)?;
        self.put(Event::attach(&arena, handle(place)).map_err(shm_error)?)
    }

    /// Where it is: its arena's id, its place in it, and its generation.
    fn _handle(&self) -> PyResult<Address> {
        let event = self.event()?;
        Ok(address(event.arena().id(), event.handle()))
    }

    /// Whether it is set.
    fn is_set(&self) -> PyResult<bool> {
        Ok(self.event()?.is_set())
    }

    /// Set it, and wake all that wait.
    fn set(&self) -> PyResult<()> {
        self.event()?.set().map_err(shm_error)
    }

    /// Make it not set.
    fn clear(&self) -> PyResult<()> {
        self.event()?.clear().map_err(shm_error)
    }

    /// Wait until it is set, `timeout` seconds at most (None: for ever), and say whether it is, or was meanwhile.
    #[pyo3(signature = (timeout = None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let mut parker = GilParker::for_event(py);
        match self.event()?.wait(&mut parker, deadline(true, timeout)) {
            Ok(()) => Ok(true),
            Err(WaitError::TimedOut) => Ok(false),
            Err(WaitError::Interrupted(error)) => Err(error),
            Err(WaitError::Memory(error)) => Err(shm_error(error)),
        }
    }
}
