//! The pool in the process that owns it.
//!
//! Every task that was put and not resolved has an entry in the table: to whom its outcome is due, and what is needed to do it
//! again. Whoever waits for a result *collects*: it takes all that came, and delivers it to whom it is due. Nobody is in
//! charge of that; all that wait do so at the bell of results, and one is enough.
//!
//! A *service* thread of the face's is for what has to happen though nobody waits: callbacks, futures that others
//! observe, streams that nobody reads at the moment. It runs [`Core::serve`].
//!
//! One file for each of its works: the [`table`] of tasks, [`submit`], [`held`] (priorities), [`collect`], [`service`], [`streams`],
//! [`ending`] (cancelled, taken back, failed), [`workers`] (their ends, limits on time), and the Python [`methods`].
//!
//! Everything here is used with the GIL held. The mutexes are held for moments, and never while Python code runs; so
//! what is let go of, which may run a finalizer, is let go of outside.

mod collect;
mod ending;
mod held;
mod methods;
mod service;
mod streams;
mod submit;
mod table;
mod workers;

use std::cell::RefCell;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize};

use parking_lot::Mutex;
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyWeakrefReference};
use weft_pool::{Owner, PoolError};
use weft_wait::Signal;

use self::held::Held;
use self::service::Deferred;
use self::table::Table;
pub(super) use self::table::{Target, Wishes};
use super::functions::References;
use super::stream::Stream;
use crate::queue::arenas::shm_error;

thread_local! {
    /// A message at hand; taken out while in use, because Python code may run in between.
    static MESSAGE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A buffer that grew beyond this is not kept.
const KEPT: usize = 1 << 20;

pub(super) fn with_message<T>(work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut message = MESSAGE.with(|kept| std::mem::take(&mut *kept.borrow_mut()));
    message.clear();
    let value = work(&mut message);
    if message.capacity() <= KEPT {
        MESSAGE.with(|kept| *kept.borrow_mut() = message);
    }
    value
}

/// States of a pool.
pub(super) const RUN: u8 = 0;
pub(super) const CLOSE: u8 = 1;
pub(super) const TERMINATE: u8 = 2;

fn state_named(name: &str) -> PyResult<u8> {
    match name {
        "RUN" => Ok(RUN),
        "CLOSE" => Ok(CLOSE),
        "TERMINATE" => Ok(TERMINATE),
        other => Err(PyValueError::new_err(format!("a pool cannot be {other}"))),
    }
}

/// A pool's tasks and results, and the words it shares with its workers.
#[pyclass(frozen, weakref, name = "Core", module = "weft._native._pool")]
pub(crate) struct Core {
    pub(super) owner: Owner,
    pid: u32,
    references: Mutex<References>,
    table: Mutex<Table>,
    /// Tasks with a priority, of which as many are put as there are workers: the others can be overtaken.
    held: Mutex<BinaryHeap<Held>>,
    turns: AtomicU64,
    /// Results that came, and whose callbacks have to be called before anybody sees them; and watched futures.
    deferred: Mutex<VecDeque<Deferred>>,
    /// Unresolved results that somebody observes.
    observed: AtomicUsize,
    /// Threads that wait for results.
    waiting: AtomicUsize,
    /// Streams that are fed by the service when nobody reads them.
    streams: Mutex<Vec<Py<Stream>>>,
    /// Streams that are fed as they are read, and how many of them are not fed, nor dropped.
    lazy: Mutex<Vec<Py<PyWeakrefReference>>>,
    unfed_lazy: AtomicUsize,
    /// How often anybody read a stream.
    pub(super) reads: AtomicU64,
    /// Where the service waits when there is nothing for it at the bell.
    service: Signal,
    service_state: AtomicU32,
    pub(super) state: AtomicU8,
    pub(super) size: AtomicUsize,
    retries: AtomicU32,
    stopped: AtomicBool,
    closing: AtomicBool,
    /// Somebody waits, or has waited, until nothing remains to be done.
    joined: AtomicBool,
    /// How many workers there could be more.
    missing: AtomicUsize,
    retried: AtomicU64,
    failed: AtomicU64,
    resolved: AtomicU64,
    /// How many tasks were to be put, and how many outcomes workers reported.
    put: AtomicU64,
    reported: AtomicU64,
    /// Called when there is something for the service and it may not run.
    start_service: Mutex<Option<Py<PyAny>>>,
    /// What the pool broke by.
    broken: Mutex<Option<Py<PyAny>>>,
    /// Called when there is a task, and workers are missing.
    call_workers: Mutex<Option<Py<PyAny>>>,
    /// Called with the reason when the result of a future cannot be unpickled; makes its failure.
    on_unreadable: Mutex<Option<Py<PyAny>>>,
    /// A task that cannot be pickled is refused where it is put.
    refuses_unpicklable: AtomicBool,
}

pub(super) fn pool_error(error: PoolError<PyErr>) -> PyErr {
    match error {
        PoolError::Interrupted(error) => error,
        PoolError::Memory(error) => shm_error(error),
        PoolError::TimedOut | PoolError::ShutDown => PyOSError::new_err("a pool's queue is out of order"),
    }
}

impl Core {
    /// Fails in a process that was forked off the owner: the results are not for it.
    pub(super) fn check_process(&self) -> PyResult<()> {
        if self.owner.is_inherited() {
            return Err(PyRuntimeError::new_err(format!(
                "this pool belongs to process {}; a process forked off it needs a pool of its own",
                self.pid
            )));
        }
        Ok(())
    }

    /// Why no task is taken.
    pub(super) fn refusal(&self, py: Python<'_>) -> PyErr {
        let broken = self.broken.lock().as_ref().map(|broken| broken.clone_ref(py));
        match broken {
            Some(error) => PyErr::from_value(error.into_bound(py)),
            None => PyValueError::new_err("Pool not running"),
        }
    }

    /// Whether the function travels by its name.
    pub(super) fn knows(&self, function: &Bound<'_, PyAny>) -> bool {
        self.references.lock().has(function)
    }
}

/// The tuple of no arguments, for callers that give none.
pub(super) fn no_arguments(py: Python<'_>) -> Bound<'_, PyAny> {
    PyTuple::empty(py).into_any()
}
