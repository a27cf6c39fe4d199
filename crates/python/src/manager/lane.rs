//! What a client's thread calls through.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};
use weft_manager::{Answer, Lane, ManagerError};
use weft_wait::thread::Patience;

use super::wire::{FIRST, KEYWORDS, Tag, write_head};
use crate::queue::arenas::shm_error;
use crate::queue::codec::{self, Failure, Spans};
use crate::queue::parker::GilParker;

/// How long it pays to wait for an answer without sleeping.
static PATIENCE: Patience = Patience::new();

thread_local! {
    /// Buffers for a call and for its answer: taken out while in use, because Python code may run in between.
    static BUFFERS: RefCell<(Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// Buffers that grew beyond this are not kept.
const KEPT: usize = 1 << 20;

/// A thread's way to a server on the same machine. It is given back when the object is gone, or by `close`.
#[pyclass(frozen, weakref, name = "ManagerLane", module = "weft._native")]
pub(crate) struct ManagerLane {
    lane: parking_lot::Mutex<Option<std::sync::Arc<Lane>>>,
    used: AtomicBool,
    server: u32,
}

impl ManagerLane {
    pub(super) fn new(lane: Lane, server: u32) -> Self {
        let lane = parking_lot::Mutex::new(Some(std::sync::Arc::new(lane)));
        Self { lane, used: AtomicBool::new(false), server }
    }

    fn call_with<'py>(
        &self,
        py: Python<'py>,
        names: (&str, &str),
        args: &Bound<'py, PyTuple>,
        kwds: Option<&Bound<'py, PyDict>>,
        (call, bytes): &mut (Vec<u8>, Vec<u8>),
    ) -> PyResult<(Tag, Bound<'py, PyAny>)> {
        let lane = self.lane.lock().clone().ok_or_else(|| unusable(py, "the lane is closed".to_owned()))?;
        let arena = lane.desk().arena();
        let mut buffers = Spans::new();
        let kwds = kwds.filter(|kwds| !kwds.is_empty());
        let encoded = match kwds {
            None => codec::encode(args, arena, call, &mut buffers),
            Some(kwds) => {
                let both = PyTuple::new(py, [args.as_any(), kwds])?;
                codec::encode(&both, arena, call, &mut buffers)
            }
        };
        let kind = encoded.map_err(|failure| match failure {
            Failure::Memory(error) | Failure::Pickle(error) => error,
        })?;
        let mut head = Vec::with_capacity(64);
        if !write_head(names.0, names.1, &mut head) {
            return Err(PyRuntimeError::new_err("the name of a method is longer than 255 bytes"));
        }
        let keywords = if kwds.is_some() { KEYWORDS } else { 0 };
        let first = if self.used.load(Ordering::Relaxed) { 0 } else { FIRST };
        let what = u32::from(kind) | keywords | first;
        let mut parker = GilParker::for_answer(py, &PATIENCE, Some(lane.desk().life()));
        let outcome = lane.call(what, &[&head, call], &mut buffers, bytes, &mut parker);
        let Answer { what, buffers } = outcome.map_err(|error| self.failed(py, error))?;
        self.used.store(true, Ordering::Relaxed);
        let tag = Tag::of_number((what >> 8) as u8)
            .ok_or_else(|| PyOSError::new_err("an answer in shared memory is damaged: it has no known tag"))?;
        let decoded = codec::decode(py, what as u8, bytes, buffers);
        Ok((tag, decoded.map_err(|(error, _)| error)?))
    }

    #[cold]
    fn failed(&self, py: Python<'_>, error: ManagerError<PyErr>) -> PyErr {
        static GONE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let how = match error {
            ManagerError::Interrupted(error) => return error,
            ManagerError::Memory(error) => return shm_error(error),
            ManagerError::Busy | ManagerError::Foreign => return unusable(py, error.to_string()),
            ManagerError::Closed => false,
            ManagerError::Died => true,
        };
        let made = GONE.get_or_try_init(py, || {
            let module = py.import("weft.multiprocessing.managers")?;
            Ok::<_, PyErr>(module.getattr("_server_gone")?.unbind())
        });
        match made.and_then(|made| made.bind(py).call1((self.server, how))) {
            Ok(error) => PyErr::from_value(error),
            Err(error) => error,
        }
    }
}

/// The exception for a lane that cannot be used, or not now.
#[cold]
fn unusable(py: Python<'_>, message: String) -> PyErr {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let class = CLASS.get_or_try_init(py, || {
        let module = py.import("weft.multiprocessing._manager_client")?;
        Ok::<_, PyErr>(module.getattr("LaneUnusable")?.unbind())
    });
    match class.and_then(|class| class.bind(py).call1((message,))) {
        Ok(error) => PyErr::from_value(error),
        Err(error) => error,
    }
}

#[pymethods]
impl ManagerLane {
    /// Call the method of the object `ident` in the server, and return what it returns.
    ///
    /// Any other kind of answer is given to `otherwise(kind, value)`, whose result is returned.
    #[pyo3(signature = (ident, method, args, kwds, otherwise, /))]
    fn call<'py>(
        &self,
        py: Python<'py>,
        ident: &str,
        method: &str,
        args: &Bound<'py, PyAny>,
        kwds: Option<&Bound<'py, PyDict>>,
        otherwise: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let converted;
        let args = match args.cast::<PyTuple>() {
            Ok(args) => args,
            Err(_) => {
                converted = PyTuple::new(py, args.try_iter()?.collect::<PyResult<Vec<_>>>()?)?;
                &converted
            }
        };
        let mut places = BUFFERS.with(|kept| std::mem::take(&mut *kept.borrow_mut()));
        places.0.clear();
        let outcome = self.call_with(py, (ident, method), args, kwds, &mut places);
        if places.0.capacity().max(places.1.capacity()) <= KEPT {
            BUFFERS.with(|kept| *kept.borrow_mut() = places);
        }
        match outcome? {
            (Tag::Return, value) => Ok(value),
            (tag, value) => otherwise.call1((tag.name(), value)),
        }
    }

    /// Whether the calling process and thread may make a call through it now.
    #[getter]
    fn usable(&self) -> bool {
        self.lane.lock().as_ref().is_some_and(|lane| lane.is_usable() && !lane.is_busy())
    }

    /// Whether the server still serves.
    #[getter]
    fn alive(&self) -> bool {
        self.lane.lock().as_ref().is_some_and(|lane| !lane.desk().is_dead() && !lane.desk().is_closed())
    }

    /// Whether it was given back.
    #[getter]
    fn closed(&self) -> bool {
        self.lane.lock().is_none()
    }

    /// The number of the lane.
    #[getter]
    fn index(&self) -> Option<usize> {
        self.lane.lock().as_ref().map(|lane| lane.index())
    }

    /// Give it back.
    fn close(&self) {
        drop(self.lane.lock().take());
    }
}

/// The thread's buffer for an answer, empty.
pub(super) fn take_buffer() -> Vec<u8> {
    let mut buffer = BUFFERS.with(|kept| std::mem::take(&mut kept.borrow_mut().0));
    buffer.clear();
    buffer
}

/// Gives it back for the next one.
pub(super) fn keep_buffer(buffer: Vec<u8>) {
    if buffer.capacity() <= KEPT {
        BUFFERS.with(|kept| kept.borrow_mut().0 = buffer);
    }
}
