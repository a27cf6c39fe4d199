//! How a greenlet waits.
//!
//! It enters itself in the table of waiters, arranges to be woken, and switches away: straight to the next one that is ready, if
//! that is a greenlet, the turn is not over and nobody watches switches; else to the hub's greenlet. When somebody
//! switches back, it looks whether its wait is over. If it is not, that was no wake-up but a switch by somebody who
//! had no business here, or an exception thrown into it; the wait is withdrawn either way.
//!
//! Only raw pointers lie on the stack across a switch.

use std::ffi::CStr;
use std::ptr;

use pyo3::ffi::{self, PyMethodDef, PyMethodDefPointer, PyObject};
use pyo3::prelude::*;
use weft_hub::WaiterKey;
use weft_reactor::TimerKey;
use weft_sys::clock::monotonic;

use super::core::{Core, Item};
use super::eventloop::core_of;
use crate::ffi::current_thread_state;
use crate::gil::GilCell;
use crate::greenlet::object::{Life, PyGreenlet, body, owned};
use crate::greenlet::parcel::Parcel;
use crate::greenlet::switch;
use crate::greenlet::thread::current_thread;

/// A function with the interpreter's fast calling convention.
pub(super) type Fast = unsafe extern "C" fn(*mut PyObject, *mut *mut PyObject, isize) -> *mut PyObject;

pub(super) const fn fast(name: &'static CStr, function: Fast, doc: &'static CStr) -> PyMethodDef {
    PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: PyMethodDefPointer { PyCFunctionFast: function },
        ml_flags: ffi::METH_FASTCALL,
        ml_doc: doc.as_ptr(),
    }
}

/// The exceptions of the face, owned for good.
#[derive(Clone, Copy)]
struct Exceptions {
    invalid_switch: *mut PyObject,
    in_use: *mut PyObject,
    cancelled: *mut PyObject,
}

static EXCEPTIONS: GilCell<Exceptions> = GilCell::new(Exceptions {
    invalid_switch: ptr::null_mut(),
    in_use: ptr::null_mut(),
    cancelled: ptr::null_mut(),
});

/// Tells the native half which exceptions to raise.
#[pyfunction]
pub(super) fn set_exceptions(invalid_switch: Py<PyAny>, in_use: Py<PyAny>, cancelled: Py<PyAny>) {
    let exceptions = Exceptions {
        invalid_switch: invalid_switch.into_ptr(),
        in_use: in_use.into_ptr(),
        cancelled: cancelled.into_ptr(),
    };
    // SAFETY: with the GIL. What was there before stays alive, as somebody may be raising it.
    unsafe { *EXCEPTIONS.get() = exceptions };
}

unsafe fn raise(kind: impl FnOnce(Exceptions) -> *mut PyObject, message: &CStr) -> *mut PyObject {
    // SAFETY: the GIL is held; before the face is imported there are no exceptions of its own.
    unsafe {
        let kind = kind(*EXCEPTIONS.get());
        ffi::PyErr_SetString(if kind.is_null() { ffi::PyExc_RuntimeError } else { kind }, message.as_ptr());
        ptr::null_mut()
    }
}

/// Says that a greenlet was switched to by somebody that it did not wait for.
pub(super) unsafe fn raise_invalid_switch(me: *mut PyGreenlet, result: *mut PyObject) {
    // SAFETY: the GIL is held, and both are alive.
    unsafe {
        let kind = (*EXCEPTIONS.get()).invalid_switch;
        ffi::PyErr_Format(
            if kind.is_null() { ffi::PyExc_RuntimeError } else { kind },
            c"Invalid switch into %R: got %R, but it waits for something else".as_ptr(),
            me,
            result,
        );
    }
}

/// Says that two wait for the same.
pub(super) unsafe fn raise_in_use() -> *mut PyObject {
    // SAFETY: the GIL is held.
    unsafe { raise(|all| all.in_use, c"this socket is already used by another greenlet") }
}

/// Says that what is waited for was closed.
pub(super) unsafe fn raise_cancelled() -> *mut PyObject {
    // SAFETY: the GIL is held.
    unsafe {
        let kind = (*EXCEPTIONS.get()).cancelled;
        if kind.is_null() {
            ffi::PyErr_SetString(
                ffi::PyExc_OSError,
                c"file descriptor was closed in another greenlet".as_ptr(),
            );
        } else {
            ffi::PyErr_SetObject(kind, ptr::null_mut());
        }
        ptr::null_mut()
    }
}

