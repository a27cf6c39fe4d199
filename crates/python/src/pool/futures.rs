//! Futures that are the standard library's, at a fraction of their price.
//!
//! `concurrent.futures.Future` is a condition, two lists and a state, which whoever does the work sets under the condition.
//! That takes a thread that sets it, and a wake-up for each result. Most futures are only asked for their result, and
//! for that none of it is needed: who asks takes the result off the queue, as of any result of a pool.
//!
//! So the face's class has two bases: [`FutureBase`], whose methods come first and work so, and the standard library's.
//! `FutureBase` has the attributes that the other one's methods use, and makes them when one of them is first looked at. Such
//! a future is *watched* from then on: the pool's service sets its state when its outcome comes, by the standard
//! library's own methods, so that callbacks are called and waiters told.
//!
//! ```text
//!            accept              phase: what is true
//! PENDING ───────────► CAME
//!    └───────────────► CANCELLED
//!            cancel
//!
//! unwatched ──► watched ──► settled    stock: what is shown
//!          watch       complete, or whoever sets a state from outside
//! ```
//!
//! `phase` changes once, under the lock, as does `stock`: so an outcome finds it either unwatched, and then who watches it later
//! finds the outcome, or watched, and then the service is told. A watched future's outcome is there for `result` at
//! once, and shown a moment later. Python code runs under no lock of this module.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use parking_lot::Mutex;
use pyo3::exceptions::{PySystemExit, PyTimeoutError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyString};
use pyo3::{PyTraverseError, PyVisit, intern};

use super::core::Core;
use super::value::{Opened, Value};
use crate::queue::parker::deadline;

const PENDING: u8 = 0;
const CAME: u8 = 1;
const CANCELLED: u8 = 2;

/// What a future of the standard library is made of.
struct Stock {
    condition: Py<PyAny>,
    state: Py<PyAny>,
    result: Py<PyAny>,
    exception: Py<PyAny>,
    waiters: Py<PyAny>,
    callbacks: Py<PyAny>,
}

impl Stock {
    fn new(py: Python<'_>, state: &str) -> PyResult<Self> {
        static CONDITION: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let condition = CONDITION.import(py, "threading", "Condition")?;
        Ok(Self {
            condition: condition.call0()?.unbind(),
            state: PyString::intern(py, state).into_any().unbind(),
            result: py.None(),
            exception: py.None(),
            waiters: PyList::empty(py).into_any().unbind(),
            callbacks: PyList::empty(py).into_any().unbind(),
        })
    }
}

struct State {
    value: Value,
    stock: Option<Box<Stock>>,
}

/// The quick half of a future.
#[pyclass(frozen, subclass, generic, name = "FutureBase", module = "weft._native._pool")]
pub(crate) struct FutureBase {
    core: Py<Core>,
    /// The task's number plus one; 0 until it has one.
    id: AtomicU64,
    phase: AtomicU8,
    /// The stock's state is a final one.
    settled: AtomicBool,
    /// A thread is unpickling the value.
    opening: AtomicBool,
    state: Mutex<State>,
}

