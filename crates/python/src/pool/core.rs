//! The pool in the process that owns it.
//!
//! Every task that was put and not resolved has an entry in the table: to whom its outcome is due, and what is needed to do it
//! again. Whoever waits for a result *collects*: it takes all that came, and delivers it to whom it is due. Nobody is in
//! charge of that; all that wait do so at the bell of results, and one is enough.
//!
//! A *service* thread of the face's is for what has to happen though nobody waits: callbacks, futures that others
//! observe, streams that nobody reads at the moment. It runs [`Core::serve`].
//!
//! Everything here is used with the GIL held. The mutexes are held for moments, and never while Python code runs; so
//! what is let go of, which may run a finalizer, is let go of outside.

use std::cell::RefCell;
use std::cmp::Ordering as Order;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyFunction, PyModule, PyTuple, PyType, PyWeakrefMethods, PyWeakrefReference};
use weft_pool::{Call, Cancelling, Outcome, Owner, PoolError, ResultTrailer};
use weft_wait::{Deadline, Signal, WaitError, wait_until};

use super::calls::{self, Task};
use super::functions::References;
use super::futures::FutureBase;
use super::result::AsyncResult;
use super::stream::Stream;
use super::value::{self, Value, helper};
use crate::queue::arenas::{own_arena, shm_error};
use crate::queue::codec::{Failure, Spans};
use crate::queue::parker::GilParker;
use crate::shared::sending::Sending;

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

/// To whom an outcome is due.
pub(super) enum Target {
    /// A result, or a part of it.
    Result(Py<AsyncResult>, u32),
    /// The item or chunk of this number.
    Stream(Py<Stream>, u64),
    /// A future.
    Future(Py<FutureBase>),
}

/// What came and is to be told, by the service.
enum Deferred {
    Result(Py<AsyncResult>),
    Future(Py<FutureBase>),
}

/// A task that is not resolved.
struct Pending {
    target: Target,
    function: Py<PyAny>,
    /// What else is asked of it, if anything.
    wishes: Option<Box<Again>>,
}

/// What it takes to do a task again, and for how long it may run.
struct Again {
    call: Call,
    arguments: Py<PyAny>,
    wishes: Wishes,
    /// Times it was done again because its worker died.
    retried: u32,
}

/// What a caller asks of a task beyond its being done.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Wishes {
    /// How often it is done again if its worker dies.
    pub(super) retries: u32,
    /// How long it may run, in nanoseconds; 0 for as long as it likes.
    pub(super) timeout: u64,
    /// Whether it overtakes those that wait.
    pub(super) priority: i64,
}

impl Wishes {
    fn is_plain(self) -> bool {
        self == Self::default()
    }
}

/// A task with a priority, ready to be put.
struct Held {
    priority: i64,
    /// Among those of one priority, the first come.
    turn: u64,
    kind: u8,
    message: Vec<u8>,
    spans: Spans,
    id: u64,
}

impl Ord for Held {
    fn cmp(&self, other: &Self) -> Order {
        self.priority.cmp(&other.priority).then(other.turn.cmp(&self.turn))
    }
}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Order::Equal
    }
}

impl Eq for Held {}

#[derive(Default)]
struct Entry {
    generation: u32,
    pending: Option<Pending>,
}

/// The tasks that are not resolved, by number.
#[derive(Default)]
struct Table {
    entries: Vec<Entry>,
    free: Vec<u32>,
    count: usize,
    /// Nobody would do, or fail, what is entered now.
    sealed: bool,
}

/// So many generations an entry has before numbers come again.
const GENERATIONS: u32 = 1 << 30;

impl Table {
    /// Enters a task; hands it back if the table is sealed.
    fn insert(&mut self, pending: Pending) -> Result<u64, Pending> {
        if self.sealed {
            return Err(pending);
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry::default());
            self.entries.len() as u32 - 1
        });
        let entry = &mut self.entries[index as usize];
        entry.pending = Some(pending);
        self.count += 1;
        Ok(u64::from(entry.generation) << 32 | u64::from(index))
    }

    fn entry(&mut self, id: u64) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(id as u32 as usize)?;
        (u64::from(entry.generation) == id >> 32).then_some(entry)
    }

    fn get(&mut self, id: u64) -> Option<&mut Pending> {
        self.entry(id)?.pending.as_mut()
    }

    fn remove(&mut self, id: u64) -> Option<Pending> {
        let entry = self.entry(id)?;
        let pending = entry.pending.take()?;
        entry.generation = (entry.generation + 1) % GENERATIONS;
        self.free.push(id as u32);
        self.count -= 1;
        if self.count == 0 && self.entries.len() > 4096 {
            // What a burst of tasks took is given back, but for the generations in use.
            self.entries.shrink_to_fit();
            self.free.shrink_to_fit();
        }
        Some(pending)
    }

    fn ids(&self) -> Vec<u64> {
        let numbered = self.entries.iter().enumerate();
        numbered
            .filter(|(_, entry)| entry.pending.is_some())
            .map(|(index, entry)| u64::from(entry.generation) << 32 | index as u64)
            .collect()
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
}

/// Values of `service_state`.
const NEVER_ASKED: u32 = 0;
const ASKED: u32 = 1;

