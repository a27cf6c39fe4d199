//! Results as an iterator: `imap` and its like.
//!
//! The source is read as results are: at most `window` chunks are out at a time, so neither an endless source nor a million
//! results fill memory. An *eager* stream counts only what no worker has done, as the standard library's users
//! expect: all of it is done, whether somebody reads or not. The others become so when somebody joins the pool.
//!
//! A source that has its items at hand, as a list's iterator, is read by whoever reads the results, and by the service if nobody
//! does. Any other may take its time, or wait for something that the program does only when it has the results: a
//! *feeder*, a thread of the stream's, reads it. It has no hold on the stream while it waits, and ends when nobody will read.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use pyo3::exceptions::{PyException, PyStopIteration};
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyTuple};
use weft_pool::Call;

use super::core::{Core, Target, Wishes};
use super::feeder::{Feeder, Trough, is_at_hand};
use super::value::{Value, helper};
use crate::queue::parker::deadline;

/// An iterator over results; see `multiprocessing.pool.IMapIterator`.
///
/// Tasks that are under way have a hold on the stream, so it cannot be the stream that tells when nobody will read it.
#[pyclass(frozen, weakref, name = "IMapIterator", module = "weft._native._pool")]
pub(crate) struct Reader {
    stream: Py<Stream>,
    /// Kept as long as somebody may read.
    _pool: Py<PyAny>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        let stream = self.stream.get();
        // An eager one is done to its end whoever reads.
        if !stream.eager.load(Ordering::SeqCst) && !stream.is_fed() {
            stream.give_up();
        }
    }
}