impl FutureBase {
    pub(super) fn set_id(&self, id: u64) {
        self.id.store(id + 1, Ordering::Release);
    }

    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Acquire)
    }

    fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    fn is_over(&self) -> bool {
        self.phase() != PENDING || self.is_settled()
    }

    /// Takes the outcome.
    pub(super) fn accept(slf: &Bound<'_, Self>, value: Value) {
        let (this, py) = (slf.get(), slf.py());
        let (superfluous, watched) = {
            let mut state = this.state.lock();
            if this.phase() == PENDING {
                state.value = value;
                this.phase.store(CAME, Ordering::Release);
                (None, state.stock.is_some())
            } else {
                (Some(value), false)
            }
        };
        drop(superfluous);
        if watched {
            this.core.bind(py).get().defer_future(py, slf.clone().unbind());
        }
    }

    /// Its task will not be done. False if it was over.
    pub(super) fn withdrawn(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let (this, py) = (slf.get(), slf.py());
        let watched = {
            let state = this.state.lock();
            if this.phase() != PENDING {
                return Ok(false);
            }
            this.phase.store(CANCELLED, Ordering::Release);
            state.stock.is_some()
        };
        let core = this.core.bind(py).get();
        core.owner.results_bell().ring_all();
        if watched {
            core.unobserve();
            if stock_method(py, "cancel")?.call1((slf,))?.is_truthy()? && this.is_cancelled_unnoticed(py) {
                stock_method(py, "set_running_or_notify_cancel")?.call1((slf,))?;
            }
        }
        Ok(true)
    }

    fn is_cancelled_unnoticed(&self, py: Python<'_>) -> bool {
        let state = self.state.lock();
        state.stock.as_ref().is_some_and(|stock| state_is(py, &stock.state, &["CANCELLED"]))
    }

    /// Shows the outcome. In the service's thread.
    pub(super) fn complete(slf: &Bound<'_, Self>) {
        let (this, py) = (slf.get(), slf.py());
        if this.is_settled() {
            return; // somebody else did, who knows why
        }
        let set = match this.open(py) {
            Ok(Opened::Returned(value)) => slf.call_method1(intern!(py, "set_result"), (value,)),
            Ok(Opened::Failed(error)) => slf.call_method1(intern!(py, "set_exception"), (error,)),
            Err(error) => slf.call_method1(intern!(py, "set_exception"), (error.into_value(py),)),
        };
        if let Err(error) = set {
            error.write_unraisable(py, Some(slf));
        }
    }

    /// The value, if it need not be unpickled.
    fn opened(&self, py: Python<'_>) -> Option<Opened> {
        match &self.state.lock().value {
            Value::Returned(object) => Some(Opened::Returned(object.clone_ref(py))),
            Value::Failed(error) => Some(Opened::Failed(error.clone_ref(py))),
            _ => None,
        }
    }

    /// The value, unpickled.
    fn open(&self, py: Python<'_>) -> PyResult<Opened> {
        if let Some(opened) = self.opened(py) {
            return Ok(opened);
        }
        let core = self.core.bind(py).get();
        // Another thread may be at it; it holds no lock meanwhile, and gives the interpreter up now and then.
        while self.opening.swap(true, Ordering::Acquire) {
            core.wait(py, weft_wait::Deadline::NEVER, || !self.opening.load(Ordering::Relaxed))?;
        }
        let _opening = Opening(self, py);
        if let Some(opened) = self.opened(py) {
            return Ok(opened);
        }
        let value = std::mem::replace(&mut self.state.lock().value, Value::None);
        let unreadable = |error: PyErr| core.unreadable(py, error);
        let opened = match value.open_with(py, "revive_for_future", unreadable) {
            Ok(opened) => opened,
            // Ending the program is not what a result is for.
            Err((error, _)) if error.is_instance_of::<PySystemExit>(py) => Opened::Failed(unreadable(error)),
            Err((error, value)) => {
                self.state.lock().value = value;
                return Err(error);
            }
        };
        self.state.lock().value = opened.clone_ref(py).into_value();
        Ok(opened)
    }

    fn wait_until_over(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        if self.is_over() || self.core.bind(py).get().wait(py, deadline(true, timeout), || self.is_over())? {
            Ok(())
        } else {
            Err(PyTimeoutError::new_err(()))
        }
    }

    /// What it came to; it is over.
    fn outcome(&self, py: Python<'_>) -> PyResult<Opened> {
        if self.is_settled() {
            let state = self.state.lock();
            if let Some(stock) = &state.stock {
                if state_is(py, &stock.state, &["FINISHED"]) {
                    return Ok(if stock.exception.is_none(py) {
                        Opened::Returned(stock.result.clone_ref(py))
                    } else {
                        Opened::Failed(stock.exception.clone_ref(py))
                    });
                }
                drop(state);
                return Err(cancelled(py)?);
            }
        }
        if self.phase() == CANCELLED { Err(cancelled(py)?) } else { self.open(py) }
    }

    /// Makes what the standard library's methods use, and has the service keep it up to date.
    fn watch(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        let core = this.core.bind(py).get();
        loop {
            if this.state.lock().stock.is_some() {
                return Ok(());
            }
            let phase = this.phase();
            let stock = match phase {
                PENDING => {
                    core.check_process()?;
                    let stock = Stock::new(py, "PENDING")?;
                    core.observe(py)?;
                    stock
                }
                CANCELLED => Stock::new(py, "CANCELLED_AND_NOTIFIED")?,
                _ => {
                    let stock = Stock::new(py, "FINISHED")?;
                    match this.open(py)? {
                        Opened::Returned(result) => Stock { result, ..stock },
                        Opened::Failed(exception) => Stock { exception, ..stock },
                    }
                }
            };
            let superfluous = {
                let mut state = this.state.lock();
                if state.stock.is_none() && this.phase() == phase {
                    state.stock = Some(Box::new(stock));
                    this.settled.store(phase != PENDING, Ordering::Release);
                    return Ok(());
                }
                stock
            };
            // It came, or was watched, while this made its parts.
            drop(superfluous);
            if phase == PENDING {
                core.unobserve();
            }
        }
    }

    fn stock<'py>(
        slf: &Bound<'py, Self>,
        part: impl Fn(&Stock) -> &Py<PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::watch(slf)?;
        let state = slf.get().state.lock();
        let stock = state.stock.as_ref().expect("watched futures stay so");
        Ok(part(stock).bind(slf.py()).clone())
    }

    fn set_stock(
        slf: &Bound<'_, Self>,
        part: impl Fn(&mut Stock) -> &mut Py<PyAny>,
        value: Bound<'_, PyAny>,
    ) -> PyResult<()> {
        Self::watch(slf)?;
        let before = {
            let mut state = slf.get().state.lock();
            let stock = state.stock.as_mut().expect("watched futures stay so");
            std::mem::replace(part(stock), value.unbind())
        };
        drop(before);
        Ok(())
    }
}

