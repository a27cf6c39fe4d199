//! One step of a coroutine, in the hub's greenlet: what it waited for is sent in, and what it yields is waited for.

use std::ptr;

use pyo3::exceptions::{PyRuntimeError, PyStopIteration, PyValueError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::core::{Core, Item};
use super::coroutine::{Coroutine, Inner, Next, State, name_of};
use super::eventloop::Loop;
use super::{park, turns};
use crate::gil::GilCell;
use crate::greenlet::object::owned;
use crate::greenlet::types::errors;

/// So often a coroutine goes on at once because what it yields has come already; then others have their turn.
const AT_ONCE: u32 = 64;

/// The face's function that knows how to wait for anything; owned for good.
static ARRANGER: GilCell<*mut PyObject> = GilCell::new(ptr::null_mut());

/// Tell the native half how to wait for what it does not know: `arrange(coroutine, object)`.
///
/// It returns a tuple with the result if that has come, or None when it has arranged for the coroutine to be woken; then it is asked
/// again. What it raises is raised in the coroutine.
#[pyfunction]
pub(super) fn set_arranger(arrange: Py<PyAny>) {
    // SAFETY: with the GIL. The one before stays alive, as it may be running.
    unsafe { *ARRANGER.get() = arrange.into_ptr() };
}

/// What became of a look at what was yielded.
enum Wait {
    /// It is in the table.
    Entered,
    /// It goes on with this.
    Over(Next),
}

/// What became of a step.
enum Sent {
    Yielded(Py<PyAny>),
    Ended(Next),
}

/// Steps a coroutine that was woken; takes the reference to it.
///
/// # Safety
///
/// The GIL is held, in the greenlet that runs the loop `holder`.
pub(super) unsafe fn step(holder: *mut PyObject, object: *mut PyObject) {
    // SAFETY: the reference is this function's from here on. Nothing of the core is borrowed while Python code may run.
    unsafe {
        let py = Python::assume_attached();
        let object = Bound::from_owned_ptr(py, object);
        let Ok(coroutine) = object.cast::<Coroutine>() else { return };
        let Some(mut next) = leave_wait(coroutine) else { return };
        let mut at_once = 0;
        loop {
            let yielded = match send(py, holder, coroutine, next) {
                Sent::Yielded(yielded) => yielded,
                Sent::Ended(outcome) => {
                    finish(coroutine, outcome);
                    return;
                }
            };
            match wait_for(coroutine, yielded) {
                Wait::Entered => return,
                Wait::Over(over) => next = over,
            }
            at_once += 1;
            if at_once == AT_ONCE {
                let Some(core) = coroutine.get().core(py) else { return };
                let inner = coroutine.get().inner();
                (*inner).next = Some(next);
                post(core, coroutine);
                return;
            }
        }
    }
}

/// Ends the wait of a coroutine that was woken. Returns what it goes on with; `None` if it waits on, or is over.
fn leave_wait(coroutine: &Bound<'_, Coroutine>) -> Option<Next> {
    let (py, this) = (coroutine.py(), coroutine.get());
    let core = this.core(py)?;
    // SAFETY: with the GIL. What is taken is used, or dropped, when nothing is borrowed.
    let (undo, target, mut next) = unsafe {
        let inner = this.inner();
        (*inner).state = State::Running;
        take_back(core, inner);
        ((*inner).undo.take(), (*inner).target.take(), (*inner).next.take())
    };
    if let Some(undo) = undo
        && let Err(error) = undo.call1(py, (next.is_some(),))
    {
        error.write_unraisable(py, Some(coroutine.as_any()));
    }
    if next.is_none() {
        // SAFETY: as above.
        next = unsafe { (*this.inner()).thrown.take().map(Next::Error) };
    }
    match (next, target) {
        (Some(next), _) => Some(next),
        (None, None) => Some(Next::Value(py.None())),
        (None, Some(target)) => match wait_for(coroutine, target) {
            Wait::Entered => None,
            Wait::Over(next) => Some(next),
        },
    }
}

/// Takes back what its loop was asked for, for a wait that is over.
///
/// # Safety
///
/// The GIL is held; `core` is that of its loop, and neither is borrowed.
unsafe fn take_back(core: *mut Core, inner: *mut Inner) {
    // SAFETY: the caller's promise; nothing here runs Python code.
    unsafe {
        if let Some(timer) = (*inner).timer.take() {
            (*core).hub.cancel_timer(timer);
        }
        if let Some(watch) = (*inner).watch.take() {
            (*core).hub.unwatch(watch);
        }
        if std::mem::take(&mut (*inner).referenced) {
            (*core).references -= 1;
        }
    }
}

/// Sends something in, or throws it.
fn send(py: Python<'_>, holder: *mut PyObject, coroutine: &Bound<'_, Coroutine>, next: Next) -> Sent {
    // SAFETY: with the GIL; cloning runs no Python code.
    let generator =
        unsafe { (*coroutine.get().inner()).generator.as_ref().map(|known| known.bind(py).clone()) };
    let Some(generator) = generator else { return Sent::Ended(Next::Value(py.None())) };
    let before = note_stepping(py, holder, coroutine.as_ptr());
    let sent = match next {
        Next::Value(value) => {
            let mut result = ptr::null_mut();
            // SAFETY: live objects; the result is owned if there is one.
            unsafe {
                match ffi::PyIter_Send(generator.as_ptr(), value.as_ptr(), &raw mut result) {
                    ffi::PySendResult::PYGEN_NEXT => {
                        Sent::Yielded(Bound::from_owned_ptr(py, result).unbind())
                    }
                    ffi::PySendResult::PYGEN_RETURN => {
                        Sent::Ended(Next::Value(Bound::from_owned_ptr(py, result).unbind()))
                    }
                    ffi::PySendResult::PYGEN_ERROR => Sent::Ended(raised(py, PyErr::fetch(py))),
                }
            }
        }
        Next::Error(error) => match generator.call_method1(pyo3::intern!(py, "throw"), (error,)) {
            Ok(yielded) => Sent::Yielded(yielded.unbind()),
            Err(error) if error.is_instance_of::<PyStopIteration>(py) => {
                match error.value(py).getattr(pyo3::intern!(py, "value")) {
                    Ok(value) => Sent::Ended(Next::Value(value.unbind())),
                    Err(error) => Sent::Ended(raised(py, error)),
                }
            }
            Err(error) => Sent::Ended(raised(py, error)),
        },
    };
    note_stepping(py, holder, before);
    sent
}

fn raised(py: Python<'_>, error: PyErr) -> Next {
    Next::Error(error.into_value(py).into_any())
}

/// Says which coroutine is stepped, and returns which one was. Borrowed: who steps holds it.
fn note_stepping(py: Python<'_>, holder: *mut PyObject, stepped: *mut PyObject) -> *mut PyObject {
    // SAFETY: the holder is held by whoever runs it, and the core is looked at with the GIL.
    unsafe {
        match Borrowed::from_ptr(py, holder).cast::<Loop>().ok().and_then(|found| found.get().core(py)) {
            Some(core) => std::mem::replace(&mut (*core).stepping, stepped),
            None => ptr::null_mut(),
        }
    }
}

/// Puts it behind all that are ready.
fn post(core: *mut Core, coroutine: &Bound<'_, Coroutine>) {
    let item = Item::Coroutine(coroutine.clone().into_ptr());
    let inner = coroutine.get().inner();
    // SAFETY: with the GIL, for these statements.
    unsafe {
        (*inner).state = State::Waiting;
        (*inner).key = (*core).hub.waiters.post(item);
    }
}

/// Enters it in the table.
fn enter(core: *mut Core, coroutine: &Bound<'_, Coroutine>) {
    let item = Item::Coroutine(coroutine.clone().into_ptr());
    let inner = coroutine.get().inner();
    // SAFETY: with the GIL, for these statements.
    unsafe {
        (*inner).state = State::Waiting;
        (*inner).key = (*core).hub.waiters.park(item);
    }
}

/// Has the coroutine wait for what it yielded.
fn wait_for(coroutine: &Bound<'_, Coroutine>, yielded: Py<PyAny>) -> Wait {
    let (py, this) = (coroutine.py(), coroutine.get());
    // SAFETY: with the GIL, for this statement.
    if let Some(error) = unsafe { (*this.inner()).thrown.take() } {
        return Wait::Over(Next::Error(error));
    }
    let seconds = if yielded.is_none(py) { Ok(Some(0.0)) } else { seconds_of(yielded.bind(py)) };
    // Behind that, which may run Python code.
    let Some(core) = this.core(py) else { return Wait::Over(Next::Value(py.None())) };
    match seconds {
        Ok(None) => {}
        Ok(Some(seconds)) if seconds <= 0.0 => {
            post(core, coroutine);
            return Wait::Entered;
        }
        Ok(Some(seconds)) => {
            enter(core, coroutine);
            let inner = this.inner();
            // SAFETY: with the GIL, for these statements.
            unsafe {
                if let Some(at) = park::instant_after(seconds) {
                    (*inner).timer = Some((*core).hub.wake_at(at, (*inner).key));
                }
                this.refer(core);
            }
            return Wait::Entered;
        }
        Err(error) => return Wait::Over(raised(py, error)),
    }
    if let Ok(other) = yielded.bind(py).cast::<Coroutine>() {
        let other = other.get();
        if let Some(outcome) = other.outcome(py) {
            return Wait::Over(outcome);
        }
        if other.core(py) == Some(core) {
            if ptr::eq(other, this) {
                let error = PyRuntimeError::new_err("a coroutine cannot wait for its own end");
                return Wait::Over(raised(py, error));
            }
            enter(core, coroutine);
            // SAFETY: with the GIL, for these statements.
            unsafe {
                other.add_waiter(core, (*this.inner()).key);
                (*this.inner()).target = Some(yielded);
            }
            return Wait::Entered;
        }
    }
    ask(core, coroutine, yielded)
}

/// Seconds, if the object is a number: an int or a float, and no bool.
fn seconds_of(object: &Bound<'_, PyAny>) -> PyResult<Option<f64>> {
    let raw = object.as_ptr();
    // SAFETY: a live object, looked at.
    let is_number = unsafe {
        ffi::PyFloat_Check(raw) != 0 || (ffi::PyLong_Check(raw) != 0 && ffi::PyBool_Check(raw) == 0)
    };
    if !is_number {
        return Ok(None);
    }
    let seconds: f64 = object.extract()?;
    if seconds.is_nan() {
        return Err(PyValueError::new_err("the time to sleep is no number"));
    }
    Ok(Some(seconds))
}

/// Asks the arranger.
fn ask(core: *mut Core, coroutine: &Bound<'_, Coroutine>, yielded: Py<PyAny>) -> Wait {
    let (py, this) = (coroutine.py(), coroutine.get());
    enter(core, coroutine);
    // SAFETY: with the GIL; the arranger is there for good, once it is.
    let arranged = unsafe {
        (*this.inner()).target = Some(yielded.clone_ref(py));
        match Borrowed::from_ptr_or_opt(py, *ARRANGER.get()) {
            Some(arrange) => arrange.call1((coroutine, yielded)),
            None => Err(PyRuntimeError::new_err("nobody arranges what coroutines wait for")),
        }
    };
    let over = match arranged {
        Ok(result) if result.is_none() => return Wait::Entered,
        Ok(result) => match result.cast::<PyTuple>().map_err(PyErr::from).and_then(|it| it.get_item(0)) {
            Ok(value) => Next::Value(value.unbind()),
            Err(error) => raised(py, error),
        },
        Err(error) => raised(py, error),
    };
    // It does not wait after all.
    let parts = if let Some(core) = this.core(py) {
        // SAFETY: with the GIL; what is taken is dropped, or called, when nothing is borrowed.
        unsafe {
            let inner = this.inner();
            (*inner).state = State::Running;
            take_back(core, inner);
            let item = (*core).hub.waiters.withdraw((*inner).key);
            ((*inner).undo.take(), (*inner).target.take(), item)
        }
    } else {
        (None, None, None)
    };
    let (undo, target, item) = parts;
    if let Some(item) = item {
        // SAFETY: with the GIL; the coroutine is held by the caller, so that nothing dies.
        unsafe { item.release() };
    }
    drop(target);
    if let Some(undo) = undo
        && let Err(error) = undo.call1(py, (true,))
    {
        error.write_unraisable(py, Some(coroutine.as_any()));
    }
    Wait::Over(over)
}

/// Notes what it has come to, and tells whoever waits for that.
pub(super) fn finish(coroutine: &Bound<'_, Coroutine>, outcome: Next) {
    let (py, this) = (coroutine.py(), coroutine.get());
    let core = this.core(py);
    let (mut value, mut failed) = match outcome {
        Next::Value(value) => (value, false),
        Next::Error(error) => (error, true),
    };
    // A GreenletExit is a value, as a greenlet's is.
    // SAFETY: the class is there for good.
    let exit = unsafe { Borrowed::from_ptr(py, errors().greenlet_exit) };
    if failed && value.bind(py).is_instance(&exit).unwrap_or(false) {
        failed = false;
    }
    // SAFETY: with the GIL; cloning runs no Python code.
    let generator = unsafe { (*this.inner()).generator.as_ref().map(|generator| generator.bind(py).clone()) };
    let name = generator.and_then(|generator| name_of(&generator));
    // SAFETY: with the GIL; what is taken is dropped when nothing is borrowed.
    let (parts, waiters, links) = unsafe {
        let inner = this.inner();
        value = match (*inner).outcome.replace(value.clone_ref(py)) {
            Some(_) => return,
            None => value,
        };
        (*inner).failed = failed;
        (*inner).name = name;
        (*inner).state = State::Done;
        let links = (*inner).links.as_ref().map(|links| links.clone_ref(py));
        let parts = ((*inner).generator.take(), (*inner).next.take(), (*inner).thrown.take());
        (parts, std::mem::take(&mut (*inner).waiters), links)
    };
    if let Some(core) = core {
        for key in waiters {
            // SAFETY: with the GIL, for this statement.
            unsafe { (*core).hub.waiters.wake(key) };
        }
    }
    drop(parts);
    if links.is_some_and(|links| !links.bind(py).is_empty())
        && let Err(error) = coroutine.call_method0(pyo3::intern!(py, "_notify"))
    {
        error.write_unraisable(py, Some(coroutine.as_any()));
    }
    // SAFETY: with the GIL; what is taken is held until it is used.
    let holder = unsafe { (*this.inner()).holder.take() };
    if failed && let Some(holder) = holder {
        PyErr::from_value(value.into_bound(py)).restore(py);
        // SAFETY: with the GIL, and an exception is set. It may switch, and nothing is borrowed.
        unsafe {
            let object = owned(coroutine.as_ptr());
            turns::handle_error(holder.as_ptr(), object);
            ffi::Py_DECREF(object);
        }
    }
}
