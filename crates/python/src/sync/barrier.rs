//! So many that wait for each other.

use std::sync::OnceLock;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use weft_sync::{Arrival, Barrier, BarrierError};
use weft_wait::thread::Patience;

use super::{Address, address, find_arena, handle, own_arena, shm_error};
use crate::queue::parker::{GilParker, deadline};

static PATIENCE: Patience = Patience::new();

/// A barrier that processes share. A class that derives from it calls `_create` or `_attach` once.
#[pyclass(frozen, subclass, weakref, name = "BarrierBase", module = "weft.multiprocessing._sync")]
pub(super) struct BarrierBase(OnceLock<Barrier>);

impl BarrierBase {
    fn barrier(&self) -> PyResult<&Barrier> {
        self.0.get().ok_or_else(|| PyRuntimeError::new_err("the barrier was not initialised: call __init__"))
    }

    fn put(&self, barrier: Barrier) -> PyResult<()> {
        self.0.set(barrier).map_err(|_| PyRuntimeError::new_err("the barrier was initialised already"))
    }
}

/// `None` if it is broken.
fn outcome<T>(result: Result<T, BarrierError<PyErr>>) -> PyResult<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(BarrierError::Broken) => Ok(None),
        Err(BarrierError::Interrupted(error)) => Err(error),
        Err(BarrierError::Memory(error)) => Err(shm_error(error)),
    }
}

#[pymethods]
impl BarrierBase {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> Self {
        Self(OnceLock::new())
    }

    /// Make a new one.
    fn _create(&self, py: Python<'_>, parties: u32) -> PyResult<()> {
        let arena = own_arena(py)?;
        self.put(Barrier::create(&arena, parties).map_err(shm_error)?)
    }

    /// Become a handle of what `_handle` of another process's describes.
    fn _attach(&self, py: Python<'_>, place: Address, parties: u32) -> PyResult<()> {
        let arena = find_arena(py, place.0)?;
        self.put(Barrier::attach(&arena, handle(place), parties).map_err(shm_error)?)
    }

    /// Where it is: its arena's id, its place in it, and its generation.
    fn _handle(&self) -> PyResult<Address> {
        let barrier = self.barrier()?;
        Ok(address(barrier.arena().id(), barrier.handle()))
    }

    /// Arrive, and wait for the others, `timeout` seconds at most (None: for ever).
    ///
    /// Returns how many had arrived before, and a place if the caller is the last, `acts` is true, and the others wait
    /// until it calls `_finish` or `_fail` with that; None if the barrier is broken.
    fn _arrive(
        &self,
        py: Python<'_>,
        acts: bool,
        timeout: Option<f64>,
    ) -> PyResult<Option<(u32, Option<u32>)>> {
        let mut parker = GilParker::for_lock(py, &PATIENCE).staying();
        let arrival = outcome(self.barrier()?.wait(acts, &mut parker, deadline(true, timeout)))?;
        Ok(arrival.map(|arrival| match arrival {
            Arrival::Passed(index) => (index, None),
            Arrival::Last { index, place } => (index, Some(place)),
        }))
    }

    /// Let the others go on. False if the barrier was broken meanwhile.
    fn _finish(&self, py: Python<'_>, place: u32) -> PyResult<bool> {
        Ok(outcome(self.barrier()?.finish(place, &mut GilParker::for_lock(py, &PATIENCE)))?.is_some())
    }

    /// Break the barrier, as the last one to arrive.
    fn _fail(&self, py: Python<'_>, place: u32) -> PyResult<()> {
        self.barrier()?.fail(place, &mut GilParker::for_lock(py, &PATIENCE));
        Ok(())
    }

    /// Break the barrier. Those that wait are told.
    fn _abort(&self, py: Python<'_>) -> PyResult<()> {
        outcome(self.barrier()?.abort(&mut GilParker::for_lock(py, &PATIENCE)))?;
        Ok(())
    }

    /// Make the barrier as new. Those that wait are told that it is broken.
    fn _reset(&self, py: Python<'_>) -> PyResult<()> {
        outcome(self.barrier()?.reset(&mut GilParker::for_lock(py, &PATIENCE)))?;
        Ok(())
    }

    /// How many wait.
    fn _waiting(&self) -> PyResult<u32> {
        Ok(self.barrier()?.waiting())
    }

    /// Whether it is broken.
    fn _is_broken(&self) -> PyResult<bool> {
        Ok(self.barrier()?.is_broken())
    }
}