/// While a thread unpickles a value.
struct Opening<'a, 'py>(&'a FutureBase, Python<'py>);

impl Drop for Opening<'_, '_> {
    fn drop(&mut self) {
        self.0.opening.store(false, Ordering::Release);
        self.0.core.bind(self.1).get().owner.results_bell().ring_all();
    }
}

fn state_is(py: Python<'_>, state: &Py<PyAny>, any: &[&str]) -> bool {
    state.bind(py).cast::<PyString>().is_ok_and(|state| any.iter().any(|&one| state == one))
}

fn cancelled(py: Python<'_>) -> PyResult<PyErr> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let class = CLASS.import(py, "concurrent.futures", "CancelledError")?;
    Ok(PyErr::from_value(class.call0()?))
}

/// A method of the standard library's class.
fn stock_method<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    CLASS.import(py, "concurrent.futures", "Future")?.getattr(name)
}

#[pymethods]
impl FutureBase {
    #[new]
    fn new(core: &Bound<'_, Core>) -> Self {
        Self {
            core: core.clone().unbind(),
            id: AtomicU64::new(0),
            phase: AtomicU8::new(PENDING),
            settled: AtomicBool::new(false),
            opening: AtomicBool::new(false),
            state: Mutex::new(State { value: Value::None, stock: None }),
        }
    }

    /// Return the result of the call, or raise what it raised.
    ///
    /// Waits `timeout` seconds (None: for ever), and raises TimeoutError then. Raises CancelledError if it was cancelled. A
    /// call whose worker died raises `weft.WorkerDied`, or BrokenProcessPool where that breaks the pool.
    #[pyo3(signature = (timeout = None))]
    fn result(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        self.wait_until_over(py, timeout)?;
        self.outcome(py)?.into_result(py)
    }