/// How long the service leaves a stream to whoever reads it, before it looks whether anybody still does.
const ABSENCE: Duration = Duration::from_millis(20);

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

    /// Puts a task. A task that cannot be pickled fails as if it had been done. After an error it was not put.
    pub(super) fn submit<'py>(
        slf: &Bound<'py, Self>,
        function: &Bound<'py, PyAny>,
        call: Call,
        arguments: &Bound<'py, PyAny>,
        target: Target,
        wishes: Wishes,
    ) -> PyResult<u64> {
        let (this, py) = (slf.get(), slf.py());
        this.check_process()?;
        let again = (!wishes.is_plain())
            .then(|| Box::new(Again { call, arguments: arguments.clone().unbind(), wishes, retried: 0 }));
        let function_too = if wishes.is_plain() { name_giver(function) } else { function.clone() }.unbind();
        let entered = this.table.lock().insert(Pending { target, function: function_too, wishes: again });
        let id = match entered {
            Ok(id) => id,
            Err(refused) => {
                drop(refused);
                return Err(this.refusal(py));
            }
        };
        let called = this.call_if_missing(py);
        if let Err(error) = called.and_then(|()| this.post(py, id, function, call, arguments, wishes)) {
            let forgotten = this.table.lock().remove(id);
            drop(forgotten);
            return Err(error);
        }
        Ok(id)
    }

    /// Puts a task that is in the table; after an error it was not put, and is still there.
    fn post<'py>(
        &self,
        py: Python<'py>,
        id: u64,
        function: &Bound<'py, PyAny>,
        call: Call,
        arguments: &Bound<'py, PyAny>,
        wishes: Wishes,
    ) -> PyResult<()> {
        let posted = with_message(|message| {
            let mut spans = Spans::new();
            let common = self.owner.common();
            let sending = Sending::into(common.arena().id(), common.handle());
            let task = Task { id, call, function, arguments, timed: wishes.timeout != 0 };
            let kind = calls::encode(&task, &self.references, self.owner.arena(), message, &mut spans)?;
            if wishes.priority == 0 {
                let mut parker = GilParker::new(py);
                self.owner
                    .post(false, kind, message, &mut spans, &mut parker)
                    .map_err(|error| Failure::Memory(pool_error(error)))?;
            } else {
                // Until it is put somebody has to look whether it can be.
                self.observe(py).map_err(Failure::Memory)?;
                let turn = self.turns.fetch_add(1, Ordering::Relaxed);
                let message = std::mem::take(message);
                self.held.lock().push(Held { priority: wishes.priority, turn, kind, message, spans, id });
            }
            sending.done();
            Ok(())
        });
        self.put.fetch_add(1, Ordering::Relaxed);
        match posted {
            Ok(()) => {
                if wishes.priority != 0 {
                    self.put_held(py)?;
                }
                // Once more: whoever was called before may have found nothing to do yet.
                self.call_if_missing(py)
            }
            Err(Failure::Memory(error)) => Err(error),
            Err(Failure::Pickle(error)) => {
                if !error.is_instance_of::<pyo3::exceptions::PyException>(py) {
                    return Err(error);
                }
                let explained =
                    helper(py, "unpicklable")?.call1((error.into_value(py), function, arguments))?;
                self.resolve(py, id, Value::Failed(explained.unbind()));
                self.call_if_missing(py)
            }
        }
    }

    /// Puts those of the tasks with a priority whose turn it is: urgent ones as long as no more wait than there are workers,
    /// the others when nothing else waits.
    fn put_held(&self, py: Python<'_>) -> PyResult<()> {
        let workers = self.size.load(Ordering::Relaxed).max(1) as u64;
        loop {
            let mut next = {
                let mut held = self.held.lock();
                let Some(first) = held.peek() else { break };
                let (express, common) = self.owner.waiting();
                let fits = if first.priority > 0 { express < workers } else { express + common < workers };
                if !fits {
                    return Ok(());
                }
                let Some(next) = held.pop() else { break };
                next
            };
            self.observed.fetch_sub(1, Ordering::SeqCst);
            if self.table.lock().get(next.id).is_none() {
                self.owner.resolved(next.id); // cancelled before it was put
                continue;
            }
            let mut parker = GilParker::deaf(py);
            let express = next.priority > 0;
            let posted = self.owner.post(express, next.kind, &next.message, &mut next.spans, &mut parker);
            if let Err(error) = posted {
                let error = pool_error(error);
                self.resolve(py, next.id, Value::Failed(error.into_value(py).into_any()));
            }
        }
        self.close_if_fed();
        Ok(())
    }

    fn call_if_missing(&self, py: Python<'_>) -> PyResult<()> {
        if self.missing.load(Ordering::Relaxed) > 0 { self.call_for_workers(py) } else { Ok(()) }
    }

    /// There is a task, and fewer workers than there may be.
    #[cold]
    fn call_for_workers(&self, py: Python<'_>) -> PyResult<()> {
        let call = self.call_workers.lock().as_ref().map(|call| call.clone_ref(py));
        call.map_or(Ok(()), |call| call.call0(py).map(drop))
    }

    /// The outcome of the task `id`. False if it is resolved already.
    pub(super) fn resolve(&self, py: Python<'_>, id: u64, value: Value) -> bool {
        let pending = self.table.lock().remove(id);
        let Some(pending) = pending else { return false };
        self.resolved.fetch_add(1, Ordering::Relaxed);
        if value.is_failure() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        match &pending.target {
            Target::Result(result, part) => AsyncResult::accept(result.bind(py), *part, value),
            Target::Stream(stream, number) => stream.bind(py).get().accept(*number, value),
            Target::Future(future) => FutureBase::accept(future.bind(py), value),
        }
        true
    }

    /// Takes all results that came, and delivers them.
    pub(super) fn collect(&self, py: Python<'_>) -> PyResult<()> {
        self.collect_beside(py, 0)
    }

    /// As [`Core::collect`], for a caller that is `own` of those that wait.
    fn collect_beside(&self, py: Python<'_>, own: usize) -> PyResult<()> {
        // A process that was forked off has no claim to them.
        if !self.owner.has_result() || self.owner.is_inherited() {
            return Ok(());
        }
        with_message(|message| {
            let mut parker = GilParker::new(py);
            while let Some(received) = self.owner.collect(message, &mut parker).map_err(pool_error)? {
                let Some((trailer, body)) = ResultTrailer::split(message) else { continue };
                // No worker has it any more: that it was cancelled is of no interest.
                self.owner.resolved(trailer.id);
                self.reported.fetch_add(1, Ordering::Relaxed);
                if trailer.outcome == Outcome::Cancelled {
                    continue; // who cancelled it resolves it
                }
                let raised = trailer.outcome == Outcome::Raised;
                let value = Value::of(py, raised, received.kind, body, received.spans);
                self.resolve(py, trailer.id, value);
            }
            if !self.held.lock().is_empty() {
                self.put_held(py)?;
            }
            if self.waiting.load(Ordering::Relaxed) > own {
                // Among what came may be what another thread waits for.
                self.owner.results_bell().ring_all();
            }
            Ok(())
        })
    }

    /// Waits until `done`, collecting. False if the deadline passed before.
    pub(super) fn wait(&self, py: Python<'_>, deadline: Deadline, done: impl Fn() -> bool) -> PyResult<bool> {
        if done() {
            return Ok(true);
        }
        self.check_process()?;
        let _counted = Counted::new(&self.waiting);
        let mut parker = GilParker::new(py);
        let ready = || done() || self.owner.has_result();
        let has_more = || self.owner.has_result();
        let outcome = self.owner.results_bell().wait_until(&mut parker, deadline, ready, has_more, |_| {
            if let Err(error) = self.collect_beside(py, 1) {
                return Some(Err(error));
            }
            done().then_some(Ok(()))
        });
        match outcome {
            Ok(done) => done.map(|()| true),
            Err(WaitError::TimedOut) => Ok(false),
            Err(WaitError::Interrupted(error)) => Err(error),
        }
    }

    /// Keeps a caller that puts tasks quicker than they are done from filling memory with them.
    pub(super) fn hold_back(&self, py: Python<'_>) -> PyResult<()> {
        const MOST: u64 = 16 << 10;
        if self.owner.has_result() {
            self.collect(py)?;
        }
        if self.owner.waiting().1 >= MOST {
            self.wait(py, Deadline::NEVER, || self.owner.waiting().1 < MOST / 2 || self.table.lock().sealed)?;
        }
        Ok(())
    }

    /// Says that a result is observed, before it is resolved: the service will be needed.
    pub(super) fn observe(&self, py: Python<'_>) -> PyResult<()> {
        self.observed.fetch_add(1, Ordering::SeqCst);
        self.call_service(py).inspect_err(|_| self.unobserve())
    }

    /// Takes [`Core::observe`] back.
    pub(super) fn unobserve(&self) {
        self.observed.fetch_sub(1, Ordering::SeqCst);
        self.owner.results_bell().ring_all();
    }

    /// A result that is observed has come.
    pub(super) fn defer(&self, py: Python<'_>, result: Py<AsyncResult>) {
        self.defer_any(py, Deferred::Result(result));
    }

    /// A watched future is over.
    pub(super) fn defer_future(&self, py: Python<'_>, future: Py<FutureBase>) {
        self.defer_any(py, Deferred::Future(future));
    }

    fn defer_any(&self, py: Python<'_>, deferred: Deferred) {
        self.deferred.lock().push_back(deferred);
        // A thread that cannot be started has been told of when the result was asked for.
        let _ = self.call_service(py);
    }

    /// Has the service look around.
    pub(super) fn call_service(&self, py: Python<'_>) -> PyResult<()> {
        if self.service_state.swap(ASKED, Ordering::SeqCst) == NEVER_ASKED {
            let start = self.start_service.lock().as_ref().map(|start| start.clone_ref(py));
            if let Some(start) = start
                && let Err(error) = start.call0(py)
            {
                self.service_state.store(NEVER_ASKED, Ordering::SeqCst);
                return Err(error);
            }
        }
        self.service.raise_all();
        self.owner.results_bell().ring_all();
        Ok(())
    }

    /// Enters a stream that the service feeds when nobody reads it.
    pub(super) fn add_stream(&self, py: Python<'_>, stream: Py<Stream>) -> PyResult<()> {
        self.streams.lock().push(stream);
        self.call_service(py)
    }

    /// Enters a stream that is fed as it is read.
    pub(super) fn add_lazy_stream(&self, stream: &Bound<'_, Stream>) -> PyResult<()> {
        self.unfed_lazy.fetch_add(1, Ordering::SeqCst);
        let py = stream.py();
        let weak = PyWeakrefReference::new(stream.as_any())?.unbind();
        let over: Vec<_> = {
            let mut lazy = self.lazy.lock();
            let over = lazy.extract_if(.., |weak| weak.bind(py).upgrade().is_none()).collect();
            lazy.push(weak);
            over
        };
        drop(over);
        Ok(())
    }

    /// A stream that is fed as it is read is fed, or nobody will read it.
    pub(super) fn lazy_stream_over(&self) {
        self.unfed_lazy.fetch_sub(1, Ordering::SeqCst);
        self.close_if_fed();
        self.owner.results_bell().ring_all();
    }

    /// The streams that are fed as they are read, from now on no longer known as such.
    fn take_lazy_streams<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, Stream>>> {
        let lazy = std::mem::take(&mut *self.lazy.lock());
        let streams = lazy.iter().map(|weak| weak.bind(py).upgrade_as::<Stream>());
        Ok(streams.collect::<PyResult<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// Has all streams fed, whether somebody reads them or not.
    fn hurry_streams(&self, py: Python<'_>) -> PyResult<()> {
        for stream in self.take_lazy_streams(py)? {
            if !stream.get().is_fed() {
                self.streams.lock().push(stream.clone().unbind());
                stream.get().hurry();
            }
        }
        if self.has_unfed_eager() { self.call_service(py) } else { Ok(()) }
    }

    /// Forgets the streams that are fed.
    pub(super) fn let_go_of_fed(&self) {
        let over: Vec<_> = {
            let mut kept = self.streams.lock();
            kept.extract_if(.., |stream| stream.get().is_fed()).collect()
        };
        drop(over);
    }

    fn feed_streams(&self, py: Python<'_>) {
        let streams: Vec<_> = {
            let streams = self.streams.lock();
            let mine = streams.iter().filter(|stream| !stream.get().has_feeder());
            mine.map(|stream| stream.clone_ref(py)).collect()
        };
        for stream in &streams {
            if let Err(error) = Stream::feed(stream.bind(py)) {
                error.write_unraisable(py, Some(stream.bind(py)));
            }
        }
        self.let_go_of_fed();
    }

    /// A stream is fed.
    pub(super) fn close_if_fed(&self) {
        if self.closing.load(Ordering::SeqCst) && !self.has_unfed() && self.held.lock().is_empty() {
            self.owner.close();
        }
    }

    /// Whether a stream has more to put: until then the pool cannot close its queue.
    fn has_unfed(&self) -> bool {
        self.unfed_lazy.load(Ordering::SeqCst) > 0 || self.has_unfed_eager()
    }

    fn has_unfed_eager(&self) -> bool {
        self.streams.lock().iter().any(|stream| !stream.get().is_fed())
    }

    /// Runs the callbacks of results that came.
    fn run_deferred(&self, py: Python<'_>) {
        loop {
            let next = self.deferred.lock().pop_front();
            match next {
                None => break,
                Some(Deferred::Result(result)) => AsyncResult::complete(result.bind(py)),
                Some(Deferred::Future(future)) => FutureBase::complete(future.bind(py)),
            }
            self.unobserve();
        }
    }
}

/// What gives a task its name in messages. Of a method, that is not the object: tasks keep none alive that the program
/// has let go of.
fn name_giver<'py>(function: &Bound<'py, PyAny>) -> Bound<'py, PyAny> {
    if function.is_exact_instance_of::<PyFunction>() || function.is_exact_instance_of::<PyType>() {
        return function.clone();
    }
    let py = function.py();
    let part = |name| function.getattr_opt(name).ok().flatten();
    if function.is_exact_instance_of::<PyCFunction>() {
        let bound = part(intern!(py, "__self__")).is_some_and(|of| !of.is_exact_instance_of::<PyModule>());
        return if bound { function.get_type().into_any() } else { function.clone() };
    }
    // Of a method, and of a partial.
    match part(intern!(py, "__func__")).or_else(|| part(intern!(py, "func"))) {
        Some(inner) => inner,
        None => function.get_type().into_any(),
    }
}

