//! Generators, and what `async def` functions return, as coroutines of the hub: without a stack of their own.
//!
//! A coroutine is stepped in the hub's greenlet. Each step sends it what it waited for and looks at what it yields, which is what it
//! waits for next; it is entered in the table of waiters then, as a greenlet would be, and whatever wakes greenlets wakes it.
//! [`step`] does that; here are the object, and what others do to it.
//!
//! ```text
//!        start           woken, step         yields
//!  NEW ────────► WAITING ───────────► RUNNING ───────► WAITING
//!   │ throw                              │ returns, raises
//!   └──────────────────► DONE ◄──────────┘
//! ```
//!
//! What it waits for is a number of seconds, another coroutine, or anything else, of which the face's *arranger* knows what is to be
//! done. That is asked again after each wake-up, and says then what has come: a wake-up promises nothing.
//!
//! Everything is guarded by the GIL; nothing of it is borrowed while Python code may run.

use std::time::Duration;

use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::ffi::{self, PyObject};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString, PyTuple};
use weft_hub::WaiterKey;
use weft_reactor::{Ready, TimerKey, WatchKey};

use super::core::{Core, Item, READ, WRITE};
use super::eventloop::{Loop, to_exception};
use super::process_waits::{Ended, For, here, is_seated, seated_loop};
use super::step;
use crate::gil::GilCell;

/// Where a coroutine is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    New,
    Waiting,
    Running,
    Done,
}

/// What a coroutine is resumed with.
#[derive(Debug)]
pub(super) enum Next {
    Value(Py<PyAny>),
    Error(Py<PyAny>),
}

/// What a coroutine is, and what it waits for.
#[derive(Debug)]
pub(super) struct Inner {
    /// The loop; `None` once it is done.
    pub(super) holder: Option<Py<PyAny>>,
    pub(super) generator: Option<Py<PyAny>>,
    /// What is left of the generator once it is done: its name.
    pub(super) name: Option<Py<PyAny>>,
    /// What was brought.
    pub(super) next: Option<Next>,
    /// An exception for its next wait: this one is over already.
    pub(super) thrown: Option<Py<PyAny>>,
    /// What it yielded, if that has to be looked at again when it is woken.
    pub(super) target: Option<Py<PyAny>>,
    /// To be called when the wait is over.
    pub(super) undo: Option<Py<PyAny>>,
    /// The value, or the exception if it `failed`.
    pub(super) outcome: Option<Py<PyAny>>,
    pub(super) links: Option<Py<PyList>>,
    /// Who waits for its end.
    pub(super) waiters: Vec<WaiterKey>,
    pub(super) key: WaiterKey,
    pub(super) timer: Option<TimerKey>,
    pub(super) watch: Option<WatchKey>,
    pub(super) state: State,
    pub(super) failed: bool,
    /// Whether its wait keeps the loop from ending.
    pub(super) referenced: bool,
}

/// A coroutine of the calling thread's hub: `Coroutine(generator)`.
#[pyclass(frozen, subclass, weakref, module = "weft._native._hub")]
#[derive(Debug)]
pub(super) struct Coroutine(GilCell<Inner>);

impl Coroutine {
    /// What it is. Whoever uses it keeps no reference while Python code may run.
    #[inline]
    pub(super) const fn inner(&self) -> *mut Inner {
        self.0.get()
    }

    /// The core of its loop, unless that was destroyed, or it is done.
    pub(super) fn core(&self, py: Python<'_>) -> Option<*mut Core> {
        // SAFETY: with the GIL, for this statement.
        let holder = unsafe { (*self.inner()).holder.as_ref()?.as_ptr() };
        // SAFETY: as above; held by the coroutine.
        unsafe { Borrowed::from_ptr(py, holder) }.cast::<Loop>().ok()?.get().core(py)
    }

    pub(super) fn state(&self, _py: Python<'_>) -> State {
        // SAFETY: with the GIL, for this statement.
        unsafe { (*self.inner()).state }
    }

    /// Makes it ready, if it waits.
    fn rouse(&self, py: Python<'_>) {
        if let Some(core) = self.core(py) {
            // SAFETY: with the GIL, for these statements.
            unsafe {
                (*core).hub.waiters.wake((*self.inner()).key);
                if !is_seated(core) {
                    (*core).hub.remote().nudge();
                }
            }
        }
    }

