//! A result that somebody may wait for: of one call, or of many.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyListMethods};

use super::core::Core;
use super::value::{Opened, Value, helper};
use crate::queue::parker::deadline;

/// The result of `apply_async`, `map_async` and `starmap_async`; see `multiprocessing.pool.AsyncResult`.
#[pyclass(frozen, subclass, weakref, name = "AsyncResult", module = "weft._native._pool")]
pub(crate) struct AsyncResult {
    core: Py<Core>,
    /// Kept as long as somebody may ask for the result, or the task is under way.
    _pool: Py<PyAny>,
    /// Everything has come, and the callbacks have been called.
    done: AtomicBool,
    /// A thread is unpickling the value.
    opening: AtomicBool,
    state: Mutex<State>,
}

struct State {
    /// The value of a single call, the first failure of many, or, once asked for, the list.
    value: Value,
    many: Option<Many>,
    observers: Option<Box<Observers>>,
    /// Its last part has come; or never will, because it could not be put.
    complete: bool,
    /// The number of the task, of the first one if there are many.
    id: Option<u64>,
}

/// What is known of a result of many calls.
struct Many {
    parts: Vec<Value>,
    left: usize,
    /// How many calls a part is of, the last one of fewer.
    chunk: usize,
    /// How many calls there are, and how many of them are over.
    calls: usize,
    over: usize,
}

impl Many {
    /// The first call of a part, and how many it is of.
    fn calls_of(&self, part: u32) -> (usize, usize) {
        let first = part as usize * self.chunk;
        (first, self.chunk.min(self.calls.saturating_sub(first)))
    }
}

/// Who is told.
#[derive(Default)]
pub(super) struct Observers {
    callback: Option<Py<PyAny>>,
    error_callback: Option<Py<PyAny>>,
    /// Called with the number of calls that are over, and of all, whenever some are.
    progress: Option<Py<PyAny>>,
    /// Called with the result itself when it is done.
    then: Vec<Py<PyAny>>,
}

impl Observers {
    /// Those callbacks; `None` if there is none.
    pub(super) fn of(
        callback: Option<Py<PyAny>>,
        error_callback: Option<Py<PyAny>>,
        progress: Option<Py<PyAny>>,
    ) -> Option<Box<Self>> {
        (callback.is_some() || error_callback.is_some() || progress.is_some())
            .then(|| Box::new(Self { callback, error_callback, progress, then: Vec::new() }))
    }
}

impl AsyncResult {
    fn with(
        core: &Bound<'_, Core>,
        pool: &Bound<'_, PyAny>,
        many: Option<Many>,
        observers: Option<Box<Observers>>,
    ) -> Self {
        Self {
            core: core.clone().unbind(),
            _pool: pool.clone().unbind(),
            done: AtomicBool::new(many.as_ref().is_some_and(|many| many.left == 0)),
            opening: AtomicBool::new(false),
            state: Mutex::new(State { value: Value::None, many, observers, complete: false, id: None }),
        }
    }

    /// For one call.
    pub(super) fn single(
        core: &Bound<'_, Core>,
        pool: &Bound<'_, PyAny>,
        observers: Option<Box<Observers>>,
    ) -> Self {
        Self::with(core, pool, None, observers)
    }

    /// For so many calls, `chunk` of them a task.
    pub(super) fn many(
        core: &Bound<'_, Core>,
        pool: &Bound<'_, PyAny>,
        calls: usize,
        chunk: usize,
        observers: Option<Box<Observers>>,
    ) -> Self {
        let left = calls.div_ceil(chunk);
        let parts = (0..left).map(|_| Value::None).collect();
        Self::with(core, pool, Some(Many { parts, left, chunk, calls, over: 0 }), observers)
    }

    /// A task of it could not be put, and its caller gets no result. Nobody is told of anything, unless the last of it has come
    /// all the same, because the pool ended meanwhile.
    pub(super) fn abandon(&self, py: Python<'_>) {
        let observers = {
            let mut state = self.state.lock();
            if std::mem::replace(&mut state.complete, true) { None } else { state.observers.take() }
        };
        if observers.is_some() {
            self.core.bind(py).get().unobserve();
        }
    }

    /// The calls of a part of many: the first one, and how many.
    pub(super) fn calls_of(&self, part: u32) -> Option<(usize, usize)> {
        self.state.lock().many.as_ref().map(|many| many.calls_of(part))
    }

    pub(super) fn set_id(&self, id: u64) {
        self.state.lock().id = Some(id);
    }

