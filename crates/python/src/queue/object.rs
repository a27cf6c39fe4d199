//! The class that the faces' queues are made of.

use std::cell::Cell;
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};
use weft_shm::queue::Poller;
use weft_shm::robust::RobustMutex;
use weft_shm::{Handle, Queue, QueueError};
use weft_wait::Deadline;

use super::arenas::{find_arena, own_arena, shm_error};
use super::codec::{self, Failure, Message, Spans};
use super::parker::{GilParker, deadline};
use super::pickling;
use crate::shared::sending::Sending;

type Shared = Queue<RobustMutex>;

thread_local! {
    /// The body of the message at hand: taken out while in use, because Python code may run in between.
    static BODY: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A buffer for a body, taken out of the thread's keeping and given back at the end.
struct Body(Vec<u8>);

impl Body {
    #[inline]
    fn take() -> Self {
        let mut body = BODY.take();
        body.clear();
        Self(body)
    }
}

impl Drop for Body {
    #[inline]
    fn drop(&mut self) {
        // A large object was pickled into it: the next one need not find room for that.
        if self.0.capacity() <= pickling::KEPT {
            BODY.set(std::mem::take(&mut self.0));
        }
    }
}

/// A queue of objects between processes, without the manners of a particular face.
///
/// A face's class derives from it, calls `_create` or `_attach` once, and provides:
/// `_closed_error()`, the exception for a use after `_close`; `_put_failed(error, object)`, called with what the
/// pickler raised; `_shut_down_error()`, the exception for a use after `shutdown`.
#[pyclass(frozen, subclass, weakref, name = "QueueBase", module = "weft._native")]
pub(crate) struct QueueBase {
    queue: OnceLock<Arc<Shared>>,
    closed: AtomicBool,
    /// Whether this process ever put something.
    used: AtomicBool,
    /// Whether this process said that it will put nothing any more.
    reads_only: AtomicBool,
    /// Messages that were got, and for which there was no memory then: the next to be returned.
    kept_back: Mutex<VecDeque<Box<Message>>>,
    /// How many these are.
    kept: AtomicU64,
    poller: Mutex<Option<Poller<RobustMutex>>>,
}

fn exception(py: Python<'_>, place: &'static PyOnceLock<Py<PyAny>>, name: &str) -> PyErr {
    let class = place.get_or_try_init(py, || Ok::<_, PyErr>(py.import("queue")?.getattr(name)?.unbind()));
    match class.and_then(|class| class.bind(py).call0()) {
        Ok(value) => PyErr::from_value(value),
        Err(error) => error,
    }
}

fn empty(py: Python<'_>) -> PyErr {
    static EMPTY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    exception(py, &EMPTY, "Empty")
}

fn full(py: Python<'_>) -> PyErr {
    static FULL: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    exception(py, &FULL, "Full")
}

impl QueueBase {
    fn queue(&self) -> PyResult<&Arc<Shared>> {
        self.queue
            .get()
            .ok_or_else(|| PyRuntimeError::new_err("the queue was not initialised: call __init__"))
    }

    fn set(&self, queue: Shared) -> PyResult<()> {
        self.queue
            .set(Arc::new(queue))
            .map_err(|_| PyRuntimeError::new_err("the queue was initialised already"))
    }

    fn put_object(slf: &Bound<'_, Self>, object: &Bound<'_, PyAny>, deadline: Deadline) -> PyResult<()> {
        let this = slf.get();
        if this.closed.load(Ordering::Relaxed) {
            return Err(Self::refusal(slf, "_closed_error"));
        }
        let queue = this.queue()?;
        this.used.store(true, Ordering::Relaxed);
        if let Some((kind, bytes, length)) = codec::small(object) {
            let mut parker = GilParker::new(slf.py());
            return queue
                .put(kind, &bytes[..length], &mut Spans::new(), &mut parker, deadline)
                .map_err(|error| Self::error(slf, error, full));
        }
        Self::put_any(slf, queue, object, deadline)
    }

    /// As `put_object`, for what takes more than eight bytes.
    fn put_any(
        slf: &Bound<'_, Self>,
        queue: &Shared,
        object: &Bound<'_, PyAny>,
        deadline: Deadline,
    ) -> PyResult<()> {
        let mut body = Body::take();
        let mut spans = Spans::new();
        let sending = Sending::into(queue.arena().id(), queue.handle());
        let kind = match codec::encode(object, queue.arena(), &mut body.0, &mut spans) {
            Ok(kind) => kind,
            Err(Failure::Memory(error)) => return Err(error),
            Err(Failure::Pickle(error)) => {
                return slf.call_method1("_put_failed", (error, object)).map(|_| ());
            }
        };
        let sent = sending.pickled();
        let mut parker = GilParker::new(slf.py());
        queue
            .put(kind, &body.0, &mut spans, &mut parker, deadline)
            .map_err(|error| Self::error(slf, error, full))?;
        sent.done();
        Ok(())
    }

    fn get_object<'py>(slf: &Bound<'py, Self>, deadline: Deadline) -> PyResult<Bound<'py, PyAny>> {
        let this = slf.get();
        if this.closed.load(Ordering::Relaxed) {
            return Err(Self::refusal(slf, "_closed_error"));
        }
        let queue = this.queue()?;
        let py = slf.py();
        if this.kept.load(Ordering::Relaxed) != 0
            && let Some(object) = this.get_kept_back(py)?
        {
            return Ok(object);
        }
        let mut body = Body::take();
        let mut spans = Spans::new();
        let mut parker = if this.reads_only.load(Ordering::Relaxed) {
            GilParker::for_reader(py, queue)
        } else {
            GilParker::new(py)
        };
        let kind = match queue.get_into(&mut body.0, &mut spans, &mut parker, deadline) {
            Ok(kind) => kind,
            Err(error) => return Err(Self::error(slf, error, empty)),
        };
        match codec::decode(py, kind, &body.0, &mut spans) {
            Ok(object) => Ok(object),
            Err((error, message)) => Err(this.keep_back(error, message)),
        }
    }

    /// Keeps a message for the next attempt, for want of memory, and passes the error on.
    #[cold]
    fn keep_back(&self, error: PyErr, message: Option<Box<Message>>) -> PyErr {
        if let Some(message) = message {
            self.kept_back.lock().push_front(message);
            self.kept.fetch_add(1, Ordering::Relaxed);
        }
        error
    }

    /// A message that was kept back, as an object. `None` if another thread was quicker.
    #[cold]
    fn get_kept_back<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(message) = self.kept_back.lock().pop_front() else { return Ok(None) };
        self.kept.fetch_sub(1, Ordering::Relaxed);
        let decoded = codec::decode_again(py, *message);
        decoded.map(Some).map_err(|(error, message)| self.keep_back(error, message))
    }

    fn error(slf: &Bound<'_, Self>, error: QueueError<PyErr>, timed_out: fn(Python<'_>) -> PyErr) -> PyErr {
        match error {
            QueueError::TimedOut => timed_out(slf.py()),
            QueueError::ShutDown => Self::refusal(slf, "_shut_down_error"),
            QueueError::Interrupted(error) => error,
            QueueError::Memory(error) => shm_error(error),
        }
    }

    /// The exception that the face's method `name` makes.
    #[cold]
    fn refusal(slf: &Bound<'_, Self>, name: &str) -> PyErr {
        match slf.call_method0(name) {
            Ok(error) => PyErr::from_value(error),
            Err(error) => error,
        }
    }
}