    fn waiting(&self, py: Python<'_>) -> PyResult<*mut Core> {
        match self.core(py) {
            Some(core) if self.state(py) == State::Waiting => Ok(core),
            _ => Err(PyRuntimeError::new_err("the coroutine does not wait")),
        }
    }

    /// What it has come to, to be sent to or raised in whoever waited for it.
    pub(super) fn outcome(&self, py: Python<'_>) -> Option<Next> {
        // SAFETY: with the GIL; cloning runs no Python code.
        unsafe {
            let outcome = (*self.inner()).outcome.as_ref()?.clone_ref(py);
            Some(if (*self.inner()).failed { Next::Error(outcome) } else { Next::Value(outcome) })
        }
    }
}

#[pymethods]
impl Coroutine {
    #[new]
    fn new(generator: &Bound<'_, PyAny>) -> PyResult<Self> {
        check_generator(generator)?;
        Ok(Self(GilCell::new(Inner {
            holder: Some(loop_of_this_thread(generator.py())?.unbind()),
            generator: Some(generator.clone().unbind()),
            name: None,
            next: None,
            thrown: None,
            target: None,
            undo: None,
            outcome: None,
            links: None,
            waiters: Vec::new(),
            key: WaiterKey::NOBODY,
            timer: None,
            watch: None,
            state: State::New,
            failed: false,
            referenced: false,
        })))
    }

    /// Have it run, soon. Again does nothing.
    fn start(slf: &Bound<'_, Self>) {
        let (py, this) = (slf.py(), slf.get());
        if this.state(py) != State::New {
            return;
        }
        if let Some(core) = this.core(py) {
            let item = Item::Coroutine(slf.clone().into_ptr());
            // SAFETY: with the GIL, for these statements.
            unsafe {
                (*this.inner()).state = State::Waiting;
                (*this.inner()).key = (*core).hub.waiters.post(item);
                if !is_seated(core) {
                    (*core).hub.remote().nudge();
                }
            }
        }
    }

    /// Have the exception raised where it waits, or at its next wait. False if it has ended.
    fn _throw(slf: &Bound<'_, Self>, error: Py<PyAny>) -> bool {
        let (py, this) = (slf.py(), slf.get());
        match this.state(py) {
            State::Done => return false,
            State::New => {
                step::finish(slf, Next::Error(error));
                return true;
            }
            State::Waiting | State::Running => {}
        }
        // SAFETY: with the GIL; what was there before is dropped behind the statements.
        let before = unsafe {
            let inner = this.inner();
            if (*inner).state == State::Running || matches!((*inner).next, Some(Next::Value(_))) {
                // What was brought is not lost: the coroutine gets it first.
                (*inner).thrown.replace(error).map(Next::Error)
            } else {
                (*inner).next.replace(Next::Error(error))
            }
        };
        drop(before);
        this.rouse(py);
        true
    }

    /// Have it look again at what it waits for. As a link of that, it takes whatever it is called with. One that comes late, when
    /// something else is waited for, does no harm.
    #[pyo3(signature = (*_ignored))]
    fn _wake(&self, py: Python<'_>, _ignored: &Bound<'_, PyTuple>) {
        // SAFETY: with the GIL, for this statement.
        if unsafe { (*self.inner()).target.is_some() } {
            self.rouse(py);
        }
    }

    /// For the arranger: wake it when the descriptor is ready for `events`.
    fn _watch(&self, py: Python<'_>, descriptor: i32, events: i32) -> PyResult<()> {
        let core = self.waiting(py)?;
        let mut wanted = Ready::NONE;
        if events & READ != 0 {
            wanted |= Ready::READ;
        }
        if events & WRITE != 0 {
            wanted |= Ready::WRITE;
        }
        // SAFETY: with the GIL, for these statements.
        unsafe {
            let inner = self.inner();
            let watch = (*core).hub.wake_when(descriptor, wanted, (*inner).key);
            (*inner).watch = Some(watch.map_err(|error| to_exception(&error))?);
            self.refer(core);
        }
        Ok(())
    }

