//! The loop of a worker process: take a task, do it, report.
//!
//! It holds the GIL but while it waits. What a task raises is its outcome; what is no `Exception` ends the worker, unless
//! the pool's manners are those of futures, or it is Ctrl-C, which ends the task only.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use pyo3::exceptions::{PyException, PyKeyboardInterrupt};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use weft_pool::{Call, Handles, Outcome, Taken, TaskTrailer};
use weft_shm::Handle;
use weft_wait::Deadline;

use super::core::{pool_error, with_message};
use super::functions::Functions;
use super::value::helper;
use crate::queue::arenas::{find_arena, shm_error};
use crate::queue::codec::{self, Failure, Message, Spans};
use crate::queue::parker::{GilParker, deadline};
use crate::shared::sending::Sending;

/// A worker of a pool, in its own process.
#[pyclass(frozen, name = "Worker", module = "weft._native._pool")]
pub(crate) struct Worker {
    pool: weft_pool::Worker,
    functions: Mutex<Functions>,
    /// The number of the task at hand plus one; 0 if there is none.
    at_hand: AtomicU64,
    /// How many tasks it has done.
    done: AtomicU64,
    /// Whether everything that a task raises is sent back, and what cannot be pickled fails with what the pickler raised.
    sends_all: bool,
    /// Whether a task that cannot be unpickled ends the worker.
    strict: bool,
}

impl Worker {
    /// The function and the arguments of a task.
    fn unpickle<'py>(
        &self,
        py: Python<'py>,
        kind: u8,
        reference: &[u8],
        body: &[u8],
        mut spans: Spans,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let decoded = if codec::is_plain(kind, &spans) {
            codec::decode(py, kind, body, &mut spans)
        } else {
            codec::decode_again(py, Message::new(kind, body.to_vec(), spans))
        };
        let arguments = decoded.map_err(|(error, _)| error)?;
        if reference.is_empty() {
            return arguments.extract();
        }
        let mut functions = std::mem::take(&mut *self.functions.lock());
        let found = functions.find(py, reference);
        *self.functions.lock() = functions;
        Ok((found?, arguments))
    }

    /// What the call returned, or raised.
    fn perform<'py>(
        &self,
        py: Python<'py>,
        call: Call,
        function: &Bound<'py, PyAny>,
        arguments: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match call {
            Call::Item => function.call1((arguments,)),
            Call::Arguments => function.call1(tuple_of(&arguments)?),
            Call::Named => {
                let (positional, named): (Bound<'py, PyAny>, Bound<'py, PyAny>) = arguments.extract()?;
                let keywords = match named.cast_into::<PyDict>() {
                    Ok(keywords) => keywords,
                    // Whatever `**` takes.
                    Err(error) => py.get_type::<PyDict>().call1((error.into_inner(),))?.cast_into()?,
                };
                function.call(tuple_of(&positional)?, Some(&keywords))
            }
            Call::Items => {
                let results = PyList::empty(py);
                for item in arguments.cast::<PyTuple>()? {
                    results.append(function.call1((item,))?)?;
                }
                Ok(results.into_any())
            }
            Call::Tuples => {
                let results = PyList::empty(py);
                for item in arguments.cast::<PyTuple>()? {
                    results.append(function.call1(tuple_of(&item)?)?)?;
                }
                Ok(results.into_any())
            }
        }
    }

    /// Reports a value; one that cannot be pickled becomes a failure that says so.
    fn report(&self, py: Python<'_>, id: u64, outcome: Outcome, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let failure = match self.send(py, id, outcome, value) {
            Ok(()) => return Ok(()),
            Err(Failure::Memory(error) | Failure::Pickle(error)) => error,
        };
        let refused = failure.is_instance_of::<PyException>(py);
        let failure = failure.into_value(py);
        let described = match (self.sends_all, refused) {
            (false, _) => helper(py, "undeliverable")?.call1((failure, value))?,
            (true, true) => helper(py, "undelivered")?.call1((failure, value))?,
            (true, false) => helper(py, "describe")?.call1((failure,))?,
        };
        self.send(py, id, Outcome::Raised, &described).map_err(|failure| match failure {
            Failure::Memory(error) | Failure::Pickle(error) => error,
        })
    }

    fn send(
        &self,
        py: Python<'_>,
        id: u64,
        outcome: Outcome,
        value: &Bound<'_, PyAny>,
    ) -> Result<(), Failure> {
        with_message(|message| {
            let mut spans = Spans::new();
            let results = self.pool.results();
            let sending = Sending::into(results.arena().id(), results.handle());
            let kind = codec::encode(value, self.pool.arena(), message, &mut spans)?;
            let sent = sending.pickled();
            // Not to be interrupted: the result would be lost.
            let mut parker = GilParker::deaf(py);
            self.pool
                .report(id, outcome, kind, message, &mut spans, &mut parker)
                .map_err(|error| Failure::Memory(pool_error(error)))?;
            sent.done();
            Ok(())
        })
    }

    fn skip(&self, py: Python<'_>, id: u64) -> PyResult<()> {
        let mut parker = GilParker::deaf(py);
        self.pool
            .report(id, Outcome::Cancelled, 1, &mut Vec::new(), &mut Spans::new(), &mut parker)
            .map_err(pool_error)
    }

    /// Does one task. False, or an error, ends the worker.
    fn work(&self, py: Python<'_>, message: &[u8], kind: u8, spans: Spans) -> PyResult<bool> {
        let Some((trailer, reference, body)) = TaskTrailer::split(message) else {
            return Err(pool_error(weft_pool::PoolError::Memory(weft_shm::ShmError::Damaged {
                what: "a task is cut short",
            })));
        };
        let id = trailer.id;
        if !self.pool.begin(id, trailer.timed) {
            return self.skip(py, id).map(|()| true);
        }
        self.at_hand.store(id + 1, Ordering::SeqCst);
        let outcome = match self.unpickle(py, kind, reference, body, spans) {
            Ok((function, arguments)) => self.perform(py, trailer.call, &function, arguments),
            Err(error) if self.strict => return Err(error),
            Err(error) => Err(error),
        };
        self.at_hand.store(0, Ordering::SeqCst);
        if !self.pool.finish(id) {
            return Ok(false);
        }
        match outcome {
            Ok(value) => self.report(py, id, Outcome::Returned, &value).map(|()| true),
            Err(error)
                if self.sends_all
                    || error.is_instance_of::<PyException>(py)
                    || error.is_instance_of::<PyKeyboardInterrupt>(py) =>
            {
                // With its traceback.
                let described = helper(py, "describe")?.call1((error.into_value(py),))?;
                self.report(py, id, Outcome::Raised, &described).map(|()| true)
            }
            Err(error) => Err(error),
        }
    }
}

