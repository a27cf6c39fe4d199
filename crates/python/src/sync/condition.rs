//! Waiting for notifications, without the lock that belongs to it: that is the face's.

use std::sync::OnceLock;

use pyo3::exceptions::{PyAssertionError, PyRuntimeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use weft_sync::{Condition, Entry, WaitError};

use super::semlock::SemLock;
use super::{Address, address, find_arena, handle, own_arena, shm_error};
use crate::queue::parker::{GilParker, deadline};

/// A condition that processes share. A class that derives from it calls `_create` or `_attach` once.
#[pyclass(frozen, subclass, weakref, name = "ConditionBase", module = "weft.multiprocessing._sync")]
pub(super) struct ConditionBase {
    condition: OnceLock<Condition>,
    /// The lock, if it is one of ours: then a wait is one call.
    lock: OnceLock<Py<SemLock>>,
}

impl ConditionBase {
    fn condition(&self) -> PyResult<&Condition> {
        self.condition
            .get()
            .ok_or_else(|| PyRuntimeError::new_err("the condition was not initialised: call __init__"))
    }

    fn put(&self, condition: Condition) -> PyResult<()> {
        self.condition
            .set(condition)
            .map_err(|_| PyRuntimeError::new_err("the condition was initialised already"))
    }
}

#[pymethods]
impl ConditionBase {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> Self {
        Self { condition: OnceLock::new(), lock: OnceLock::new() }
    }

    /// Make a new one.
    fn _create(&self, py: Python<'_>) -> PyResult<()> {
        let arena = own_arena(py)?;
        self.put(Condition::create(&arena).map_err(shm_error)?)
    }

    /// Become a handle of what `_handle` of another process's describes.
    fn _attach(&self, py: Python<'_>, place: Address) -> PyResult<()> {
        let arena = find_arena(py, place.0)?;
        self.put(Condition::attach(&arena, handle(place)).map_err(shm_error)?)
    }

    /// Where it is: its arena's id, its place in it, and its generation.
    fn _handle(&self) -> PyResult<Address> {
        let condition = self.condition()?;
        Ok(address(condition.arena().id(), condition.handle()))
    }

    /// Say which lock belongs to it. Only once, and only one whose own methods nobody has replaced.
    fn _bind(&self, lock: Py<SemLock>) -> PyResult<()> {
        self.lock.set(lock).map_err(|_| PyRuntimeError::new_err("the condition has a lock already"))
    }

    /// Release the lock, wait for a notification, `timeout` seconds at most (None: for ever), acquire it again.
    ///
    /// Says whether there was one. AssertionError if the caller does not hold the lock. Raises `weft.OwnerDied`,
    /// with the lock, if another process died with it meanwhile.
    #[pyo3(signature = (timeout = None))]
    fn wait(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<bool> {
        let (py, this) = (slf.py(), slf.get());
        let Some(lock) = this.lock.get().map(Py::get) else {
            return slf.call_method1("_wait_slowly", (timeout,))?.extract();
        };
        if !lock.is_held() {
            return Err(PyAssertionError::new_err("must acquire() condition before using wait()"));
        }
        let condition = this.condition()?;
        let deadline = deadline(true, timeout);
        let entry = condition.enter().map_err(shm_error)?;
        let outcome = loop {
            let count = match lock.let_go() {
                Ok(count) => count,
                Err(error) => break Err(error),
            };
            let slept = condition.sleep(entry, &mut GilParker::for_event(py).staying(), deadline);
            if let Err(error) = lock.take_back(py, count) {
                break Err(error);
            }
            match slept {
                Err(WaitError::Interrupted(error)) => break Err(error),
                Err(WaitError::Memory(error)) => break Err(shm_error(error)),
                Ok(()) | Err(WaitError::TimedOut) if condition.take(entry) => break Ok(true),
                Err(WaitError::TimedOut) => break Ok(false),
                // Another one was quicker.
                Ok(()) => {}
            }
        };
        condition.leave(entry);
        outcome
    }

    /// Let up to `n` of those that wait go on. AssertionError if the caller does not hold the lock.
    #[pyo3(signature = (n = 1))]
    fn notify(slf: &Bound<'_, Self>, n: i64) -> PyResult<()> {
        let this = slf.get();
        match this.lock.get().map(Py::get) {
            None => {
                slf.call_method1("_notify_slowly", (n,))?;
            }
            Some(lock) if lock.is_held() => {
                this._notify(n)?;
            }
            Some(_) => return Err(PyAssertionError::new_err("lock is not owned")),
        }
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(self.lock.get())
    }

    /// Say, with the lock, that the caller is about to wait. Returns what the other methods want.
    fn _enter(&self) -> PyResult<u64> {
        Ok(self.condition()?.enter().map_err(shm_error)?.to_bits())
    }

    /// Wait, without the lock, until there may be a notification, `timeout` seconds at most (None: for ever). Says
    /// whether there may.
    fn _sleep(&self, py: Python<'_>, entry: u64, timeout: Option<f64>) -> PyResult<bool> {
        let mut parker = GilParker::for_event(py).staying();
        match self.condition()?.sleep(Entry::from_bits(entry), &mut parker, deadline(true, timeout)) {
            Ok(()) => Ok(true),
            Err(WaitError::TimedOut) => Ok(false),
            Err(WaitError::Interrupted(error)) => Err(error),
            Err(WaitError::Memory(error)) => Err(shm_error(error)),
        }
    }

    /// Take a notification, with the lock. Says whether there was one.
    fn _take(&self, entry: u64) -> PyResult<bool> {
        Ok(self.condition()?.take(Entry::from_bits(entry)))
    }

    /// Say that the caller waits no more.
    fn _leave(&self, entry: u64) -> PyResult<()> {
        self.condition()?.leave(Entry::from_bits(entry));
        Ok(())
    }

    /// Let up to `most` go on, with the lock. Says how many.
    fn _notify(&self, most: i64) -> PyResult<u32> {
        let most = u32::try_from(most.max(0)).unwrap_or(u32::MAX);
        Ok(self.condition()?.notify(most))
    }

    /// How many wait, of those that live.
    fn _waiting(&self, py: Python<'_>) -> PyResult<u32> {
        let condition = self.condition()?;
        Ok(py.detach(|| condition.waiting()))
    }

    /// How many notifications were given and not taken.
    fn _pending(&self, py: Python<'_>) -> PyResult<u32> {
        let condition = self.condition()?;
        Ok(py.detach(|| condition.pending()))
    }
}
