//! What a client's thread calls through.

use std::cell::RefCell;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use pyo3::exceptions::{PyException, PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};
use weft_manager::{Answer, Lane, ManagerError, Reply};
use weft_wait::thread::Prospect;

use super::proxy::Arguments;
use super::short::{self, Reader};
use super::wire::{FIRST, KEYWORDS, Tag, write_head};
use crate::gil::GilCell;
use crate::queue::arenas::shm_error;
use crate::queue::codec::{self, Failure, Spans};
use crate::queue::parker::GilParker;

/// Whether it pays to wait for an answer without sleeping.
static PROSPECT: Prospect = Prospect::new();

thread_local! {
    /// Buffers for a call and for its answer: taken out while in use, because Python code may run in between.
    static BUFFERS: RefCell<(Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// Buffers that grew beyond this are not kept.
const KEPT: usize = 1 << 20;

/// A thread's way to a server on the same machine. It is given back when the object is gone, or by `close`.
#[pyclass(frozen, weakref, name = "ManagerLane", module = "weft._native")]
pub(crate) struct ManagerLane(parking_lot::Mutex<Option<Arc<Shared>>>);

/// The lane itself.
pub(super) struct Shared {
    lane: Lane,
    used: AtomicBool,
    server: u32,
    /// Guarded by the GIL.
    users: GilCell<Users>,
}

/// Who uses a lane without owning it.
#[derive(Default)]
struct Users {
    count: usize,
    /// The lane itself, if it was given back while it was in use: the last one drops it.
    given_back: Option<Arc<Shared>>,
}

/// A lane in use by a proxy, which does not keep it: counting the use of it without atomic operations is a good part of a call.
pub(super) struct Using<'py> {
    shared: NonNull<Shared>,
    _attached: Python<'py>,
}

impl<'py> Using<'py> {
    /// `None` if it was given back.
    #[inline]
    pub(super) fn begin(py: Python<'py>, lane: &Weak<Shared>) -> Option<Self> {
        if lane.strong_count() == 0 {
            return None;
        }
        let shared = NonNull::new(lane.as_ptr().cast_mut())?;
        // SAFETY: somebody owns it, and owners drop it only with the GIL, which is held; from now on it is in use, which they
        // respect (`ManagerLane::give_back`).
        unsafe { (*shared.as_ref().users.get()).count += 1 };
        Some(Self { shared, _attached: py })
    }
}

impl Deref for Using<'_> {
    type Target = Shared;

    #[inline]
    fn deref(&self) -> &Shared {
        // SAFETY: it is in use.
        unsafe { self.shared.as_ref() }
    }
}

impl Drop for Using<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: it is in use until here, and the GIL is held. What is dropped is the lane itself, which nobody looks at any more.
        let given_back = unsafe {
            let users = &mut *self.shared.as_ref().users.get();
            users.count -= 1;
            if users.count == 0 { users.given_back.take() } else { None }
        };
        drop(given_back);
    }
}

impl ManagerLane {
    pub(super) fn new(lane: Lane, server: u32) -> Self {
        let users = GilCell::new(Users::default());
        let shared = Shared { lane, used: AtomicBool::new(false), server, users };
        Self(parking_lot::Mutex::new(Some(Arc::new(shared))))
    }

    pub(super) fn shared(&self) -> Option<Arc<Shared>> {
        self.0.lock().clone()
    }

    fn give_back(&self) {
        let Some(shared) = self.0.lock().take() else { return };
        // SAFETY: the GIL is held, as it is whenever a method is called or an object goes.
        let users = unsafe { &mut *shared.users.get() };
        if users.count > 0 {
            users.given_back = Some(shared);
        }
    }
}

