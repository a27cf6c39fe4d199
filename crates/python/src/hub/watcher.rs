//! Watchers: objects that have a function called each time something happens.
//!
//! An active watcher is held by its loop. Its number stands for it in the hub; once it is stopped, what is still to be said
//! of that number is said to nobody.

use std::ptr;

use pyo3::exceptions::{PyAttributeError, PyTypeError, PyValueError};
use pyo3::ffi::{self, PyObject};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use weft_reactor::{ChildExit, ExitStatus};

use super::core::{Core, TIMER};
use super::eventloop::Loop;
use super::kind::{Kind, nanoseconds};
use super::turns;
use crate::gil::GilCell;
use crate::greenlet::object::owned;

#[derive(Debug)]
struct State {
    kind: Kind,
    callback: Option<Py<PyAny>>,
    arguments: Option<Py<PyTuple>>,
    active: bool,
    closed: bool,
    referenced: bool,
    /// Whether the first argument is to be what happened.
    pass_events: bool,
    priority: i32,
}

/// A watcher, made by a method of a loop.
#[pyclass(frozen, subclass, weakref, name = "watcher", module = "gevent.core")]
#[derive(Debug)]
pub(super) struct Watcher {
    holder: Py<Loop>,
    number: u64,
    state: GilCell<State>,
}

// SAFETY: the state is only touched by who holds the GIL.
unsafe impl Send for Watcher {}

impl Watcher {
    pub(super) fn new(holder: Py<Loop>, kind: Kind, number: u64, referenced: bool) -> Self {
        Self {
            holder,
            number,
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
    fn state(&self, _py: Python<'_>) -> &mut State {
        // SAFETY: with the GIL, as `_py` shows; callers keep it over nothing that runs Python code.
        unsafe { &mut *self.state.get() }
    }

    fn core(&self, py: Python<'_>) -> PyResult<*mut Core> {
        self.holder.get().core(py).ok_or_else(|| PyValueError::new_err("operation on destroyed loop"))
    }

    /// Its loop is gone.
    pub(super) fn forget(&self) {
        // SAFETY: with the GIL, which whoever destroys a loop holds; what is dropped is out of reach before.
        let dropped = unsafe {
            let state = &mut *self.state.get();
            state.active = false;
            if let Kind::Io { watch, .. } | Kind::Child { watch, .. } = &mut state.kind {
                *watch = None;
            }
            (state.callback.take(), state.arguments.take())
        };
        drop(dropped);
    }

    fn arm(&self, py: Python<'_>, core: *mut Core) -> PyResult<()> {
        // SAFETY: with the GIL; nothing there runs Python code.
        unsafe { self.state(py).kind.arm(&mut *core, self.number) }
    }

    fn disarm(&self, py: Python<'_>, core: *mut Core) {
        // SAFETY: as above.
        unsafe { self.state(py).kind.disarm(&mut *core, self.number) };
    }

    fn deactivate(slf: &Bound<'_, Self>) {
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
            (*core).pending.retain(|&(number, _)| number != this.number);
            if let Some(object) = (*core).watchers.remove(&this.number) {
                ffi::Py_DECREF(object);
            }
        }
    }

    fn begin(
        slf: &Bound<'_, Self>,
        callback: Py<PyAny>,
        arguments: &Bound<'_, PyTuple>,
        pass_events: bool,
    ) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        let core = this.core(py)?;
        if this.state(py).closed {
            return Err(PyValueError::new_err("the watcher was closed"));
        }
        if !callback.bind(py).is_callable() {
            let kind = callback.bind(py).get_type().name()?.to_string();
            return Err(PyTypeError::new_err(format!("Expected callable, not {kind}")));
        }
        let old = {
            let state = this.state(py);
            state.pass_events = pass_events;
            (state.callback.replace(callback), state.arguments.replace(arguments.clone().unbind()))
        };
        drop(old);
        if this.state(py).active {
            return Ok(());
        }
        if let Err(error) = this.arm(py, core) {
            let state = this.state(py);
            drop((state.callback.take(), state.arguments.take()));
            return Err(error);
        }
        this.state(py).active = true;
        // SAFETY: with the GIL; the loop holds what is active.
        unsafe {
            (*core).watchers.insert(this.number, owned(slf.as_ptr()));
            if this.state(py).referenced {
                (*core).references += 1;
            }
        }
        Ok(())
    }

    fn kind_error(&self, py: Python<'_>, name: &str) -> PyErr {
        PyAttributeError::new_err(format!("a watcher of kind {:?} has no {name}", self.kind_name(py)))
    }