#[pymethods]
impl QueueBase {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> Self {
        Self {
            queue: OnceLock::new(),
            closed: AtomicBool::new(false),
            used: AtomicBool::new(false),
            reads_only: AtomicBool::new(false),
            kept_back: Mutex::default(),
            kept: AtomicU64::new(0),
            poller: Mutex::new(None),
        }
    }

    /// Make a new queue for up to `maxsize` objects, 0 for any number.
    fn _create(&self, py: Python<'_>, maxsize: u64) -> PyResult<()> {
        let arena = own_arena(py)?;
        self.set(Shared::create(&arena, maxsize).map_err(shm_error)?)
    }

    /// Become a handle of the queue that `_handle` of another process's describes.
    fn _attach(&self, py: Python<'_>, arena: u64, unit: u32, generation: u64) -> PyResult<()> {
        let arena = find_arena(py, arena)?;
        self.set(Shared::attach(&arena, Handle { unit, generation }).map_err(shm_error)?)
    }

    /// Where the queue is: its arena's id, its place in it, and its generation.
    fn _handle(&self) -> PyResult<(u64, u32, u64)> {
        let queue = self.queue()?;
        let Handle { unit, generation } = queue.handle();
        Ok((queue.arena().id(), unit, generation))
    }

    /// Put `obj` into the queue.
    ///
    /// If there is no room, wait for it: `timeout` seconds (None: for ever), or not at all if `block` is false.
    /// Raises `queue.Full` then.
    #[pyo3(signature = (obj, block = Truth(true), timeout = None))]
    fn put(
        slf: &Bound<'_, Self>,
        obj: &Bound<'_, PyAny>,
        block: Truth,
        timeout: Option<f64>,
    ) -> PyResult<()> {
        Self::put_object(slf, obj, deadline(block.0, timeout))
    }