/// Counted as long as it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[pymethods]
impl Core {
    /// A pool without workers. `start_service` is called, once, when a thread is needed that runs `serve`, `call_workers` when
    /// a task was put and workers are `missing`.
    #[new]
    fn new(py: Python<'_>, start_service: Py<PyAny>, call_workers: Py<PyAny>) -> PyResult<Self> {
        let arena = own_arena(py)?;
        Ok(Self {
            owner: Owner::create(&arena).map_err(shm_error)?,
            pid: std::process::id(),
            references: Mutex::default(),
            table: Mutex::default(),
            held: Mutex::default(),
            turns: AtomicU64::new(0),
            deferred: Mutex::default(),
            observed: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            streams: Mutex::default(),
            lazy: Mutex::default(),
            unfed_lazy: AtomicUsize::new(0),
            reads: AtomicU64::new(0),
            service: Signal::new(),
            service_state: AtomicU32::new(NEVER_ASKED),
            state: AtomicU8::new(RUN),
            size: AtomicUsize::new(0),
            retries: AtomicU32::new(0),
            stopped: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            missing: AtomicUsize::new(0),
            retried: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            resolved: AtomicU64::new(0),
            put: AtomicU64::new(0),
            reported: AtomicU64::new(0),
            start_service: Mutex::new(Some(start_service)),
            broken: Mutex::default(),
            call_workers: Mutex::new(Some(call_workers)),
            on_unreadable: Mutex::default(),
        })
    }