impl Drop for ManagerLane {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Shared {
    /// Calls the method of the object, both by name. `None` as an error: the lane cannot be used, or not now.
    pub(super) fn call<'py>(
        &self,
        py: Python<'py>,
        names: (&str, &str),
        args: &Arguments<'_, 'py>,
    ) -> CallOutcome<'py> {
        if !self.lane.is_usable() || self.lane.is_busy() {
            return Err(None);
        }
        let mut places = BUFFERS.with(|kept| std::mem::take(&mut *kept.borrow_mut()));
        places.0.clear();
        let outcome = self.call_with(py, names, args, &mut places);
        if places.0.capacity().max(places.1.capacity()) <= KEPT {
            BUFFERS.with(|kept| *kept.borrow_mut() = places);
        }
        outcome
    }

    /// As [`call`](Self::call), for an object by the word of its identity and a method by its number. `None`: this call is none
    /// of a few words.
    #[inline]
    pub(super) fn call_short<'py>(
        &self,
        py: Python<'py>,
        (identity, method): (u64, usize),
        args: &[*mut pyo3::ffi::PyObject],
    ) -> Option<CallOutcome<'py>> {
        // The first call through a lane says so, which there is no room for.
        if !self.used.load(Ordering::Relaxed) || !self.lane.is_usable() || self.lane.is_busy() {
            return None;
        }
        let words = short::encode_call(py, identity, args)?;
        let what = method as u32 | (args.len() as u32) << 8;
        let mut parker = GilParker::for_answer(py, &PROSPECT, Some(self.lane.desk().life()));
        // Filled by an answer that is long.
        let mut bytes = Vec::new();
        Some(match self.lane.call_short(what, &words, &mut bytes, &mut parker) {
            Ok(Reply::Short(_, words)) => {
                Reader::of_answer(&words).node(py, None).map(|value| (Tag::Return, value)).map_err(Some)
            }
            Ok(Reply::Long(answer)) => opened(py, answer, &bytes).map_err(Some),
            Err(error) => Err(self.failed(py, error)),
        })
    }

    fn call_with<'py>(
        &self,
        py: Python<'py>,
        names: (&str, &str),
        args: &Arguments<'_, 'py>,
        (call, bytes): &mut (Vec<u8>, Vec<u8>),
    ) -> CallOutcome<'py> {
        if !write_head(names.0, names.1, call) {
            let error = PyRuntimeError::new_err("the name of a method is longer than 255 bytes");
            return Err(Some(error));
        }
        let head = call.len();
        let mut buffers = Spans::new();
        let (kind, keywords) = self.encode(py, names, args, head, call, &mut buffers)?;
        let first = if self.used.load(Ordering::Relaxed) { 0 } else { FIRST };
        let what = u32::from(kind) | keywords | first;
        let mut parker = GilParker::for_answer(py, &PROSPECT, Some(self.lane.desk().life()));
        let outcome = self.lane.call(what, &[call], &mut buffers, bytes, &mut parker);
        let answer = outcome.map_err(|error| self.failed(py, error))?;
        self.used.store(true, Ordering::Relaxed);
        Ok(opened(py, answer, bytes)?)
    }

    /// Appends the body of a call to `call`, whose head has `head` bytes. Returns its kind, and what says that it has keywords.
    fn encode<'py>(
        &self,
        py: Python<'py>,
        names: (&str, &str),
        args: &Arguments<'_, 'py>,
        head: usize,
        call: &mut Vec<u8>,
        buffers: &mut Spans,
    ) -> PyResult<(u8, u32)> {
        if let Arguments::Array(items) = args {
            if codec::encode_arguments(py, items, call) {
                return Ok((codec::kind::TUPLE, 0));
            }
            call.truncate(head);
        }
        let (args, kwds) = args.objects(py)?;
        let (body, keywords) = if kwds.is_empty() {
            (args.clone(), 0)
        } else {
            (PyTuple::new(py, [args.as_any(), kwds.as_any()])?, KEYWORDS)
        };
        // Behind the head: what the encoder throws away is its own.
        let mut encoded = Vec::new();
        let kind = codec::encode(&body, self.lane.desk().arena(), &mut encoded, buffers);
        let kind = kind.map_err(|failure| match failure {
            Failure::Memory(error) => error,
            Failure::Pickle(error) => unsendable(py, error, names, &args, &kwds),
        })?;
        call.extend_from_slice(&encoded);
        Ok((kind, keywords))
    }

    #[cold]
    fn failed(&self, py: Python<'_>, error: ManagerError<PyErr>) -> Option<PyErr> {
        static GONE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let died = match error {
            ManagerError::Interrupted(error) => return Some(error),
            ManagerError::Memory(error) => return Some(shm_error(error)),
            ManagerError::Busy | ManagerError::Foreign => return None,
            ManagerError::Closed => false,
            ManagerError::Died => true,
        };
        let made = GONE.get_or_try_init(py, || {
            let module = py.import("weft.multiprocessing.managers")?;
            Ok::<_, PyErr>(module.getattr("_server_gone")?.unbind())
        });
        Some(match made.and_then(|made| made.bind(py).call1((self.server, died))) {
            Ok(error) => PyErr::from_value(error),
            Err(error) => error,
        })
    }
}