    /// Put `obj` into the queue; raises `queue.Full` if there is no room.
    fn put_nowait(slf: &Bound<'_, Self>, obj: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::put_object(slf, obj, deadline(false, None))
    }

    /// Take the next object out of the queue.
    ///
    /// If there is none, wait for it: `timeout` seconds (None: for ever), or not at all if `block` is false.
    /// Raises `queue.Empty` then.
    #[pyo3(signature = (block = Truth(true), timeout = None))]
    fn get<'py>(slf: &Bound<'py, Self>, block: Truth, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        Self::get_object(slf, deadline(block.0, timeout))
    }

    /// Take the next object out of the queue; raises `queue.Empty` if there is none.
    fn get_nowait<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::get_object(slf, deadline(false, None))
    }

    /// How many objects are in the queue. It is exact, but other processes go on.
    fn qsize(&self) -> PyResult<u64> {
        Ok(self.queue()?.len() + self.kept.load(Ordering::Relaxed))
    }

    /// Whether the queue has no object.
    fn empty(&self) -> PyResult<bool> {
        Ok(self.queue()?.is_empty() && self.kept.load(Ordering::Relaxed) == 0)
    }

    /// Whether the queue has as many objects as it may.
    fn full(&self) -> PyResult<bool> {
        Ok(self.queue()?.is_full())
    }

    /// Wait until there is an object, `timeout` seconds at most (None: for ever), and say whether there is one.
    ///
    /// A queue that was shut down counts as having one.
    fn _wait_for_item(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<bool> {
        if slf.get().kept.load(Ordering::Relaxed) != 0 {
            return Ok(true);
        }
        let mut parker = GilParker::new(slf.py());
        match slf.get().queue()?.wait_for_message(&mut parker, deadline(true, timeout)) {
            Ok(()) => Ok(true),
            Err(QueueError::TimedOut) => Ok(false),
            Err(error) => Err(Self::error(slf, error, empty)),
        }
    }

    fn _task_done(&self) -> PyResult<()> {
        if !self.queue()?.task_done() {
            return Err(PyValueError::new_err("task_done() called too many times"));
        }
        Ok(())
    }

    fn _join(slf: &Bound<'_, Self>) -> PyResult<()> {
        let mut parker = GilParker::new(slf.py());
        let outcome = slf.get().queue()?.join(&mut parker, Deadline::NEVER);
        outcome.map_err(|error| Self::error(slf, error, empty))
    }

    fn _unfinished(&self) -> PyResult<u64> {
        Ok(self.queue()?.unfinished())
    }

    fn _shutdown(slf: &Bound<'_, Self>, immediate: bool) -> PyResult<()> {
        let mut parker = GilParker::new(slf.py());
        let outcome = slf.get().queue()?.shut_down(immediate, &mut parker);
        outcome.map_err(|error| Self::error(slf, error, empty))
    }

    fn _is_shut_down(&self) -> PyResult<bool> {
        Ok(self.queue()?.is_shut_down())
    }

    /// Refuse to put and get from now on, in this process.
    fn _close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Say that this process will put nothing any more: a `get` raises EOFError when nobody else can, either.
    fn _reads_only(&self) -> PyResult<()> {
        self.queue()?.become_reader();
        self.reads_only.store(true, Ordering::Relaxed);
        Ok(())
    }

    #[getter]
    fn _closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    #[getter]
    fn _used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    #[getter]
    fn _maxsize(&self) -> PyResult<u64> {
        Ok(self.queue()?.max_size())
    }

    /// A descriptor that is readable while the queue has an object. It belongs to the queue.
    fn _fileno(&self) -> PyResult<i32> {
        let queue = self.queue()?;
        let mut poller = self.poller.lock();
        match &*poller {
            Some(known) if known.pid() == std::process::id() => {}
            _ => *poller = Some(queue.poller().map_err(shm_error)?),
        }
        match &*poller {
            Some(known) => Ok(known.as_fd().as_raw_fd()),
            None => Err(PyRuntimeError::new_err("the queue has no descriptor")),
        }
    }
}

/// Anything, as the interpreter's `if` sees it.
struct Truth(bool);

impl<'a, 'py> FromPyObject<'a, 'py> for Truth {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        object.is_truthy().map(Self)
    }
}