    /// What a worker needs: the arena's id, and place and generation of the express, common and result queues and the board.
    fn handles(&self) -> (u64, [(u32, u64); 4]) {
        let handles = self.owner.handles();
        let of = |handle: weft_shm::Handle| (handle.unit, handle.generation);
        let all = [of(handles.express), of(handles.common), of(handles.results), of(handles.board)];
        (self.owner.arena().id(), all)
    }

    /// Have the thread that runs `serve` started, if it is not. Raises what starting it raises.
    fn ready_service(&self, py: Python<'_>) -> PyResult<()> {
        self.call_service(py)
    }

    /// Run what has to be done though nobody waits, until `stop`.
    fn serve(&self, py: Python<'_>) -> PyResult<()> {
        while !self.stopped.load(Ordering::Acquire) {
            self.collect(py)?;
            self.run_deferred(py);
            let reads = self.reads.load(Ordering::Relaxed);
            let has_streams = self.has_unfed_eager();
            if has_streams {
                self.feed_streams(py);
            }
            let has_deferred = || !self.deferred.lock().is_empty() || self.stopped.load(Ordering::Acquire);
            // Somebody else collects as long as somebody reads.
            let absent = |deadline| {
                let mut parker = GilParker::for_event(py);
                let outcome = wait_until(&self.service, &mut parker, deadline, has_deferred, |_| {
                    (has_deferred()
                        || (!has_streams && self.observed.load(Ordering::SeqCst) > 0)
                        || (!has_streams && self.has_unfed_eager()))
                    .then_some(())
                });
                match outcome {
                    Err(WaitError::Interrupted(error)) => Err(error),
                    _ => Ok(()),
                }
            };
            if self.observed.load(Ordering::SeqCst) > 0 {
                self.wait_for_result(py, Deadline::NEVER, has_deferred)?;
            } else if has_streams {
                absent(Deadline::after(ABSENCE))?;
                if self.reads.load(Ordering::Relaxed) == reads {
                    self.wait_for_result(py, Deadline::after(ABSENCE), has_deferred)?;
                }
            } else {
                absent(Deadline::NEVER)?;
            }
        }
        // What came last of all.
        self.run_deferred(py);
        Ok(())
    }