    /// For the arranger: say what is to be called when the wait is over, with whether it is for good: it may be asked again.
    fn _undo_by(&self, py: Python<'_>, undo: Py<PyAny>) -> PyResult<()> {
        self.waiting(py)?;
        // SAFETY: with the GIL; what was there is dropped behind the statement.
        let before = unsafe { (*self.inner()).undo.replace(undo) };
        drop(before);
        Ok(())
    }

    /// For the arranger: what is waited for may come from outside, so that the loop is not to end before.
    fn _refer(&self, py: Python<'_>) -> PyResult<()> {
        let core = self.waiting(py)?;
        self.refer(core);
        Ok(())
    }

    /// Park the current greenlet until it has ended, for so many seconds at most. Whether it has ended.
    fn _join(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<bool> {
        let (py, this) = (slf.py(), slf.get());
        if this.state(py) == State::Done {
            return Ok(true);
        }
        let Some(core) = this.core(py) else {
            return Err(PyRuntimeError::new_err("the loop of the coroutine was destroyed"));
        };
        let patience = match timeout {
            None => None,
            Some(seconds) if seconds.is_nan() => {
                return Err(PyValueError::new_err("the timeout is no number"));
            }
            Some(seconds) => Duration::try_from_secs_f64(seconds.max(0.0)).ok(),
        };
        let Some(here) = here(py).filter(|_| is_seated(core)) else {
            return Err(PyRuntimeError::new_err(
                "only a greenlet of the hub that the coroutine belongs to can wait for it so; \
                 another coroutine yields it",
            ));
        };
        // Held, because nobody else may hold it until it is over.
        let _held = slf.clone();
        // SAFETY: with the GIL, for this statement.
        let tell = |key| unsafe { this.add_waiter(core, key) };
        match here.wait(&For::Told(&tell), patience, false)? {
            Ended::TimedOut if this.state(py) != State::Done => Ok(false),
            _ => Ok(this.state(py) == State::Done),
        }
    }

    /// "new", "waiting", "running" or "done".
    #[getter]
    fn state_name(&self, py: Python<'_>) -> &'static str {
        match self.state(py) {
            State::New => "new",
            State::Waiting => "waiting",
            State::Running => "running",
            State::Done => "done",
        }
    }

    /// Whether it has ended.
    fn ready(&self, py: Python<'_>) -> bool {
        self.state(py) == State::Done
    }

    /// Whether it has ended with a value.
    fn successful(&self, py: Python<'_>) -> bool {
        // SAFETY: with the GIL, for this statement.
        self.state(py) == State::Done && unsafe { !(*self.inner()).failed }
    }

    /// What it has returned; None as long as it has not, and if it failed.
    #[getter]
    fn value(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        match self.outcome(py) {
            Some(Next::Value(value)) => Some(value),
            _ => None,
        }
    }

    /// What it has failed with; None if it has not.
    #[getter]
    fn exception(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        match self.outcome(py) {
            Some(Next::Error(error)) => Some(error),
            _ => None,
        }
    }

    /// What is run; None once it has ended.
    #[getter]
    fn generator(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        // SAFETY: with the GIL; cloning runs no Python code.
        unsafe { (*self.inner()).generator.as_ref().map(|generator| generator.clone_ref(py)) }
    }

    /// The name of the function that made the generator, if that has one.
    #[getter]
    fn _name(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        // SAFETY: as above.
        let name = unsafe { (*self.inner()).name.as_ref().map(|name| name.clone_ref(py)) };
        name.or_else(|| name_of(self.generator(py)?.bind(py)))
    }

    /// What it waits for: what it yielded last, or None.
    #[getter]
    fn waits_for(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        // SAFETY: as above.
        unsafe { (*self.inner()).target.as_ref().map(|target| target.clone_ref(py)) }
    }

    /// Its loop; None once it has ended.
    #[getter]
    fn r#loop(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        // SAFETY: as above.
        unsafe { (*self.inner()).holder.as_ref().map(|holder| holder.clone_ref(py)) }
    }

    /// What is called after its end: a list, made at the first call.
    fn _links<'py>(&self, py: Python<'py>) -> Bound<'py, PyList> {
        // SAFETY: with the GIL. Making a list may run the collector, and so anything: nothing is borrowed over it.
        unsafe {
            if let Some(links) = &(*self.inner()).links {
                return links.bind(py).clone();
            }
            let made = PyList::empty(py);
            let links = (*self.inner()).links.get_or_insert_with(|| made.unbind());
            links.bind(py).clone()
        }
    }

    #[allow(clippy::needless_pass_by_value, reason = "the signature is PyO3's")]
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: the collector runs with the GIL, and nothing is borrowed while Python code runs.
        let inner = unsafe { &*self.inner() };
        visit.call(&inner.holder)?;
        visit.call(&inner.generator)?;
        visit.call(&inner.thrown)?;
        visit.call(&inner.target)?;
        visit.call(&inner.undo)?;
        visit.call(&inner.outcome)?;
        visit.call(&inner.links)?;
        match &inner.next {
            Some(Next::Value(held) | Next::Error(held)) => visit.call(held),
            None => Ok(()),
        }
    }

    fn __clear__(&self) {
        // It is in no table, or the table would hold it.
        // SAFETY: as above; what is taken is dropped when nothing is borrowed.
        let parts = unsafe {
            let inner = &mut *self.inner();
            inner.state = State::Done;
            (
                inner.generator.take(),
                inner.next.take(),
                inner.thrown.take(),
                inner.target.take(),
                inner.undo.take(),
                inner.outcome.take(),
                inner.links.take(),
                inner.holder.take(),
            )
        };
        drop(parts);
    }
}