/// What a call came to; `None` as an error: the lane cannot be used, or not now.
type CallOutcome<'py> = Result<(Tag, Bound<'py, PyAny>), Option<PyErr>>;

/// What an answer means.
fn opened<'py>(
    py: Python<'py>,
    Answer { what, mut buffers }: Answer,
    bytes: &[u8],
) -> PyResult<(Tag, Bound<'py, PyAny>)> {
    let tag = Tag::of_number((what >> 8) as u8)
        .ok_or_else(|| PyOSError::new_err("an answer in shared memory is damaged: it has no known tag"))?;
    let decoded = codec::decode(py, what as u8, bytes, &mut buffers);
    Ok((tag, decoded.map_err(|(error, _)| error)?))
}

/// The exception for a lane that cannot be used, or not now.
#[cold]
fn unusable(py: Python<'_>) -> PyErr {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let class = CLASS.get_or_try_init(py, || {
        let module = py.import("weft.multiprocessing._manager_client")?;
        Ok::<_, PyErr>(module.getattr("LaneUnusable")?.unbind())
    });
    match class.and_then(|class| class.bind(py).call0()) {
        Ok(error) => PyErr::from_value(error),
        Err(error) => error,
    }
}

/// The exception for a call that the pickler refused with `error`.
#[cold]
fn unsendable<'py>(
    py: Python<'py>,
    error: PyErr,
    (ident, method): (&str, &str),
    args: &Bound<'py, PyTuple>,
    kwds: &Bound<'py, PyDict>,
) -> PyErr {
    static EXPLAIN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    if !error.is_instance_of::<PyException>(py) {
        return error;
    }
    let explain = EXPLAIN.get_or_try_init(py, || {
        let module = py.import("weft.multiprocessing._manager_unpicklable")?;
        Ok::<_, PyErr>(module.getattr("unsendable")?.unbind())
    });
    let parts = (error.into_value(py), ident, method, args, kwds);
    match explain.and_then(|explain| explain.bind(py).call1(parts)) {
        Ok(error) => PyErr::from_value(error),
        Err(error) => error,
    }
}

#[pymethods]
impl ManagerLane {
    /// Call the method of the object `ident` in the server, and return what it returns.
    ///
    /// Any other kind of answer is given to `otherwise(kind, value)`, whose result is returned. Raises LaneUnusable if the
    /// lane is closed, another process's, or in the middle of a call.
    #[pyo3(signature = (ident, method, args, kwds, otherwise, /))]
    fn call<'py>(
        &self,
        py: Python<'py>,
        ident: &str,
        method: &str,
        args: &Bound<'py, PyTuple>,
        kwds: &Bound<'py, PyDict>,
        otherwise: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Some(shared) = self.shared() else { return Err(unusable(py)) };
        let arguments = Arguments::Objects(args.clone(), Some(kwds.clone()));
        match shared.call(py, (ident, method), &arguments) {
            Ok((Tag::Return, value)) => Ok(value),
            Ok((tag, value)) => otherwise.call1((tag.name(), value)),
            Err(Some(error)) => Err(error),
            Err(None) => Err(unusable(py)),
        }
    }

    /// Whether the calling process and thread may make a call through it now.
    #[getter]
    fn usable(&self) -> bool {
        self.shared().is_some_and(|shared| shared.lane.is_usable() && !shared.lane.is_busy())
    }

    /// Whether the server still serves.
    #[getter]
    fn alive(&self) -> bool {
        self.shared().is_some_and(|shared| {
            let desk = shared.lane.desk();
            !desk.is_dead() && !desk.is_closed()
        })
    }

    /// Whether it was given back.
    #[getter]
    fn closed(&self) -> bool {
        self.0.lock().is_none()
    }

    /// The number of the lane.
    #[getter]
    fn index(&self) -> Option<usize> {
        self.shared().map(|shared| shared.lane.index())
    }

    /// Give it back.
    fn close(&self) {
        self.give_back();
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