    /// End `serve`.
    fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.service.raise_all();
        self.owner.wake_all();
    }

    /// How many tasks are not resolved.
    fn outstanding(&self) -> usize {
        self.table.lock().count
    }

    /// How many tasks no worker has taken.
    fn queued(&self) -> u64 {
        let (express, common) = self.owner.waiting();
        express + common + self.held.lock().len() as u64
    }

    /// How many tasks were put that no worker has reported anything of, those counted that could not be sent.
    fn unanswered(&self) -> u64 {
        self.put.load(Ordering::Relaxed).saturating_sub(self.reported.load(Ordering::Relaxed))
    }

    /// How many tasks were resolved, how many of these failed, and how often one was put again.
    fn counts(&self) -> (u64, u64, u64) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (of(&self.resolved), of(&self.failed), of(&self.retried))
    }

    /// Say how many workers there could be more, if there were tasks for them.
    #[setter(missing)]
    fn set_missing(&self, missing: usize) {
        self.missing.store(missing, Ordering::Relaxed);
    }

    #[getter(missing)]
    fn get_missing(&self) -> usize {
        self.missing.load(Ordering::Relaxed)
    }

    /// Have `hook` called with the reason when the result of a future cannot be unpickled; it makes the failure.
    #[setter(on_unreadable)]
    fn set_on_unreadable(&self, hook: Py<PyAny>) {
        let before = self.on_unreadable.lock().replace(hook);
        drop(before);
    }

    /// Say whether tasks are taken: "RUN", "CLOSE" or "TERMINATE".
    #[setter(state)]
    pub(super) fn set_state_name(&self, name: &str) -> PyResult<()> {
        self.state.store(state_named(name)?, Ordering::SeqCst);
        Ok(())
    }

    #[getter(state)]
    pub(super) fn get_state_name(&self) -> &'static str {
        match self.state.load(Ordering::Relaxed) {
            RUN => "RUN",
            CLOSE => "CLOSE",
            _ => "TERMINATE",
        }
    }

    /// Let go of the callables: nothing will be started any more.
    fn forget_callers(&self) {
        let before = (
            self.start_service.lock().take(),
            self.call_workers.lock().take(),
            self.on_unreadable.lock().take(),
        );
        drop(before);
    }

    /// Whether something remains to be done: a task is not resolved, a stream not fed, or a callback not called.
    fn is_busy(&self) -> bool {
        self.has_work() || self.observed.load(Ordering::SeqCst) > 0
    }

    /// Whether there is, or will be, something for workers: a task is not resolved, or a stream not fed.
    fn has_work(&self) -> bool {
        self.table.lock().count > 0 || self.has_unfed()
    }

    /// Wait until `is_busy` is false; False if `timeout` seconds passed before.
    #[pyo3(signature = (timeout = None))]
    fn wait_idle(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let deadline = crate::queue::parker::deadline(true, timeout);
        self.hurry_streams(py)?;
        self.wait(py, deadline, || !self.is_busy())
    }

    /// Collect what came.
    fn collect_results(&self, py: Python<'_>) -> PyResult<()> {
        self.collect(py)
    }

    /// Say how many workers the pool has, which chunk sizes are made of.
    #[setter(size)]
    pub(super) fn set_size(&self, size: usize) {
        self.size.store(size, Ordering::Relaxed);
    }

    #[getter(size)]
    pub(super) fn get_size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    /// Say how often a task is done again whose worker died, if its caller did not.
    #[setter(retries)]
    fn set_retries(&self, retries: u32) {
        self.retries.store(retries, Ordering::Relaxed);
    }

    #[getter(retries)]
    pub(super) fn get_retries(&self) -> u32 {
        self.retries.load(Ordering::Relaxed)
    }

    // --- workers -----------------------------------------------------------------------------------------------

    /// A place for a new worker; RuntimeError if there are as many as can be.
    fn open_slot(&self) -> PyResult<usize> {
        self.check_process()?;
        self.owner.open_slot().ok_or_else(|| {
            PyRuntimeError::new_err(format!(
                "a pool cannot have more than {} workers",
                weft_pool::MOST_WORKERS
            ))
        })
    }

    /// The worker of this slot has ended. Returns the unresolved task it had in its hands, if any: its number, its
    /// function, and how often it may be done again.
    fn worker_ended(&self, py: Python<'_>, slot: usize) -> PyResult<Option<(u64, Py<PyAny>, u32)>> {
        self.owner.settle(&mut GilParker::new(py)).map_err(pool_error)?;
        self.collect(py)?;
        // No result may follow that would have the next ones put.
        self.put_held(py)?;
        let Some(at_hand) = self.owner.in_hand(slot) else { return Ok(None) };
        self.owner.resolved(at_hand.id);
        let mut table = self.table.lock();
        Ok(table.get(at_hand.id).map(|pending| {
            let left = pending.wishes.as_ref().map_or(0, |again| again.wishes.retries - again.retried);
            (at_hand.id, pending.function.clone_ref(py), left)
        }))
    }

    /// The place of a worker that ended, and whose task was dealt with, is free.
    fn close_slot(&self, slot: usize) {
        self.owner.close_slot(slot);
    }

    /// Put the task again. False if it is resolved, or there is nothing to put.
    fn retry(&self, py: Python<'_>, id: u64) -> PyResult<bool> {
        let again = {
            let mut table = self.table.lock();
            let Some(pending) = table.get(id) else { return Ok(false) };
            let Some(again) = pending.wishes.as_mut() else { return Ok(false) };
            again.retried += 1;
            self.retried.fetch_add(1, Ordering::Relaxed);
            (pending.function.clone_ref(py), again.call, again.arguments.clone_ref(py), again.wishes)
        };
        let (function, call, arguments, wishes) = again;
        if let Err(error) = self.post(py, id, function.bind(py), call, arguments.bind(py), wishes) {
            self.resolve(py, id, Value::Failed(error.into_value(py).into_any()));
        }
        Ok(true)
    }

    /// The task fails with `error`. False if it is resolved already.
    fn fail(&self, py: Python<'_>, id: u64, error: Py<PyAny>) -> bool {
        let failed = self.resolve(py, id, Value::Failed(error));
        self.owner.results_bell().ring_all();
        failed
    }

    /// All tasks that are not resolved fail; `make` makes the exception of each from its function.
    ///
    /// No task is taken any more.
    fn fail_all(&self, py: Python<'_>, make: &Bound<'_, PyAny>) -> PyResult<()> {
        self.table.lock().sealed = true;
        let fed: Vec<_> = std::mem::take(&mut *self.streams.lock());
        for stream in &fed {
            stream.get().end(make)?;
        }
        for stream in self.take_lazy_streams(py)? {
            stream.get().end(make)?;
        }
        let held = std::mem::take(&mut *self.held.lock());
        self.observed.fetch_sub(held.len(), Ordering::SeqCst);
        drop(held);
        let ids = self.table.lock().ids();
        for id in ids {
            let function = self.table.lock().get(id).map(|pending| pending.function.clone_ref(py));
            let Some(function) = function else { continue };
            let error = make.call1((function,))?;
            self.resolve(py, id, Value::Failed(error.unbind()));
        }
        self.owner.results_bell().ring_all();
        Ok(())
    }

    /// Take no more tasks, if all are resolved. False if they are not.
    fn seal(&self) -> bool {
        let mut table = self.table.lock();
        table.sealed |= table.count == 0;
        table.sealed
    }

    /// Whether no task is taken any more, and why: what `broken` was set to.
    #[setter(broken)]
    fn set_broken(&self, error: Py<PyAny>) {
        let before = self.broken.lock().replace(error);
        drop(before);
    }

    /// Take back all tasks that no worker has taken, and have them fail; `make` makes the exceptions. Returns how many.
    fn fail_queued(&self, py: Python<'_>, make: &Bound<'_, PyAny>) -> PyResult<usize> {
        let mut taken: Vec<u64> = {
            let held = std::mem::take(&mut *self.held.lock());
            self.observed.fetch_sub(held.len(), Ordering::SeqCst);
            held.into_sorted_vec().iter().rev().map(|held| held.id).collect()
        };
        for express in [false, true] {
            with_message(|message| {
                let mut parker = GilParker::new(py);
                while let Some((id, _)) =
                    self.owner.take_back(express, message, &mut parker).map_err(pool_error)?
                {
                    taken.push(id);
                }
                Ok::<_, PyErr>(())
            })?;
        }
        let mut count = 0;
        for id in taken {
            self.owner.resolved(id);
            let function = self.table.lock().get(id).map(|pending| pending.function.clone_ref(py));
            let Some(function) = function else { continue };
            let error = make.call1((function,))?;
            count += usize::from(self.resolve(py, id, Value::Failed(error.unbind())));
        }
        self.owner.results_bell().ring_all();
        Ok(count)
    }

    /// RuntimeError in a process that was forked off the owner.
    fn check(&self) -> PyResult<()> {
        self.check_process()
    }

    /// Take back the tasks that no worker has taken, as cancelled, but for the first `kept`.
    fn cancel_queued(&self, py: Python<'_>, kept: usize) -> PyResult<()> {
        let mut withdrawn = Vec::new();
        let mut again = Vec::new();
        for express in [true, false] {
            with_message(|message| {
                let mut parker = GilParker::new(py);
                while let Some((id, received)) =
                    self.owner.take_back(express, message, &mut parker).map_err(pool_error)?
                {
                    if again.len() < kept && self.table.lock().get(id).is_some() {
                        again.push((express, message.clone(), received));
                    } else {
                        self.owner.resolved(id);
                        withdrawn.extend(self.table.lock().remove(id));
                    }
                }
                Ok::<_, PyErr>(())
            })?;
        }
        for (express, message, mut received) in again {
            let mut parker = GilParker::deaf(py);
            self.owner
                .post(express, received.kind, &message, &mut received.spans, &mut parker)
                .map_err(pool_error)?;
        }
        for pending in withdrawn {
            if let Target::Future(future) = &pending.target {
                FutureBase::withdrawn(future.bind(py))?;
            }
        }
        Ok(())
    }

    /// The futures that are not resolved, by the number of the task.
    fn futures(&self, py: Python<'_>) -> Vec<(u64, Py<FutureBase>)> {
        let table = self.table.lock();
        let numbered = table.entries.iter().enumerate();
        let futures = numbered.filter_map(|(index, entry)| match &entry.pending.as_ref()?.target {
            Target::Future(future) => {
                Some((u64::from(entry.generation) << 32 | index as u64, future.clone_ref(py)))
            }
            _ => None,
        });
        futures.collect()
    }

    /// Keep the task from being begun. Returns None if no worker will do it, the slot of the worker that does it, or -1
    /// if it is resolved. Who cancels a task has to resolve it.
    pub(super) fn cancel(&self, py: Python<'_>, id: u64) -> PyResult<Option<i64>> {
        self.check_process()?;
        loop {
            self.collect(py)?;
            if self.table.lock().get(id).is_none() {
                return Ok(Some(-1));
            }
            match self.owner.cancel(id) {
                Cancelling::Running(slot) => return Ok(Some(slot as i64)),
                Cancelling::Done => {
                    // A result that came meanwhile counts.
                    self.collect(py)?;
                    let resolved = self.table.lock().get(id).is_none();
                    return Ok(resolved.then_some(-1));
                }
                Cancelling::NoRoom => self.sort_out(py)?,
            }
        }
    }

    /// Let the worker of a slot end when its task is done.
    fn dismiss(&self, slot: usize) {
        self.owner.dismiss(slot);
    }

    /// The number of the task that a worker has begun and not finished, as far as is known.
    fn running(&self, py: Python<'_>, slot: usize) -> PyResult<Option<u64>> {
        self.collect(py)?;
        let at_hand = self.owner.in_hand(slot).filter(|at_hand| at_hand.begun);
        let mut table = self.table.lock();
        Ok(at_hand.map(|at_hand| at_hand.id).filter(|&id| table.get(id).is_some()))
    }

    /// The number of the task that a worker took last, as far as is known; it may be done.
    fn at_hand(&self, slot: usize) -> Option<u64> {
        self.owner.in_hand(slot).map(|at_hand| at_hand.id)
    }

    /// Whether the worker of a slot has ever been ready for tasks.
    fn has_arrived(&self, slot: usize) -> bool {
        self.owner.has_arrived(slot)
    }

    /// How many tasks the worker of a slot has done.
    fn done(&self, slot: usize) -> u64 {
        self.owner.done(slot)
    }

    /// Let the worker do no other task after this one. False if it has done it.
    fn condemn(&self, slot: usize, id: u64) -> bool {
        self.owner.condemn(slot, id)
    }

    /// Note that the signal that is sent to the worker next is meant for this task.
    fn mark_interrupted(&self, slot: usize, id: u64) {
        self.owner.interrupt(slot, id);
    }

    /// The unresolved tasks with a limit on their time: number, and how many seconds are left at the earliest.
    ///
    /// A task that waits has all of its time left. `slots` are those of the living workers.
    fn time_left(&self, slots: Vec<usize>) -> Vec<(u64, Option<usize>, f64)> {
        let now = weft_pool::now();
        let timed: Vec<(u64, u64)> = {
            let table = self.table.lock();
            let limits = table.entries.iter().enumerate().filter_map(|(index, entry)| {
                let again = entry.pending.as_ref()?.wishes.as_ref()?;
                let id = u64::from(entry.generation) << 32 | index as u64;
                (again.wishes.timeout != 0).then_some((id, again.wishes.timeout))
            });
            limits.collect()
        };
        let of = |id, timeout: u64| {
            let running =
                slots.iter().find_map(|&slot| self.owner.began(slot, id).map(|began| (slot, began)));
            match running {
                None => (id, None, timeout as f64 / 1e9),
                Some((slot, began)) => (id, Some(slot), (began as f64 + timeout as f64 - now as f64) / 1e9),
            }
        };
        timed.into_iter().map(|(id, timeout)| of(id, timeout)).collect()
    }

    /// The function of an unresolved task, and the seconds it may run.
    fn limit_of(&self, py: Python<'_>, id: u64) -> Option<(Py<PyAny>, f64)> {
        let mut table = self.table.lock();
        let pending = table.get(id)?;
        let timeout = pending.wishes.as_ref().map_or(0, |again| again.wishes.timeout);
        Some((pending.function.clone_ref(py), timeout as f64 / 1e9))
    }

    /// Let workers end that find no task, as soon as all streams are fed.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.check_process()?;
        self.closing.store(true, Ordering::SeqCst);
        self.close_if_fed();
        if self.has_unfed_eager() { self.call_service(py) } else { Ok(()) }
    }

    /// Wake all that wait for anything.
    fn wake(&self) {
        self.owner.wake_all();
    }
}