impl Coroutine {
    /// Notes who waits for its end.
    ///
    /// # Safety
    ///
    /// The GIL is held, and `core` is that of its loop.
    pub(super) unsafe fn add_waiter(&self, core: *mut Core, key: WaiterKey) {
        // SAFETY: with the GIL, and nothing here runs Python code.
        unsafe {
            let waiters = &mut (*self.inner()).waiters;
            // Those that gave up are left behind.
            if waiters.len() == waiters.capacity() {
                waiters.retain(|&known| (*core).hub.waiters.is_waiting(known));
            }
            waiters.push(key);
        }
    }

    /// Has its wait keep the loop from ending.
    pub(super) fn refer(&self, core: *mut Core) {
        // SAFETY: with the GIL, which whoever has a core has, for these statements.
        unsafe {
            if !(*self.inner()).referenced {
                (*self.inner()).referenced = true;
                (*core).references += 1;
            }
        }
    }
}

/// The name of the function that made a generator.
pub(super) fn name_of(generator: &Bound<'_, PyAny>) -> Option<Py<PyAny>> {
    let name = generator.getattr(pyo3::intern!(generator.py(), "__qualname__"));
    name.ok().filter(|name| name.is_instance_of::<PyString>()).map(Bound::unbind)
}

/// The loop that the calling thread's hub runs; the hub is made if there is none.
fn loop_of_this_thread(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    if let Some(holder) = seated_loop(py) {
        return Ok(holder);
    }
    py.import("weft.gevent.hub")?.getattr("get_hub")?.call0()?.getattr("loop")
}

/// Refuses what cannot be sent to.
#[pyfunction]
pub(super) fn check_generator(object: &Bound<'_, PyAny>) -> PyResult<()> {
    // SAFETY: a live object, looked at.
    let known = unsafe {
        ffi::PyGen_CheckExact(object.as_ptr()) != 0 || ffi::PyCoro_CheckExact(object.as_ptr()) != 0
    };
    let py = object.py();
    if known || (object.hasattr(pyo3::intern!(py, "send"))? && object.hasattr(pyo3::intern!(py, "throw"))?) {
        return Ok(());
    }
    let kind = object.get_type().name()?;
    Err(PyTypeError::new_err(format!("a generator or a coroutine is needed, not {kind}")))
}

/// The coroutine that runs in the current greenlet; None if that is no coroutine's step.
#[pyfunction]
pub(super) fn current_coroutine(py: Python<'_>) -> Option<Py<PyAny>> {
    let stepping: *mut PyObject = super::process_waits::stepping(py)?;
    // SAFETY: it is being stepped, and so held.
    Some(unsafe { Borrowed::from_ptr(py, stepping) }.to_owned().unbind())
}
