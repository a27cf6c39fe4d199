//! `settrace`: a function that is told of every switch, one a thread.

use std::ptr;

use pyo3::ffi::{self, PyObject};

use super::object::{PyGreenlet, SavedError, clear, owned};
use super::thread::{Thread, current_thread};
use super::types::errors;
use crate::ffi::current_thread_state;

/// What the tracer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Switch,
    Throw,
}

/// Calls the tracer with `(event, (origin, target))`; false if it raised, and then it is removed.
///
/// An exception that was set is set again afterwards, unless the tracer raised.
///
/// # Safety
///
/// The GIL is held, `thread` is the calling thread's and has a tracer.
pub(crate) unsafe fn call(
    thread: *mut Thread,
    event: Event,
    origin: *mut PyGreenlet,
    target: *mut PyGreenlet,
) -> bool {
    // SAFETY: the tracer is held during its call. The interpreter's own tracing is off meanwhile, as the greenlet
    // package does, so that a debugger does not step through it.
    unsafe {
        let saved = SavedError::take();
        let tracer = owned((*thread).tracefunc);
        let name = match event {
            Event::Switch => errors().event_switch,
            Event::Throw => errors().event_throw,
        };
        let thread_state = current_thread_state();
        ffi::PyThreadState_EnterTracing(thread_state);
        let result = ffi::PyObject_CallFunction(tracer, c"O(OO)".as_ptr(), name, origin, target);
        ffi::PyThreadState_LeaveTracing(current_thread_state());
        if result.is_null() {
            saved.discard();
            let raised = SavedError::take();
            clear(&raw mut (*thread).tracefunc);
            ffi::Py_DECREF(tracer);
            raised.restore();
            return false;
        }
        ffi::Py_DECREF(result);
        ffi::Py_DECREF(tracer);
        saved.restore();
        true
    }
}

/// `settrace(callback)`.
pub(crate) unsafe extern "C" fn settrace(_module: *mut PyObject, arguments: *mut PyObject) -> *mut PyObject {
    let mut tracer: *mut PyObject = ptr::null_mut();
    // SAFETY: called by the interpreter with a tuple; the format has one object.
    unsafe {
        if ffi::PyArg_ParseTuple(arguments, c"O".as_ptr(), &raw mut tracer) == 0 {
            return ptr::null_mut();
        }
        let thread = current_thread(current_thread_state());
        if thread.is_null() {
            return ptr::null_mut();
        }
        let new = if tracer == ffi::Py_None() { ptr::null_mut() } else { owned(tracer) };
        let old = std::mem::replace(&mut (*thread).tracefunc, new);
        if old.is_null() { owned(ffi::Py_None()) } else { old }
    }
}

/// `gettrace()`.
pub(crate) unsafe extern "C" fn gettrace(_module: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by the interpreter.
    unsafe {
        let thread = current_thread(current_thread_state());
        if thread.is_null() {
            return ptr::null_mut();
        }
        let tracer = (*thread).tracefunc;
        owned(if tracer.is_null() { ffi::Py_None() } else { tracer })
    }
}