    #[inline]
    pub(super) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Takes the outcome of a part.
    pub(super) fn accept(slf: &Bound<'_, Self>, part: u32, value: Value) {
        let this = slf.get();
        let core = this.core.bind(slf.py()).get();
        let (complete, observed, superfluous) = {
            let mut state = this.state.lock();
            let state = &mut *state;
            let mut superfluous = None;
            let complete = match &mut state.many {
                None => {
                    state.value = value;
                    true
                }
                Some(many) => {
                    many.left -= 1;
                    many.over += many.calls_of(part).1;
                    let complete = many.left == 0;
                    if value.is_failure() {
                        if matches!(state.value, Value::None) {
                            state.value = value;
                        } else {
                            superfluous = Some(value);
                        }
                    } else if let Some(place) = many.parts.get_mut(part as usize) {
                        *place = value;
                    }
                    complete
                }
            };
            if let Some(many) = &state.many
                && state.observers.as_ref().is_some_and(|observers| observers.progress.is_some())
            {
                // Under the lock, which orders them: the numbers rise.
                core.defer_progress(slf.clone().unbind(), many.over, many.calls);
            }
            state.complete |= complete;
            (complete, state.observers.is_some(), superfluous)
        };
        drop(superfluous);
        if !complete {
            return;
        }
        if observed {
            core.defer(slf.py(), slf.clone().unbind());
        } else {
            this.done.store(true, Ordering::Release);
        }
    }

    /// Tells how much of it is over. In the service's thread.
    pub(super) fn tell(slf: &Bound<'_, Self>, over: usize, calls: usize) {
        let (this, py) = (slf.get(), slf.py());
        let progress = {
            let state = this.state.lock();
            let observers = state.observers.as_ref();
            observers.and_then(|observers| Some(observers.progress.as_ref()?.clone_ref(py)))
        };
        if let Some(progress) = progress
            && let Err(error) = progress.bind(py).call1((over, calls))
        {
            error.write_unraisable(py, Some(progress.bind(py)));
        }
    }

    /// Calls the callbacks, and is done. In the service's thread.
    pub(super) fn complete(slf: &Bound<'_, Self>) {
        let (this, py) = (slf.get(), slf.py());
        let observers = this.state.lock().observers.take();
        if let Some(observers) = &observers
            && (observers.callback.is_some() || observers.error_callback.is_some())
        {
            let called = this.open(py).and_then(|opened| {
                match (&opened, &observers.callback, &observers.error_callback) {
                    (Opened::Returned(value), Some(callback), _) => {
                        callback.bind(py).call1((value,)).map(drop)
                    }
                    (Opened::Failed(error), _, Some(callback)) => callback.bind(py).call1((error,)).map(drop),
                    _ => Ok(()),
                }
            });
            if let Err(error) = called {
                // As of a thread's: nobody is there to catch it, and other results wait.
                error.write_unraisable(py, observers.callback.as_ref().map(|callback| callback.bind(py)));
            }
        }
        // Whoever comes later sees that it is done: it defers the result once more then.
        let later = {
            let mut state = this.state.lock();
            this.done.store(true, Ordering::Release);
            state.observers.take()
        };
        if later.is_some() {
            this.core.bind(py).get().unobserve(); // they came meanwhile, and were counted for themselves
        }
        for observers in observers.into_iter().chain(later) {
            for then in &observers.then {
                if let Err(error) = then.bind(py).call1((slf,)) {
                    error.write_unraisable(py, Some(then.bind(py)));
                }
            }
        }
    }

    /// The value, unpickled.
    fn open(&self, py: Python<'_>) -> PyResult<Opened> {
        while self.opening.swap(true, Ordering::Acquire) {
            // Another thread is at it; it holds no lock meanwhile, and gives the interpreter up now and then.
            let core = self.core.bind(py).get();
            core.wait(py, weft_wait::Deadline::NEVER, || !self.opening.load(Ordering::Acquire))?;
        }
        let _opening = Opening(self, py);
        let (value, many) = {
            let mut state = self.state.lock();
            match &state.value {
                Value::Returned(object) => return Ok(Opened::Returned(object.clone_ref(py))),
                Value::Failed(error) => return Ok(Opened::Failed(error.clone_ref(py))),
                _ => {}
            }
            let value = std::mem::replace(&mut state.value, Value::None);
            let many = if value.is_failure() { None } else { state.many.take() };
            (value, many)
        };
        let opened = match many {
            None => value.open(py).map_err(|(error, value)| {
                self.state.lock().value = value;
                error
            })?,
            Some(mut many) => match list_of(py, &mut many) {
                Ok(opened) => opened,
                Err(error) => {
                    self.state.lock().many = Some(many);
                    return Err(error);
                }
            },
        };
        let (kept, result) = match opened {
            Opened::Returned(object) => (Value::Returned(object.clone_ref(py)), Opened::Returned(object)),
            Opened::Failed(error) => (Value::Failed(error.clone_ref(py)), Opened::Failed(error)),
        };
        let before = {
            let mut state = self.state.lock();
            (std::mem::replace(&mut state.value, kept), state.many.take())
        };
        drop(before);
        Ok(result)
    }