/// Whether there are as many arguments as there may be; otherwise with a TypeError set.
pub(super) unsafe fn check_count(name: &CStr, count: isize, least: isize, most: isize) -> bool {
    // SAFETY: the GIL is held.
    unsafe {
        if (least..=most).contains(&count) {
            return true;
        }
        ffi::PyErr_Format(
            ffi::PyExc_TypeError,
            c"%s() takes %zd to %zd arguments (%zd given)".as_ptr(),
            name.as_ptr(),
            least,
            most,
            count,
        );
        false
    }
}

/// Checks how many arguments there are, and finds the loop, the first one.
pub(super) unsafe fn loop_argument(
    name: &CStr,
    arguments: *const *mut PyObject,
    count: isize,
    least: isize,
    most: isize,
) -> *mut Core {
    // SAFETY: vectorcall's conventions.
    unsafe {
        if !check_count(name, count, least, most) {
            return ptr::null_mut();
        }
        core_of(arguments.read())
    }
}

/// The greenlet that runs; null with an exception set if there cannot be one.
pub(super) unsafe fn current() -> *mut PyGreenlet {
    // SAFETY: the GIL is held.
    unsafe {
        let thread = current_thread(current_thread_state());
        if thread.is_null() { ptr::null_mut() } else { (*thread).current }
    }
}

/// Switches away: to the next one that is ready, or to the hub. Gives what the switch back brings.
///
/// # Safety
///
/// The GIL is held; nothing of `core` is borrowed, and it stays alive.
pub(super) unsafe fn switch_away(core: *mut Core) -> *mut PyObject {
    // SAFETY: the core is borrowed for single statements; what is switched to is held.
    unsafe {
        let thread = current_thread(current_thread_state());
        if thread.is_null() {
            return ptr::null_mut();
        }
        let hub = (*core).greenlet;
        if hub.is_null() || (*body(hub)).life == Life::Dead {
            ffi::PyErr_SetString(
                ffi::PyExc_RuntimeError,
                c"nobody runs this loop: its hub has ended; get_hub() makes another one".as_ptr(),
            );
            return ptr::null_mut();
        }
        let current = (*thread).current;
        if current == hub {
            // The hub cannot wait for itself. Its own method says so, in the face's words.
            let result = ffi::PyObject_CallMethod(hub.cast(), c"switch_out".as_ptr(), ptr::null());
            if !result.is_null() {
                ffi::Py_DECREF(result);
                ffi::PyErr_SetString(ffi::PyExc_RuntimeError, c"the hub cannot wait".as_ptr());
            }
            return ptr::null_mut();
        }
        let direct = (*body(hub)).life == Life::Active
            && (*thread).tracefunc.is_null()
            && (*body(hub)).main == (*thread).main
            && matches!((*core).hub.waiters.peek_ready(), Some(Item::Greenlet(_)))
            && (*core).hub.may_hand_over();
        if direct && let Some(Item::Greenlet(next)) = (*core).hub.waiters.next_ready() {
            let none = owned(ffi::Py_None());
            if next == current {
                ffi::Py_DECREF(next.cast());
                return none;
            }
            let result = switch::switch(next, Parcel::Value(none));
            ffi::Py_DECREF(next.cast());
            return result;
        }
        owned(hub);
        let result = switch::switch(
            hub,
            Parcel::Arguments(owned(crate::greenlet::types::errors().empty_tuple), ptr::null_mut()),
        );
        ffi::Py_DECREF(hub.cast());
        result
    }
}

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Somebody woke it.
    Woken,
    /// Its time was over.
    TimedOut,
    /// An exception is set.
    Failed,
}

/// What one waits for, beside the time.
pub(super) enum Until {
    Nothing,
    Source(weft_reactor::SourceKey, weft_reactor::Ready),
}