impl Core {
    /// Takes all tasks out of the queues and puts those again that were not cancelled, in their order: the table of
    /// cancelled ones is full.
    fn sort_out(&self, py: Python<'_>) -> PyResult<()> {
        for express in [false, true] {
            let mut kept = Vec::new();
            with_message(|message| {
                // Not to be interrupted: nobody else knows of what was taken back.
                let mut parker = GilParker::deaf(py);
                while let Some((id, received)) =
                    self.owner.take_back(express, message, &mut parker).map_err(pool_error)?
                {
                    if self.table.lock().get(id).is_some() {
                        kept.push((id, message.clone(), received));
                    } else {
                        self.owner.resolved(id);
                    }
                }
                for (id, message, received) in &mut kept {
                    let posted =
                        self.owner.post(express, received.kind, message, &mut received.spans, &mut parker);
                    if let Err(error) = posted {
                        let error = pool_error(error).into_value(py).into_any();
                        self.resolve(py, *id, Value::Failed(error));
                    }
                }
                Ok::<_, PyErr>(())
            })?;
        }
        Ok(())
    }

    /// Keeps the task from being begun, and forgets it. False if it was begun, or is resolved.
    pub(super) fn withdraw(&self, py: Python<'_>, id: u64) -> PyResult<bool> {
        if self.cancel(py, id)?.is_some() {
            return Ok(false);
        }
        let withdrawn = self.table.lock().remove(id);
        Ok(withdrawn.is_some())
    }

