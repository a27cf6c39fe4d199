//! Watchers: objects that have a function called each time something happens.
//!
//! An active watcher is held by its loop. A number stands for it in the hub, another one each time it is started: so what is
//! still to be said of it when it is stopped is said to nobody. What only some kinds have is in [`watchers`](super::watchers) and [`stat`](super::stat).

use pyo3::exceptions::{PyAttributeError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::core::Core;
use super::eventloop::Loop;
use super::kind::Kind;
use crate::gil::GilCell;
use crate::greenlet::object::owned;

#[derive(Debug)]
pub(super) struct State {
    pub(super) kind: Kind,
    pub(super) callback: Option<Py<PyAny>>,
    pub(super) arguments: Option<Py<PyTuple>>,
    pub(super) active: bool,
    closed: bool,
    referenced: bool,
    /// Whether the first argument is to be what happened.
    pub(super) pass_events: bool,
    priority: i32,
}

/// A watcher, made by a method of a loop.
#[pyclass(frozen, subclass, weakref, name = "watcher", module = "gevent.core")]
#[derive(Debug)]
pub(super) struct Watcher {
    holder: Py<Loop>,
    /// Another one each time it is started.
    number: GilCell<u64>,
    state: GilCell<State>,
}

// SAFETY: the state is only touched by who holds the GIL.
unsafe impl Send for Watcher {}

impl Watcher {
    pub(super) const fn new(holder: Py<Loop>, kind: Kind, referenced: bool) -> Self {
        Self {
            holder,
            number: GilCell::new(0),
            state: GilCell::new(State {
                kind,
                callback: None,
                arguments: None,
                active: false,
                closed: false,
                referenced,
                pass_events: false,
                priority: 0,
            }),
        }
    }

    /// The state. Not to be kept over anything that may run Python code.
    #[allow(clippy::mut_from_ref, reason = "guarded by the GIL, as the type says")]
    pub(super) fn state(&self, _py: Python<'_>) -> &mut State {
        // SAFETY: with the GIL, as `_py` shows; callers keep it over nothing that runs Python code.
        unsafe { &mut *self.state.get() }
    }

    /// What stands for it in the hub while it is active.
    pub(super) fn number(&self) -> u64 {
        // SAFETY: with the GIL, as whoever has a watcher in hand.
        unsafe { *self.number.get() }
    }

    pub(super) fn core(&self, py: Python<'_>) -> PyResult<*mut Core> {
        self.holder.get().core(py).ok_or_else(|| PyValueError::new_err("operation on destroyed loop"))
    }

    /// What its loop keeps, if it can still be started.
    fn check_open(&self, py: Python<'_>) -> PyResult<*mut Core> {
        let core = self.core(py)?;
        if self.state(py).closed {
            return Err(PyValueError::new_err("the watcher was closed"));
        }
        Ok(core)
    }

    /// Its loop is gone.
    pub(super) fn forget(&self) {
        // SAFETY: with the GIL, which whoever destroys a loop holds; what is dropped is out of reach before.
        let dropped = unsafe {
            let state = &mut *self.state.get();
            state.active = false;
            state.kind.forget();
            (state.callback.take(), state.arguments.take())
        };
        drop(dropped);
    }

    fn arm(&self, py: Python<'_>, core: *mut Core) -> PyResult<()> {
        // SAFETY: with the GIL; nothing there runs Python code.
        unsafe { self.state(py).kind.arm(&mut *core, self.number()) }
    }

    fn disarm(&self, py: Python<'_>, core: *mut Core) {
        // SAFETY: as above.
        unsafe { self.state(py).kind.disarm(&mut *core, self.number()) };
    }

    pub(super) fn deactivate(slf: &Bound<'_, Self>) {
        let (this, py) = (slf.get(), slf.py());
        if !this.state(py).active {
            return;
        }
        this.state(py).active = false;
        let Ok(core) = this.core(py) else { return };
        this.disarm(py, core);
        // SAFETY: with the GIL; the reference that the loop had is dropped last, and `slf` has another one.
        unsafe {
            if this.state(py).referenced {
                (*core).references -= 1;
            }
            if let Some(object) = (*core).watchers.remove(&this.number()) {
                ffi::Py_DECREF(object);
            }
        }
    }

    pub(super) fn begin(
        slf: &Bound<'_, Self>,
        callback: Py<PyAny>,
        arguments: &Bound<'_, PyTuple>,
        pass_events: bool,
    ) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        this.check_open(py)?;
        if !callback.bind(py).is_callable() {
            let kind = callback.bind(py).get_type().name()?.to_string();
            return Err(PyTypeError::new_err(format!("Expected callable, not {kind}")));
        }
        let old = {
            let state = this.state(py);
            state.pass_events = pass_events;
            (state.callback.replace(callback), state.arguments.replace(arguments.clone().unbind()))
        };
        // May run Python code, which may destroy the loop.
        drop(old);
        let core = this.check_open(py)?;
        if this.state(py).active {
            return Ok(());
        }
        // SAFETY: with the GIL, for this statement.
        unsafe { *this.number.get() = (*core).new_number() };
        if let Err(error) = this.arm(py, core) {
            let state = this.state(py);
            drop((state.callback.take(), state.arguments.take()));
            return Err(error);
        }
        this.state(py).active = true;
        // SAFETY: with the GIL; the loop holds what is active.
        unsafe {
            (*core).watchers.insert(this.number(), owned(slf.as_ptr()));
            if this.state(py).referenced {
                (*core).references += 1;
            }
        }
        Ok(())
    }

    fn kind_name(&self, py: Python<'_>) -> &'static str {
        self.state(py).kind.name()
    }
}

#[pymethods]
impl Watcher {
    /// Have `callback(*args)` called each time.
    #[pyo3(signature = (callback, *args, **kwargs))]
    fn start(
        slf: &Bound<'_, Self>,
        callback: Py<PyAny>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let mut pass_events = false;
        let mut update = matches!(slf.get().state(py).kind, Kind::Timer { repeat, .. } if repeat == 0.0);
        for (name, value) in kwargs.into_iter().flatten() {
            match name.extract::<String>()?.as_str() {
                "pass_events" => pass_events = value.is_truthy()?,
                "update" => update = if value.is_none() { update } else { value.is_truthy()? },
                other => {
                    return Err(PyTypeError::new_err(format!(
                        "start() got an unexpected keyword argument '{other}'"
                    )));
                }
            }
        }
        if update && let Ok(core) = slf.get().core(py) {
            // SAFETY: with the GIL, for this statement.
            unsafe { (*core).hub.update_now() };
        }
        Self::begin(slf, callback, args, pass_events)
    }

    /// Call nothing any more.
    fn stop(slf: &Bound<'_, Self>) {
        Self::deactivate(slf);
        let state = slf.get().state(slf.py());
        let (callback, arguments) = (state.callback.take(), state.arguments.take());
        drop((callback, arguments));
    }

    /// Stop for good.
    fn close(slf: &Bound<'_, Self>) {
        Self::stop(slf);
        slf.get().state(slf.py()).closed = true;
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> Bound<'py, Self> {
        slf.clone()
    }

    fn __exit__(
        slf: &Bound<'_, Self>,
        _kind: &Bound<'_, PyAny>,
        _value: &Bound<'_, PyAny>,
        _tb: &Bound<'_, PyAny>,
    ) {
        Self::close(slf);
    }

    /// Have it called as if that had happened.
    #[pyo3(signature = (revents, callback, *args))]
    fn feed(
        slf: &Bound<'_, Self>,
        revents: i32,
        callback: Py<PyAny>,
        args: &Bound<'_, PyTuple>,
    ) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        Self::begin(slf, callback, args, false)?;
        let core = this.core(py)?;
        // SAFETY: with the GIL, for this statement.
        unsafe { (*core).pending.push_back((this.number(), revents)) };
        Ok(())
    }

    #[getter]
    fn r#loop(&self, py: Python<'_>) -> Py<Loop> {
        self.holder.clone_ref(py)
    }

    /// Whether it is started.
    #[getter]
    fn active(&self, py: Python<'_>) -> bool {
        self.state(py).active
    }

    /// Whether it is about to be called.
    #[getter]
    fn pending(&self, py: Python<'_>) -> bool {
        // SAFETY: with the GIL, for this statement.
        self.core(py).is_ok_and(|core| unsafe {
            (*core).pending.iter().any(|&(number, _)| number == self.number())
                || (*core).sent.contains(&self.number())
        })
    }

    #[getter]
    fn callback(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state(py).callback.as_ref().map(|it| it.clone_ref(py))
    }

    #[setter]
    fn set_callback(&self, py: Python<'_>, callback: Option<Py<PyAny>>) -> PyResult<()> {
        if let Some(callback) = &callback
            && !callback.bind(py).is_callable()
        {
            let kind = callback.bind(py).get_type().name()?.to_string();
            return Err(PyTypeError::new_err(format!("Expected callable, not {kind}")));
        }
        let old = std::mem::replace(&mut self.state(py).callback, callback);
        drop(old);
        Ok(())
    }

    #[getter]
    fn args(&self, py: Python<'_>) -> Option<Py<PyTuple>> {
        self.state(py).arguments.as_ref().map(|it| it.clone_ref(py))
    }

    #[setter]
    fn set_args(&self, py: Python<'_>, args: Option<Py<PyTuple>>) {
        let old = std::mem::replace(&mut self.state(py).arguments, args);
        drop(old);
    }

    /// Whether it keeps the loop from ending while it is active.
    #[getter(r#ref)]
    fn referenced(&self, py: Python<'_>) -> bool {
        self.state(py).referenced
    }

    #[setter(r#ref)]
    fn set_referenced(&self, py: Python<'_>, value: bool) -> PyResult<()> {
        let core = self.core(py)?;
        let state = self.state(py);
        if state.referenced != value {
            state.referenced = value;
            if state.active {
                // SAFETY: with the GIL, for this statement.
                unsafe { (*core).references += if value { 1 } else { -1 } };
            }
        }
        Ok(())
    }

    /// Kept and shown; events are told in the order in which they come.
    #[getter]
    fn priority(&self, py: Python<'_>) -> i32 {
        self.state(py).priority
    }

    #[setter]
    fn set_priority(&self, py: Python<'_>, priority: i32) -> PyResult<()> {
        let state = self.state(py);
        if state.active {
            return Err(PyAttributeError::new_err("Cannot set priority of an active watcher"));
        }
        state.priority = priority;
        Ok(())
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let (this, py) = (slf.get(), slf.py());
        let mut text = format!("<{} at {:#x}", this.kind_name(py), slf.as_ptr().addr());
        text += &this.state(py).kind.describe();
        if this.state(py).active {
            text += " active";
        }
        if this.pending(py) {
            text += " pending";
        }
        if let Some(callback) = this.callback(py) {
            text += &format!(" callback={}", callback.bind(py).repr()?);
        }
        if let Some(arguments) = this.args(py) {
            text += &format!(" args={}", arguments.bind(py).repr()?);
        }
        Ok(text + ">")
    }

    #[allow(clippy::needless_pass_by_value, reason = "the signature is PyO3's")]
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: the collector runs with the GIL, and nothing is borrowed while Python code runs.
        let state = unsafe { &*self.state.get() };
        visit.call(&self.holder)?;
        visit.call(&state.callback)?;
        visit.call(&state.arguments)
    }

    fn __clear__(&self) {
        // Only what is not active can be garbage: the loop holds the others.
        // SAFETY: as above; what is dropped is out of reach before.
        let dropped = unsafe {
            let state = &mut *self.state.get();
            (state.callback.take(), state.arguments.take())
        };
        drop(dropped);
    }
}