    fn wait_until_done(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        self.core.bind(py).get().wait(py, deadline(true, timeout), || self.is_done())
    }

    /// As `get`.
    pub(super) fn get_value(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        if !self.wait_until_done(py, timeout)? {
            return Err(PyErr::from_value(helper(py, "timed_out")?.call0()?));
        }
        self.open(py)?.into_result(py)
    }
}

/// While a thread unpickles a value.
struct Opening<'a, 'py>(&'a AsyncResult, Python<'py>);

impl Drop for Opening<'_, '_> {
    fn drop(&mut self) {
        self.0.opening.store(false, Ordering::Release);
        self.0.core.bind(self.1).get().owner.results_bell().ring_all();
    }
}

/// The results of all parts in their order, or the first failure. What was opened already stays so.
fn list_of(py: Python<'_>, many: &mut Many) -> PyResult<Opened> {
    for part in &mut many.parts {
        if matches!(part, Value::Returned(_)) {
            continue;
        }
        match std::mem::replace(part, Value::None).open(py) {
            Ok(Opened::Failed(error)) => return Ok(Opened::Failed(error)),
            Ok(opened) => *part = opened.into_value(),
            Err((error, value)) => {
                *part = value;
                return Err(error);
            }
        }
    }
    let objects = many.parts.iter().filter_map(|part| match part {
        Value::Returned(object) => Some(object.bind(py)),
        _ => None,
    });
    if many.chunk == 1 {
        let objects: Vec<_> = objects.collect();
        return Ok(Opened::Returned(PyList::new(py, objects)?.into_any().unbind()));
    }
    let mut parts = objects;
    let Some(first) = parts.next() else {
        return Ok(Opened::Returned(PyList::empty(py).into_any().unbind()));
    };
    let list = first.cast::<PyList>()?;
    for part in parts {
        let end = list.len();
        list.set_slice(end, end, part)?;
    }
    Ok(Opened::Returned(first.clone().unbind()))
}

#[pymethods]
impl AsyncResult {
    /// Return the result when it has come, or raise the exception that the call raised.
    ///
    /// Waits `timeout` seconds (None: for ever), and raises `multiprocessing.TimeoutError` then. A call whose worker
    /// died raises `weft.WorkerDied`.
    #[pyo3(signature = (timeout = None))]
    fn get(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        self.get_value(py, timeout)
    }

    /// Wait until the result has come, `timeout` seconds at most (None: for ever).
    #[pyo3(signature = (timeout = None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        self.wait_until_done(py, timeout).map(drop)
    }

    /// Whether the result has come.
    fn ready(&self, py: Python<'_>) -> PyResult<bool> {
        if !self.is_done() {
            self.core.bind(py).get().collect(py)?;
        }
        Ok(self.is_done())
    }

    /// Whether the call returned rather than raised. ValueError if the result has not come.
    fn successful(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let py = slf.py();
        if !slf.get().ready(py)? {
            return Err(PyValueError::new_err(format!("{} not ready", slf.repr()?)));
        }
        Ok(matches!(slf.get().open(py)?, Opened::Returned(_)))
    }

    /// The exception, or None if the call returned. As `get`, but for that.
    #[pyo3(signature = (timeout = None))]
    fn _exception(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Py<PyAny>>> {
        if !self.wait_until_done(py, timeout)? {
            return Err(PyErr::from_value(helper(py, "timed_out")?.call0()?));
        }
        Ok(match self.open(py)? {
            Opened::Returned(_) => None,
            Opened::Failed(error) => Some(error),
        })
    }

    /// Have `then` called with this result, in another thread, when it is done.
    fn _then(slf: &Bound<'_, Self>, then: Py<PyAny>) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        let core = this.core.bind(py).get();
        // Counted before it can be told.
        core.observe(py)?;
        let (first, done) = {
            let mut state = this.state.lock();
            let first = state.observers.is_none();
            state.observers.get_or_insert_default().then.push(then);
            (first, this.is_done())
        };
        if !first {
            core.unobserve();
        } else if done {
            core.defer(py, slf.clone().unbind());
        }
        Ok(())
    }

    /// The number of its task, if it is one.
    #[getter]
    fn _id(&self) -> Option<u64> {
        self.state.lock().id
    }

    #[getter]
    fn _core(&self, py: Python<'_>) -> Py<Core> {
        self.core.clone_ref(py)
    }
}
