//! How a greenlet is started: soon, later, or never.

use std::ptr;

use pyo3::ffi::{self, PyObject};
use weft_hub::WaiterKey;
use weft_reactor::TimerKey;
use weft_sys::clock::monotonic;

use super::super::class::{none, none_if};
use super::super::core::{Core, Item};
use super::super::faces::{faces, names};
use super::super::here::nudge_if_anothers;
use super::super::kind::nanoseconds;
use super::super::park;
use super::setup::make_for_call;
use super::{Spawned, Start, TYPES, my_loop, of};
use crate::greenlet::object::{PyGreenlet, SavedError, owned};

/// Says who wants to be called with every greenlet that is started: a set, or None.
pub(in super::super) unsafe extern "C" fn set_spawn_callbacks(
    _module: *mut PyObject,
    callbacks: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter.
    unsafe {
        let callbacks = if callbacks == ffi::Py_None() { ptr::null_mut() } else { owned(callbacks) };
        let old = std::mem::replace(&mut (*TYPES.get()).spawn_callbacks, callbacks);
        ffi::Py_XDECREF(old);
        none()
    }
}

/// Calls who wants to know of every start. False with an exception set.
pub(super) unsafe fn call_spawn_callbacks(this: *mut PyObject) -> bool {
    // SAFETY: a list of its own is gone through, as callbacks may change the set.
    unsafe {
        let callbacks = (*TYPES.get()).spawn_callbacks;
        if callbacks.is_null() {
            return true;
        }
        let list = ffi::PySequence_List(callbacks);
        if list.is_null() {
            return false;
        }
        let mut fine = true;
        for index in 0..ffi::PyList_GET_SIZE(list) {
            let result = ffi::PyObject_CallOneArg(ffi::PyList_GET_ITEM(list, index), this);
            fine = !result.is_null();
            ffi::Py_XDECREF(result);
            if !fine {
                break;
            }
        }
        ffi::Py_DECREF(list);
        fine
    }
}

/// Has it started soon. False with an exception set.
pub(super) unsafe fn start(this: *mut Spawned) -> bool {
    // SAFETY: the core is borrowed for single statements.
    unsafe {
        if !matches!((*this).start, Start::Never) {
            return true;
        }
        if !call_spawn_callbacks(this.cast()) {
            return false;
        }
        let Some((holder, core)) = my_loop(this) else { return false };
        let key = (*core).hub.waiters.post(Item::Start(owned(this.cast())));
        (*this).start = Start::Posted(core, key);
        nudge_if_anothers(core);
        ffi::Py_DECREF(holder);
        true
    }
}

pub(super) unsafe extern "C" fn start_method(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by the interpreter with such a greenlet.
    unsafe { none_if(start(of(this))) }
}

pub(super) unsafe extern "C" fn start_later(this: *mut PyObject, seconds: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let after = ffi::PyFloat_AsDouble(seconds);
        if after == -1.0 && !ffi::PyErr_Occurred().is_null() {
            return ptr::null_mut();
        }
        let this = of(this);
        if !matches!((*this).start, Start::Never) {
            return none();
        }
        if !call_spawn_callbacks(this.cast()) {
            return ptr::null_mut();
        }
        let Some((holder, core)) = my_loop(this) else { return ptr::null_mut() };
        let key = (*core).hub.waiters.park(Item::Start(owned(this.cast())));
        let timer = (*core).hub.wake_at(monotonic() + nanoseconds(after), key);
        (*core).references += 1;
        (*this).start = Start::Timed(core, key, timer);
        ffi::Py_DECREF(holder);
        none()
    }
}

/// Its start was taken out of the queue.
///
/// # Safety
///
/// The GIL is held; a live one of these.
pub(in super::super) unsafe fn is_starting(greenlet: *mut PyGreenlet) {
    // SAFETY: the core is the one whose queue it was in.
    unsafe {
        let this = of(greenlet.cast());
        if let Start::Timed(core, ..) = (*this).start {
            (*core).references -= 1;
        }
        (*this).start = Start::Fired;
    }
}

/// Sees to it that it is never started, unless it was. The caller holds it.
pub(super) unsafe fn cancel_start(this: *mut Spawned) {
    // SAFETY: a key means something only to the loop that it was made by, which is asked for afresh.
    unsafe {
        match (*this).start {
            Start::Never => (*this).start = Start::Cancelled,
            Start::Posted(posted, key) => {
                (*this).start = Start::Aborted;
                withdraw_start(this, posted, key, None);
            }
            Start::Timed(posted, key, timer) => {
                (*this).start = Start::Aborted;
                withdraw_start(this, posted, key, Some(timer));
            }
            _ => {}
        }
    }
}

pub(super) unsafe fn withdraw_start(
    this: *mut Spawned,
    posted: *mut Core,
    key: WaiterKey,
    timer: Option<TimerKey>,
) {
    // SAFETY: as above.
    unsafe {
        let saved = SavedError::take();
        match my_loop(this) {
            Some((holder, core)) => {
                if core == posted {
                    if let Some(timer) = timer {
                        (*core).references -= 1;
                        (*core).hub.cancel_timer(timer);
                    }
                    park::withdraw(core, key);
                }
                ffi::Py_DECREF(holder);
            }
            None => ffi::PyErr_Clear(),
        }
        saved.restore();
    }
}

pub(super) unsafe extern "C" fn cancel_start_method(
    this: *mut PyObject,
    _unused: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter with such a greenlet.
    unsafe { cancel_start(of(this)) };
    none()
}

pub(super) unsafe extern "C" fn spawn(
    kind: *mut PyObject,
    given: *const *mut PyObject,
    count: isize,
    keyword_names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter with the class.
    unsafe {
        if kind == faces().greenlet {
            let greenlet = make_for_call(given, count, keyword_names);
            if !greenlet.is_null() && !start(of(greenlet.cast())) {
                ffi::Py_DECREF(greenlet.cast());
                return ptr::null_mut();
            }
            return greenlet.cast();
        }
        let made = ffi::PyObject_Vectorcall(kind, given, count.cast_unsigned(), keyword_names);
        if made.is_null() {
            return made;
        }
        let result = ffi::PyObject_CallMethodNoArgs(made, names().start);
        if result.is_null() {
            ffi::Py_DECREF(made);
            return ptr::null_mut();
        }
        ffi::Py_DECREF(result);
        made
    }
}