/// Parks the current greenlet until it is woken: by what `until` says, at the instant `at`, if there is one, or at once
/// if `posted`.
///
/// # Safety
///
/// The GIL is held; `holder` is the object that holds `core`, and nothing of it is borrowed.
pub(super) unsafe fn park(
    holder: *mut PyObject,
    core: *mut Core,
    until: &Until,
    at: Option<u64>,
    posted: bool,
) -> Outcome {
    // SAFETY: `core` is borrowed for single statements and held by the reference taken here.
    unsafe {
        let me = current();
        if me.is_null() {
            return Outcome::Failed;
        }
        let item = Item::Greenlet(owned(me));
        let key: WaiterKey =
            if posted { (*core).hub.waiters.post(item) } else { (*core).hub.waiters.park(item) };
        if let Until::Source(source, direction) = *until
            && (*core).hub.wake_when_ready(source, direction, key).is_err()
        {
            withdraw(core, key);
            raise_in_use();
            return Outcome::Failed;
        }
        let timer: Option<TimerKey> = at.map(|at| (*core).hub.wake_at(at, key));
        owned(holder);
        (*core).references += 1;
        let result = switch_away(core);
        (*core).references -= 1;
        let mut fired = false;
        if let Some(timer) = timer {
            fired = !(*core).hub.cancel_timer(timer);
        }
        let was_waiting = withdraw(core, key);
        ffi::Py_DECREF(holder);
        if result.is_null() {
            return Outcome::Failed;
        }
        if was_waiting {
            raise_invalid_switch(me, result);
            ffi::Py_DECREF(result);
            return Outcome::Failed;
        }
        ffi::Py_DECREF(result);
        if fired { Outcome::TimedOut } else { Outcome::Woken }
    }
}

pub(super) unsafe fn withdraw(core: *mut Core, key: WaiterKey) -> bool {
    // SAFETY: passed on; the item is released when nothing is borrowed. The greenlet that it holds is the current one, so
    // that nothing dies.
    unsafe {
        match (*core).hub.waiters.withdraw(key) {
            Some(item) => {
                item.release();
                true
            }
            None => false,
        }
    }
}

/// Seconds from now as an instant; never, if that is too far.
pub(super) fn instant_after(seconds: f64) -> Option<u64> {
    let nanoseconds = seconds * 1e9;
    if nanoseconds >= (1_u64 << 62) as f64 { None } else { Some(monotonic() + nanoseconds.max(0.0) as u64) }
}

pub(super) const SLEEP_DOC: &CStr = c"sleep(loop, seconds) -> None\n\n\
Park the current greenlet for so long. Others run meanwhile.";

pub(super) unsafe extern "C" fn sleep(
    _module: *mut PyObject,
    arguments: *mut *mut PyObject,
    count: isize,
) -> *mut PyObject {
    // SAFETY: called by the interpreter; the arguments are alive throughout.
    unsafe {
        let core = loop_argument(c"sleep", arguments, count, 2, 2);
        if core.is_null() {
            return ptr::null_mut();
        }
        let seconds = ffi::PyFloat_AsDouble(arguments.add(1).read());
        if seconds == -1.0 && !ffi::PyErr_Occurred().is_null() {
            return ptr::null_mut();
        }
        if seconds.is_nan() {
            ffi::PyErr_SetString(ffi::PyExc_ValueError, c"the time to sleep is no number".as_ptr());
            return ptr::null_mut();
        }
        let at = instant_after(seconds);
        none_unless_failed(park(arguments.read(), core, &Until::Nothing, at, false))
    }
}

pub(super) const GIVE_WAY_DOC: &CStr = c"give_way(loop) -> None\n\n\
Park the current greenlet behind all that are ready.";

pub(super) unsafe extern "C" fn give_way(
    _module: *mut PyObject,
    arguments: *mut *mut PyObject,
    count: isize,
) -> *mut PyObject {
    // SAFETY: as for `sleep`.
    unsafe {
        let core = loop_argument(c"give_way", arguments, count, 1, 1);
        if core.is_null() {
            return ptr::null_mut();
        }
        none_unless_failed(park(arguments.read(), core, &Until::Nothing, None, true))
    }
}

unsafe fn none_unless_failed(outcome: Outcome) -> *mut PyObject {
    match outcome {
        Outcome::Failed => ptr::null_mut(),
        // SAFETY: the GIL is held.
        _ => unsafe { owned(ffi::Py_None()) },
    }
}

pub(super) const SWITCH_DOC: &CStr = c"switch(loop) -> object\n\n\
Switch away from the current greenlet, which has arranged to be switched back to;\n\
returns what that switch brings.";

pub(super) unsafe extern "C" fn switch(
    _module: *mut PyObject,
    arguments: *mut *mut PyObject,
    count: isize,
) -> *mut PyObject {
    // SAFETY: as for `sleep`.
    unsafe {
        let core = loop_argument(c"switch", arguments, count, 1, 1);
        if core.is_null() {
            return ptr::null_mut();
        }
        let holder = owned(arguments.read());
        let result = switch_away(core);
        ffi::Py_DECREF(holder);
        result
    }
}
