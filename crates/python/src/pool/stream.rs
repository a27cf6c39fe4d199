//! Results as an iterator: `imap` and its like.
//!
//! The source is read as results are: at most `window` chunks are out at a time, so neither an endless source nor a million
//! results fill memory. An *eager* stream counts only what no worker has done, as the standard library's users
//! expect: all of it is done, whether somebody reads or not, and the service feeds it when nobody does.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use pyo3::exceptions::{PyException, PyStopIteration};
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyTuple};
use weft_pool::Call;

use super::core::{Core, Target, Wishes};
use super::value::{Value, helper};
use crate::queue::parker::deadline;

/// An iterator over results; see `multiprocessing.pool.IMapIterator`.
#[pyclass(frozen, weakref, name = "IMapIterator", module = "weft._native._pool")]
pub(crate) struct Stream {
    core: Py<Core>,
    function: Py<PyAny>,
    call: Call,
    chunk: usize,
    ordered: bool,
    eager: bool,
    window: u64,
    wishes: Wishes,
    state: Mutex<State>,
    /// How many outcomes came.
    came: AtomicU64,
    /// A thread is reading the source.
    feeding: AtomicBool,
    fed: AtomicBool,
}

struct State {
    source: Option<Py<PyIterator>>,
    /// Chunks that were put.
    put: u64,
    /// Chunks whose outcome was taken out of `ready`.
    taken: u64,
    /// If ordered, from the chunk `taken` on, with gaps; otherwise as they came.
    ready: VecDeque<Value>,
    /// The chunk that is being read.
    current: Option<Py<PyIterator>>,
}

/// How a stream is to be made.
pub(super) struct Manner {
    pub(super) call: Call,
    pub(super) chunk: usize,
    pub(super) ordered: bool,
    pub(super) eager: bool,
    pub(super) window: u64,
    pub(super) wishes: Wishes,
}