/// Results on their way to a reader, and where the tasks come from.
#[pyclass(frozen, weakref, name = "Stream", module = "weft._native._pool")]
pub(crate) struct Stream {
    core: Py<Core>,
    function: Py<PyAny>,
    call: Call,
    chunk: usize,
    ordered: bool,
    eager: AtomicBool,
    window: u64,
    wishes: Wishes,
    /// Where its feeder waits, if it has one.
    trough: Option<Arc<Trough>>,
    /// It is one of those that keep the pool from closing, though nothing feeds it but its reader.
    counted: AtomicBool,
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

/// Chunks of an eager stream that are out at a time, at most.
pub(super) const EAGER: u64 = 1024;

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
    pub(super) fn begin<'py>(
        core: &Bound<'py, Core>,
        pool: &Bound<'py, PyAny>,
        function: &Bound<'py, PyAny>,
        source: &Bound<'py, PyIterator>,
        manner: Manner,
    ) -> PyResult<Bound<'py, Reader>> {
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
            eager: AtomicBool::new(eager),
            window,
            wishes,
            trough: (!is_at_hand(source)).then(Arc::default),
            counted: AtomicBool::new(false),
            state: Mutex::new(state),
            came: AtomicU64::new(0),
            feeding: AtomicBool::new(false),
            fed: AtomicBool::new(false),
        };
        let py = core.py();
        let stream = Bound::new(py, stream)?;
        let this = stream.get();
        if this.trough.is_none() {
            Self::feed(&stream)?;
            if this.is_fed() {
                return Bound::new(py, Reader { stream: stream.unbind(), _pool: pool.clone().unbind() });
            }
        }
        if eager {
            core.get().add_stream(py, stream.clone().unbind())?;
        } else {
            this.counted.store(true, Ordering::Relaxed);
            core.get().add_lazy_stream(&stream)?;
        }
        if let Some(trough) = &this.trough {
            let started = Feeder::start(&stream, Arc::clone(trough));
            started.inspect_err(|_| this.give_up())?;
        }
        Bound::new(py, Reader { stream: stream.unbind(), _pool: pool.clone().unbind() })
    }

    /// Has all of it done, whether somebody reads or not.
    pub(super) fn hurry(&self) {
        self.eager.store(true, Ordering::SeqCst);
        self.uncount();
        self.trough.iter().for_each(|trough| trough.ask());
    }

    /// It no longer keeps the pool from closing.
    fn uncount(&self) {
        if self.counted.swap(false, Ordering::SeqCst) {
            self.core.get().lazy_stream_over();
        }
    }

    /// Whether somebody else has to feed it when nobody reads.
    pub(super) fn has_feeder(&self) -> bool {
        self.trough.is_some()
    }

    /// Nothing will be read from the source any more.
    fn give_up(&self) {
        let over = self.state.lock().source.take();
        drop(over);
        self.finish();
    }

    fn finish(&self) {
        self.fed.store(true, Ordering::Release);
        if let Some(trough) = &self.trough {
            trough.ask(); // its feeder can go
        }
        self.uncount();
        let core = self.core.get();
        core.let_go_of_fed();
        core.close_if_fed();
        core.owner.results_bell().ring_all();
    }

    /// How many chunks are out.
    fn out(&self, state: &State) -> u64 {
        if self.eager.load(Ordering::Relaxed) {
            state.put - self.came.load(Ordering::Acquire)
        } else {
            state.put - state.taken
        }
    }

    /// How many chunks may be out. Of one that became eager as many as of any other: who joins the pool waits for all of it, and a
    /// small number would be put by the service, which comes by now and then.
    fn window(&self) -> u64 {
        if self.eager.load(Ordering::Relaxed) { self.window.max(EAGER) } else { self.window }
    }

    pub(super) fn is_fed(&self) -> bool {
        self.fed.load(Ordering::Acquire)
    }

    /// The first item of a chunk, and how many there are at most.
    pub(super) fn items_of(&self, number: u64) -> (usize, usize) {
        (number as usize * self.chunk, self.chunk)
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
        self.came.fetch_add(1, Ordering::Release);
        let runs_low = self.eager.load(Ordering::Relaxed) && self.out(&state) <= self.window() / 2;
        drop(state);
        if runs_low && let Some(trough) = &self.trough {
            trough.ask();
        }
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
    /// What is no `Exception`, as Ctrl-C, is raised where the reader feeds, and is the end of the source.
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
            let source = {
                let state = this.state.lock();
                if this.out(&state) >= this.window() {
                    return Ok(());
                }
                let Some(source) = &state.source else { return Ok(()) };
                source.bind(py).clone()
            };
            let is_outcome = |error: &PyErr| this.trough.is_some() || error.is_instance_of::<PyException>(py);
            let arguments = match this.read(py, source) {
                Ok(Some(arguments)) => Ok(arguments),
                Ok(None) => break,
                Err(error) if is_outcome(&error) => Err(error),
                Err(error) => {
                    interrupted = Err(error);
                    break;
                }
            };
            let number = {
                let mut state = this.state.lock();
                if state.source.is_none() {
                    return Ok(()); // the pool ended meanwhile
                }
                state.put += 1;
                state.put - 1
            };
            let put = arguments.and_then(|arguments| {
                let target = Target::Stream(slf.clone().unbind(), number);
                let function = this.function.bind(py);
                Core::submit(core, function, this.call, &arguments, target, this.wishes)
            });
            let Err(error) = put else { continue };
            if !is_outcome(&error) {
                let mut state = this.state.lock();
                if state.source.is_some() {
                    state.put -= 1;
                    interrupted = Err(error);
                    break;
                }
            }
            this.accept(number, Value::Failed(error.into_value(py).into_any()));
            break;
        }
        this.give_up();
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
    pub(super) fn end(&self, make: &Bound<'_, PyAny>) -> PyResult<()> {
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
        self.finish();
        Ok(())
    }

    fn next_value<'py>(slf: &Bound<'py, Self>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        let (this, py) = (slf.get(), slf.py());
        let core = this.core.bind(py).get();
        core.reads.fetch_add(1, Ordering::Relaxed);
        let until = deadline(true, timeout);
        loop {
            let current = this.state.lock().current.as_ref().map(|current| current.bind(py).clone());
            if let Some(mut current) = current {
                match current.next() {
                    Some(item) => return item,
                    None => drop(this.state.lock().current.take()),
                }
            }
            if !this.is_fed() {
                let out = this.out(&this.state.lock());
                if out <= this.window() / 2 {
                    match &this.trough {
                        Some(trough) => trough.ask(),
                        None => Self::feed(slf)?,
                    }
                }
            }
            if !this.has_next() && !core.wait(py, until, || this.has_next())? {
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

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(trough) = &self.trough {
            trough.leave();
        }
        self.uncount();
    }
}

#[pymethods]
impl Reader {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Stream::next_value(self.stream.bind(py), None)
    }

    /// The next result, or StopIteration.
    ///
    /// Waits `timeout` seconds (None: for ever), and raises `multiprocessing.TimeoutError` then. An exception of the call, or of
    /// the iterable, is raised in its place; iteration can go on.
    #[pyo3(signature = (timeout = None))]
    fn next<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        Stream::next_value(self.stream.bind(py), timeout)
    }
}