    fn kind_name(&self, py: Python<'_>) -> &'static str {
        self.state(py).kind.name()
    }
}

/// Calls what a watcher is to call; `bits` say what happened.
///
/// # Safety
///
/// The GIL is held; both objects are alive and held by the caller, `object` is a watcher.
pub(super) unsafe fn fire(holder: *mut PyObject, object: *mut PyObject, bits: i32) {
    // SAFETY: everything is raw before anything can switch.
    unsafe {
        let Some((callback, arguments)) = prepare(object, bits) else { return };
        let result = if arguments.is_null() {
            ptr::null_mut()
        } else {
            ffi::PyObject_Call(callback, arguments, ptr::null_mut())
        };
        if result.is_null() {
            turns::handle_error(holder, object);
        } else {
            ffi::Py_DECREF(result);
        }
        ffi::Py_DECREF(callback);
        ffi::Py_XDECREF(arguments);
    }
}

/// What to call, both owned; arguments are null if an exception is set. `None` if there is nothing to call.
unsafe fn prepare(object: *mut PyObject, bits: i32) -> Option<(*mut PyObject, *mut PyObject)> {
    // SAFETY: with the GIL; a live watcher.
    unsafe {
        let py = Python::assume_attached();
        let watcher = Borrowed::from_ptr(py, object).cast::<Watcher>().ok()?;
        let this = watcher.get();
        let core = this.core(py).ok()?;
        let mut ends = false;
        match &mut this.state(py).kind {
            Kind::Timer { repeat, at, timer, .. } if bits & TIMER != 0 => {
                if *repeat > 0.0 {
                    // In step with the clock, unless it was late by more than a round.
                    *at = (*at + nanoseconds(*repeat)).max((*core).hub.now());
                    *timer = Some((*core).hub.tell_at(*at, this.number));
                } else {
                    *timer = None;
                    ends = true;
                }
            }
            Kind::Child { child: Some(child), watch, .. } if child.is_parents() => {
                // In a fork's child its end is nobody's business.
                if let Some(watch) = watch.take() {
                    (*core).hub.unwatch(watch);
                }
                return None;
            }
            Kind::Child { pid, child, rpid, rstatus, .. } => match child.as_ref().map(ChildExit::try_reap) {
                Some(Ok(Some(status))) => {
                    *rpid = *pid;
                    // Of one that somebody else waited for nothing is known but that it ended.
                    *rstatus = match status {
                        ExitStatus::Taken => 0,
                        known => known.raw().unwrap_or(0),
                    };
                    ends = true;
                }
                _ => return None,
            },
            _ => {}
        }
        let callback = this.state(py).callback.as_ref().map(|it| it.clone_ref(py))?.into_ptr();
        let arguments = this.state(py).arguments.as_ref().map(|it| it.clone_ref(py));
        let arguments =
            arguments.map_or_else(|| owned(crate::greenlet::types::errors().empty_tuple), Py::into_ptr);
        let arguments = if this.state(py).pass_events { with_events(arguments, bits) } else { arguments };
        if ends {
            Watcher::deactivate(&watcher);
            // Its function is called once, so nothing of it is kept.
            let state = this.state(py);
            let (old_callback, old_arguments) = (state.callback.take(), state.arguments.take());
            drop((old_callback, old_arguments));
        }
        Some((callback, arguments))
    }
}

/// The arguments with the first one replaced by the events; takes a reference and gives one.
unsafe fn with_events(arguments: *mut PyObject, bits: i32) -> *mut PyObject {
    // SAFETY: an owned tuple.
    unsafe {
        let count = ffi::PyTuple_GET_SIZE(arguments);
        let tuple = ffi::PyTuple_New(count.max(1));
        if !tuple.is_null() {
            ffi::PyTuple_SET_ITEM(tuple, 0, ffi::PyLong_FromLong((bits & 0xff).into()));
            for index in 1..count {
                ffi::PyTuple_SET_ITEM(tuple, index, owned(ffi::PyTuple_GET_ITEM(arguments, index)));
            }
        }
        ffi::Py_DECREF(arguments);
        tuple
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

    /// Of a timer: start again with its interval; stop it if it has none.
    #[pyo3(signature = (callback, *args, update = true))]
    fn again(
        slf: &Bound<'_, Self>,
        callback: Py<PyAny>,
        args: &Bound<'_, PyTuple>,
        update: bool,
    ) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        let core = this.core(py)?;
        let Kind::Timer { after, repeat, .. } = &mut this.state(py).kind else {
            return Err(this.kind_error(py, "again"));
        };
        let (before, interval) = (*after, *repeat);
        if update {
            // SAFETY: with the GIL, for this statement.
            unsafe { (*core).hub.update_now() };
        }
        Self::deactivate(slf);
        if interval > 0.0 {
            if let Kind::Timer { after, .. } = &mut this.state(py).kind {
                *after = interval;
            }
            let started = Self::begin(slf, callback, args, false);
            if let Kind::Timer { after, .. } = &mut this.state(py).kind {
                *after = before;
            }
            return started;
        }
        Ok(())
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

    /// Of an asynchronous watcher: have it called, from any thread.
    fn send(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        if !matches!(this.state(py).kind, Kind::Async) {
            return Err(this.kind_error(py, "send"));
        }
        let core = this.core(py)?;
        // SAFETY: with the GIL, for these statements.
        unsafe {
            if this.state(py).active && !(*core).sent.contains(&this.number) {
                (*core).sent.push(this.number);
            }
            (*core).hub.remote().nudge();
        }
        Ok(())
    }

    /// The same, whatever the argument.
    fn send_ignoring_arg(slf: &Bound<'_, Self>, _ignored: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::send(slf)
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
        unsafe { (*core).pending.push_back((this.number, revents)) };
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
            (*core).pending.iter().any(|&(number, _)| number == self.number)
                || (*core).sent.contains(&self.number)
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

    #[getter]
    fn fd(&self, py: Python<'_>) -> PyResult<i32> {
        match self.state(py).kind {
            Kind::Io { descriptor, .. } => Ok(descriptor),
            _ => Err(self.kind_error(py, "fd")),
        }
    }

    #[setter]
    fn set_fd(&self, py: Python<'_>, fd: i32) -> PyResult<()> {
        let state = self.state(py);
        if state.active {
            return Err(PyAttributeError::new_err(
                "'io' watcher attribute 'fd' is read-only while watcher is active",
            ));
        }
        match &mut state.kind {
            Kind::Io { descriptor, .. } => {
                *descriptor = fd;
                Ok(())
            }
            _ => Err(self.kind_error(py, "fd")),
        }
    }

    #[getter]
    fn events(&self, py: Python<'_>) -> PyResult<i32> {
        match self.state(py).kind {
            Kind::Io { events, .. } => Ok(events),
            _ => Err(self.kind_error(py, "events")),
        }
    }

    #[setter]
    fn set_events(&self, py: Python<'_>, value: i32) -> PyResult<()> {
        let state = self.state(py);
        if state.active {
            return Err(PyAttributeError::new_err(
                "'io' watcher attribute 'events' is read-only while watcher is active",
            ));
        }
        match &mut state.kind {
            Kind::Io { events, .. } => {
                *events = value;
                Ok(())
            }
            _ => Err(self.kind_error(py, "events")),
        }
    }

    /// Of a timer: when it is due, in seconds of the loop's clock.
    #[getter]
    fn at(&self, py: Python<'_>) -> PyResult<f64> {
        match self.state(py).kind {
            Kind::Timer { at, .. } => Ok(at as f64 / 1e9),
            _ => Err(self.kind_error(py, "at")),
        }
    }

    #[getter]
    fn pid(&self, py: Python<'_>) -> PyResult<i32> {
        match self.state(py).kind {
            Kind::Child { pid, .. } => Ok(pid),
            _ => Err(self.kind_error(py, "pid")),
        }
    }

    #[getter]
    fn rpid(&self, py: Python<'_>) -> PyResult<i32> {
        match self.state(py).kind {
            Kind::Child { rpid, .. } => Ok(rpid),
            _ => Err(self.kind_error(py, "rpid")),
        }
    }

    #[getter]
    fn rstatus(&self, py: Python<'_>) -> PyResult<i32> {
        match self.state(py).kind {
            Kind::Child { rstatus, .. } => Ok(rstatus),
            _ => Err(self.kind_error(py, "rstatus")),
        }
    }

    #[getter]
    fn signum(&self, py: Python<'_>) -> PyResult<i32> {
        match self.state(py).kind {
            Kind::Signal { signal } => Ok(signal),
            _ => Err(self.kind_error(py, "signum")),
        }
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let (this, py) = (slf.get(), slf.py());
        let mut text = format!("<{} at {:#x}", this.kind_name(py), slf.as_ptr().addr());
        match this.state(py).kind {
            Kind::Io { descriptor, events, .. } => {
                let names = ["NONE", "READ", "WRITE", "READ|WRITE"][(events & 3) as usize];
                text += &format!(" fd={descriptor} events={names}");
            }
            Kind::Timer { after, repeat, .. } => text += &format!(" after={after:?} repeat={repeat:?}"),
            Kind::Child { pid, rstatus, .. } => text += &format!(" pid={pid} rstatus={rstatus}"),
            Kind::Signal { signal } => text += &format!(" signum={signal}"),
            Kind::Async | Kind::Phase(_) => {}
        }
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