    /// Return the exception that the call raised, None if it returned. As `result`, but for that.
    #[pyo3(signature = (timeout = None))]
    fn exception(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Py<PyAny>>> {
        self.wait_until_over(py, timeout)?;
        Ok(match self.outcome(py)? {
            Opened::Returned(_) => None,
            Opened::Failed(error) => Some(error),
        })
    }

    /// Whether the call returned, raised or was cancelled.
    fn done(&self, py: Python<'_>) -> PyResult<bool> {
        if !self.is_over() {
            self.core.bind(py).get().collect(py)?;
        }
        Ok(self.is_over())
    }

    /// Whether a worker is at it.
    fn running(&self, py: Python<'_>) -> PyResult<bool> {
        if self.done(py)? {
            return Ok(false);
        }
        let id = self.id.load(Ordering::Acquire);
        Ok(id != 0 && self.core.bind(py).get().owner.is_running(id - 1))
    }

    /// Whether it was cancelled.
    fn cancelled(&self, py: Python<'_>) -> bool {
        if self.is_settled() {
            let state = self.state.lock();
            let stock = state.stock.as_ref();
            let any = ["CANCELLED", "CANCELLED_AND_NOTIFIED"];
            return stock.is_some_and(|stock| state_is(py, &stock.state, &any));
        }
        self.phase() == CANCELLED
    }

    /// Keep the call from being made. False if a worker is at it, or it is over.
    pub(super) fn cancel(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let (this, py) = (slf.get(), slf.py());
        if this.is_over() {
            return Ok(this.cancelled(py));
        }
        let core = this.core.bind(py).get();
        core.check_process()?;
        let id = this.id.load(Ordering::Acquire);
        // Its outcome may come meanwhile.
        if id == 0 || !core.withdraw(py, id - 1)? {
            return Ok(this.cancelled(py));
        }
        Self::withdrawn(slf)
    }

    /// Whether it has what the standard library's methods use.
    #[getter]
    fn _watched(&self) -> bool {
        self.state.lock().stock.is_some()
    }

    #[getter]
    fn _condition<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::stock(slf, |stock| &stock.condition)
    }

    #[setter(_condition)]
    fn set_condition(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) -> PyResult<()> {
        Self::set_stock(slf, |stock| &mut stock.condition, value)
    }

    #[getter]
    fn _state<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::stock(slf, |stock| &stock.state)
    }

    #[setter(_state)]
    fn set_state(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        let state = value.clone().unbind();
        Self::set_stock(slf, |stock| &mut stock.state, value)?;
        let settled = state_is(py, &state, &["FINISHED", "CANCELLED", "CANCELLED_AND_NOTIFIED"]);
        this.settled.store(settled, Ordering::Release);
        if settled && this.phase() == PENDING {
            this.core.bind(py).get().owner.results_bell().ring_all();
        }
        Ok(())
    }

    #[getter]
    fn _result<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::stock(slf, |stock| &stock.result)
    }

    #[setter(_result)]
    fn set_result(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) -> PyResult<()> {
        Self::set_stock(slf, |stock| &mut stock.result, value)
    }

    #[getter]
    fn _exception<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::stock(slf, |stock| &stock.exception)
    }

    #[setter(_exception)]
    fn set_exception(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) -> PyResult<()> {
        Self::set_stock(slf, |stock| &mut stock.exception, value)
    }

    #[getter]
    fn _waiters<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::stock(slf, |stock| &stock.waiters)
    }

    #[setter(_waiters)]
    fn set_waiters(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) -> PyResult<()> {
        Self::set_stock(slf, |stock| &mut stock.waiters, value)
    }

    #[getter]
    fn _done_callbacks<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::stock(slf, |stock| &stock.callbacks)
    }

    #[setter(_done_callbacks)]
    fn set_done_callbacks(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) -> PyResult<()> {
        Self::set_stock(slf, |stock| &mut stock.callbacks, value)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Held only by a thread that has the interpreter, as this one has: it is free. If it is not, nothing here is garbage.
        let Some(state) = self.state.try_lock() else { return Ok(()) };
        if let Value::Returned(object) | Value::Failed(object) = &state.value {
            visit.call(object)?;
        }
        if let Some(stock) = &state.stock {
            for part in [
                &stock.condition,
                &stock.state,
                &stock.result,
                &stock.exception,
                &stock.waiters,
                &stock.callbacks,
            ] {
                visit.call(part)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        let (value, stock) = {
            let mut state = self.state.lock();
            (std::mem::replace(&mut state.value, Value::None), state.stock.take())
        };
        drop((value, stock));
    }
}