fn tuple_of<'py>(arguments: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyTuple>> {
    match arguments.cast_exact::<PyTuple>() {
        Ok(tuple) => Ok(tuple.clone()),
        Err(_) => arguments
            .try_iter()?
            .collect::<PyResult<Vec<_>>>()
            .and_then(|items| PyTuple::new(arguments.py(), items)),
    }
}

#[pymethods]
impl Worker {
    /// Attach to the pool with these handles, at the slot that was opened for this worker.
    #[new]
    fn new(
        py: Python<'_>,
        handles: (u64, [(u32, u64); 4]),
        slot: usize,
        sends_all: bool,
        strict: bool,
    ) -> PyResult<Self> {
        let (arena, [express, common, results, board]) = handles;
        let arena = find_arena(py, arena)?;
        let of = |(unit, generation)| Handle { unit, generation };
        let handles =
            Handles { express: of(express), common: of(common), results: of(results), board: of(board) };
        let pool = weft_pool::Worker::attach(&arena, handles, slot).map_err(shm_error)?;
        Ok(Self {
            pool,
            functions: Mutex::default(),
            at_hand: AtomicU64::new(0),
            done: AtomicU64::new(0),
            sends_all,
            strict,
        })
    }

    /// Do tasks, until `most` are done (None: any number), there will be none, or the pool wants this worker to end.
    ///
    /// Returns "over", "dismissed", "stopped" or "worn"; "idle" if there was no task for `patience` seconds.
    ///
    /// "grown" is one whose process takes more than `memory` bytes after a task.
    #[pyo3(signature = (most = None, patience = None, memory = None))]
    fn serve(
        &self,
        py: Python<'_>,
        most: Option<u64>,
        patience: Option<f64>,
        memory: Option<u64>,
    ) -> PyResult<&'static str> {
        self.pool.arrive();
        while most.is_none_or(|most| self.done.load(Ordering::Relaxed) < most) {
            let until = patience.map_or(Deadline::NEVER, |seconds| deadline(true, Some(seconds)));
            let outcome = with_message(|message| {
                let mut parker = GilParker::new(py);
                match self.pool.take(message, &mut parker, until) {
                    Ok(Taken::Task(received)) => {
                        let goes_on = self.work(py, message, received.kind, received.spans)?;
                        Ok((!goes_on).then_some("stopped"))
                    }
                    Ok(Taken::Over) => Ok(Some("over")),
                    Ok(Taken::Dismissed) => Ok(Some("dismissed")),
                    Err(weft_pool::PoolError::TimedOut) => Ok(Some("idle")),
                    Err(error) => Err(pool_error(error)),
                }
            })?;
            if let Some(reason) = outcome {
                return Ok(reason);
            }
            self.done.fetch_add(1, Ordering::Relaxed);
            if memory.is_some_and(|most| weft_pool::memory_in_use().is_some_and(|now| now > most)) {
                return Ok("grown");
            }
        }
        Ok("worn")
    }

    /// An interrupting signal came: whether it is for the task at hand. Everybody's Ctrl-C is, the pool's own is for
    /// the task it was sent for only.
    fn is_interrupted(&self) -> bool {
        let asked = self.pool.interrupted();
        match self.at_hand.load(Ordering::SeqCst).checked_sub(1) {
            None => false,
            Some(at_hand) => asked.is_none_or(|asked| asked == at_hand),
        }
    }
}