    /// The failure of a future whose result cannot be unpickled.
    pub(super) fn unreadable(&self, py: Python<'_>, error: PyErr) -> Py<PyAny> {
        let hook = self.on_unreadable.lock().as_ref().map(|hook| hook.clone_ref(py));
        match hook {
            None => value::unreadable(py, error),
            Some(hook) => match hook.call1(py, (error.into_value(py),)) {
                Ok(failure) => failure,
                Err(error) => error.into_value(py).into_any(),
            },
        }
    }

    /// Waits at the bell until there is a result, or `called`, and takes nothing.
    fn wait_for_result(&self, py: Python<'_>, deadline: Deadline, called: impl Fn() -> bool) -> PyResult<()> {
        let mut parker = GilParker::for_event(py);
        let ready = || called() || self.owner.has_result() || self.observed.load(Ordering::SeqCst) == 0;
        let signal = self.owner.results_bell().signal();
        match wait_until(signal, &mut parker, deadline, ready, |_| ready().then_some(())) {
            Err(WaitError::Interrupted(error)) => Err(error),
            _ => Ok(()),
        }
    }
}

/// The tuple of no arguments, for callers that give none.
pub(super) fn no_arguments(py: Python<'_>) -> Bound<'_, PyAny> {
    PyTuple::empty(py).into_any()
}