impl Stream {
    pub(super) fn new<'py>(
        core: &Bound<'py, Core>,
        function: &Bound<'py, PyAny>,
        source: &Bound<'py, PyIterator>,
        manner: Manner,
    ) -> PyResult<Bound<'py, Self>> {
        let Manner { call, chunk, ordered, eager, window, wishes } = manner;
        let state = State {
            source: Some(source.clone().unbind()),
            put: 0,
            taken: 0,
            ready: VecDeque::new(),
            current: None,
        };
        let stream = Self {
            core: core.clone().unbind(),
            function: function.clone().unbind(),
            call,
            chunk,
            ordered,
            eager,
            window,
            wishes,
            state: Mutex::new(state),
            came: AtomicU64::new(0),
            feeding: AtomicBool::new(false),
            fed: AtomicBool::new(false),
        };
        let stream = Bound::new(core.py(), stream)?;
        Self::feed(&stream)?;
        if eager && !stream.get().is_fed() {
            core.get().add_stream(core.py(), stream.clone().unbind())?;
        }
        Ok(stream)
    }

    pub(super) fn is_fed(&self) -> bool {
        self.fed.load(Ordering::Acquire)
    }

    /// Takes the outcome of the chunk `number`.
    pub(super) fn accept(&self, number: u64, value: Value) {
        let mut state = self.state.lock();
        if self.ordered {
            let place = (number - state.taken) as usize;
            while state.ready.len() <= place {
                state.ready.push_back(Value::None);
            }
            state.ready[place] = value;
        } else {
            state.ready.push_back(value);
        }
        drop(state);
        self.came.fetch_add(1, Ordering::Release);
    }

    /// Whether there is an outcome to be taken, or there will be none.
    fn has_next(&self) -> bool {
        let state = self.state.lock();
        match state.ready.front() {
            Some(Value::None) => false,
            Some(_) => true,
            None => self.is_fed() && state.taken == state.put,
        }
    }

    /// Reads the source as long as the window allows. What the source raises is the outcome of the chunk it was read for.
    /// What is no `Exception`, as Ctrl-C, is raised, and is the end of the source.
    pub(super) fn feed(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        if this.is_fed() || this.feeding.swap(true, Ordering::Acquire) {
            return Ok(());
        }
        let _feeding = Feeding(this);
        let py = slf.py();
        let core = this.core.bind(py);
        let mut interrupted = Ok(());
        loop {
            let (source, number) = {
                let state = this.state.lock();
                let out = if this.eager {
                    state.put - this.came.load(Ordering::Acquire)
                } else {
                    state.put - state.taken
                };
                if out >= this.window {
                    return Ok(());
                }
                let Some(source) = &state.source else { return Ok(()) };
                (source.bind(py).clone(), state.put)
            };
            let arguments = match this.read(py, source) {
                Ok(Some(arguments)) => Ok(arguments),
                Ok(None) => break,
                Err(error) if error.is_instance_of::<PyException>(py) => Err(error),
                Err(error) => {
                    interrupted = Err(error);
                    break;
                }
            };
            {
                let mut state = this.state.lock();
                state.put += 1;
            }
            let put = arguments.and_then(|arguments| {
                let target = Target::Stream(slf.clone().unbind(), number);
                let function = this.function.bind(py);
                Core::submit(core, function, this.call, &arguments, target, this.wishes)
            });
            if let Err(error) = put {
                this.accept(number, Value::Failed(error.into_value(py).into_any()));
                break;
            }
        }
        let over = this.state.lock().source.take();
        drop(over);
        this.fed.store(true, Ordering::Release);
        core.get().close_if_fed();
        core.get().owner.results_bell().ring_all();
        interrupted
    }

    /// The next item of the source, or the next chunk.
    fn read<'py>(
        &self,
        py: Python<'py>,
        mut source: Bound<'py, PyIterator>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        if matches!(self.call, Call::Item | Call::Arguments) {
            return source.next().transpose();
        }
        let items: Vec<_> = source.take(self.chunk).collect::<PyResult<_>>()?;
        if items.is_empty() { Ok(None) } else { Ok(Some(PyTuple::new(py, items)?.into_any())) }
    }

    /// Nothing will be read from the source any more: instead, there is one failure, made by `make`.
    pub(super) fn end(&self, py: Python<'_>, make: &Bound<'_, PyAny>) -> PyResult<()> {
        let source = self.state.lock().source.take();
        if source.is_some() {
            let error = make.call1((&self.function,))?;
            let number = {
                let mut state = self.state.lock();
                state.put += 1;
                state.put - 1
            };
            self.accept(number, Value::Failed(error.unbind()));
        }
        drop(source);
        self.fed.store(true, Ordering::Release);
        self.core.bind(py).get().owner.results_bell().ring_all();
        Ok(())
    }

    fn next_value<'py>(slf: &Bound<'py, Self>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        let (this, py) = (slf.get(), slf.py());
        let core = this.core.bind(py).get();
        core.reads.fetch_add(1, Ordering::Relaxed);
        loop {
            let current = this.state.lock().current.as_ref().map(|current| current.bind(py).clone());
            if let Some(mut current) = current {
                match current.next() {
                    Some(item) => return item,
                    None => drop(this.state.lock().current.take()),
                }
            }
            if !this.is_fed() {
                let out = {
                    let state = this.state.lock();
                    state.put - if this.eager { this.came.load(Ordering::Acquire) } else { state.taken }
                };
                if out <= this.window / 2 {
                    Self::feed(slf)?;
                }
            }
            if !this.has_next() && !core.wait(py, deadline(true, timeout), || this.has_next())? {
                return Err(PyErr::from_value(helper(py, "timed_out")?.call0()?));
            }
            let next = {
                let mut state = this.state.lock();
                match state.ready.front() {
                    Some(Value::None) => continue, // another thread took it
                    Some(_) => {
                        state.taken += 1;
                        state.ready.pop_front()
                    }
                    None if this.is_fed() && state.taken == state.put => None,
                    None => continue,
                }
            };
            let Some(next) = next else { return Err(PyStopIteration::new_err(())) };
            let value = next.open(py).map_err(|(error, value)| {
                // It is the next one still.
                let mut state = this.state.lock();
                state.taken -= 1;
                state.ready.push_front(value);
                error
            })?;
            let value = value.into_result(py)?.into_bound(py);
            if matches!(this.call, Call::Item | Call::Arguments) {
                return Ok(value);
            }
            let items = value.try_iter()?;
            let before = this.state.lock().current.replace(items.unbind());
            drop(before);
        }
    }
}

/// While a thread reads the source.
struct Feeding<'a>(&'a Stream);

impl Drop for Feeding<'_> {
    fn drop(&mut self) {
        self.0.feeding.store(false, Ordering::Release);
    }
}

#[pymethods]
impl Stream {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::next_value(slf, None)
    }

    /// The next result, or StopIteration.
    ///
    /// Waits `timeout` seconds (None: for ever), and raises `multiprocessing.TimeoutError` then. An exception of the call, or of
    /// the iterable, is raised in its place; iteration can go on.
    #[pyo3(signature = (timeout = None))]
    fn next<'py>(slf: &Bound<'py, Self>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        Self::next_value(slf, timeout)
    }
}
