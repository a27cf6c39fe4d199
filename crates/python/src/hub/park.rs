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

use super::class;
use super::core::{Core, Item};
use super::eventloop::{core_of, core_of_loop};
use super::ready::{self, Step};
use crate::ffi::current_thread_state;
use crate::gil::GilCell;
use crate::greenlet::object::{Life, PyGreenlet, body, owned};
use crate::greenlet::parcel::Parcel;
use crate::greenlet::switch;
use crate::greenlet::thread::{Thread, current_thread};

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

/// Whether a greenlet of `thread` may hand over without going through the hub: that runs and waits for its turn to go on,
/// nobody watches, and the turn is not over.
unsafe fn may_hand_over(thread: *mut Thread, core: *mut Core, hub: *mut PyGreenlet) -> bool {
    // SAFETY: the GIL is held, all are alive.
    unsafe {
        (*body(hub)).life == Life::Active
            && (*thread).tracefunc.is_null()
            && (*body(hub)).main == (*thread).main
            && !(*thread).hub_watches
            && (*core).between
            && (*core).hub.may_hand_over()
    }
}

/// Whom a greenlet that has ended hands over to; `None` if that is the hub, its parent.
///
/// # Safety
///
/// As [`Successor`](crate::greenlet::thread::Successor) says.
pub(super) unsafe fn successor(
    thread: *mut Thread,
    ending: *mut PyGreenlet,
) -> Option<(*mut PyGreenlet, Parcel)> {
    // SAFETY: the thread's hub and its loop are alive as long as the thread keeps them.
    unsafe {
        let hub: *mut PyGreenlet = (*thread).hub.cast();
        if hub.is_null() || (*body(ending)).parent != hub {
            return None;
        }
        let core = core_of_loop((*thread).hub_loop);
        if core.is_null() || (*core).greenlet != hub || !may_hand_over(thread, core, hub) {
            return None;
        }
        match ready::next(core, false) {
            Step::Switch(next, parcel) if next != ending => Some((next, parcel)),
            Step::Switch(next, parcel) => {
                // It was woken from a wait that it had left already.
                parcel.discard();
                ffi::Py_DECREF(next.cast());
                None
            }
            _ => None,
        }
    }
}

unsafe extern "C" {
    fn _PyType_Lookup(kind: *mut ffi::PyTypeObject, name: *mut PyObject) -> *mut PyObject;
}

/// What a type has under that name, borrowed; null, and no exception, if nothing.
///
/// # Safety
///
/// The GIL is held; a live type and an interned name.
pub(super) unsafe fn type_lookup(kind: *mut ffi::PyTypeObject, name: *mut PyObject) -> *mut PyObject {
    // SAFETY: the caller's promise.
    unsafe { _PyType_Lookup(kind, name) }
}

/// Calls the greenlet's `switch_out()`, if it has one. False with an exception set.
unsafe fn tell_switched_out(greenlet: *mut PyGreenlet) -> bool {
    // SAFETY: the GIL is held, and the greenlet the current one.
    unsafe {
        let name = super::names().switch_out;
        let dict = (*greenlet).dict;
        let known = !type_lookup(ffi::Py_TYPE(greenlet.cast()), name).is_null()
            || (!dict.is_null() && !ffi::PyDict_GetItemWithError(dict, name).is_null());
        if !known {
            return true;
        }
        let result = ffi::PyObject_CallMethodNoArgs(greenlet.cast(), name);
        ffi::Py_XDECREF(result);
        !result.is_null()
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
            let result = ffi::PyObject_CallMethodNoArgs(hub.cast(), super::names().switch_out);
            if !result.is_null() {
                ffi::Py_DECREF(result);
                ffi::PyErr_SetString(ffi::PyExc_RuntimeError, c"the hub cannot wait".as_ptr());
            }
            return ptr::null_mut();
        }
        if (*thread).hub_watches && (*thread).hub == hub.cast() {
            // It switches by `switch()`, which ends in `switch_to_hub`.
            return ffi::PyObject_CallMethodNoArgs(hub.cast(), super::names().switch);
        }
        if !tell_switched_out(current) {
            return ptr::null_mut();
        }
        if may_hand_over(thread, core, hub)
            && let Step::Switch(next, parcel) = ready::next(core, false)
        {
            if next == current {
                ffi::Py_DECREF(next.cast());
                return parcel.into_value();
            }
            return switch::switch_giving(next, parcel);
        }
        switch_to_hub(hub)
    }
}

/// Switches to the hub, which runs the loop.
unsafe fn switch_to_hub(hub: *mut PyGreenlet) -> *mut PyObject {
    // SAFETY: the GIL is held, and the hub alive.
    unsafe {
        let nothing = owned(crate::greenlet::types::errors().empty_tuple);
        let parcel = if (*body(hub)).life == Life::Active {
            Parcel::Value(nothing)
        } else {
            Parcel::Arguments(nothing, ptr::null_mut())
        };
        switch::switch_giving(owned(hub), parcel)
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

/// Enters the current greenlet in the table; `None` with an exception set.
///
/// # Safety
///
/// The GIL is held, and nothing of `core` borrowed.
pub(super) unsafe fn enter(core: *mut Core) -> Option<WaiterKey> {
    // SAFETY: as the caller says.
    unsafe {
        let me = current();
        if me.is_null() {
            return None;
        }
        Some((*core).hub.waiters.park(Item::Greenlet(owned(me))))
    }
}

/// Parks the current greenlet, which [`enter`]ed, until it is woken, or until the instant `at`.
///
/// With `referenced`, the wait keeps the loop from ending.
///
/// # Safety
///
/// The GIL is held; `holder` is the object that holds `core`, and nothing of it is borrowed.
pub(super) unsafe fn park_entered(
    holder: *mut PyObject,
    core: *mut Core,
    key: WaiterKey,
    at: Option<u64>,
    referenced: bool,
) -> Outcome {
    // SAFETY: `core` is borrowed for single statements and held by the reference taken here.
    unsafe {
        let timer: Option<TimerKey> = at.map(|at| (*core).hub.wake_at(at, key));
        owned(holder);
        let counted = isize::from(referenced);
        (*core).references += counted;
        let result = switch_away(core);
        // It may have been destroyed meanwhile.
        let mut fired = false;
        let mut was_waiting = false;
        if !core_of_loop(holder).is_null() {
            (*core).references -= counted;
            if let Some(timer) = timer {
                fired = !(*core).hub.cancel_timer(timer);
            }
            was_waiting = withdraw(core, key);
        }
        ffi::Py_DECREF(holder);
        if result.is_null() {
            return Outcome::Failed;
        }
        if was_waiting {
            let kind = (*EXCEPTIONS.get()).invalid_switch;
            ffi::PyErr_Format(
                if kind.is_null() { ffi::PyExc_RuntimeError } else { kind },
                c"Invalid switch into %R: got %R, but it waits for something else".as_ptr(),
                current(),
                result,
            );
            ffi::Py_DECREF(result);
            return Outcome::Failed;
        }
        ffi::Py_DECREF(result);
        if fired { Outcome::TimedOut } else { Outcome::Woken }
    }
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
    // SAFETY: as the caller says.
    unsafe {
        let Some(key) = enter(core) else { return Outcome::Failed };
        if posted {
            (*core).hub.waiters.wake(key);
        }
        if let Until::Source(source, direction) = *until
            && (*core).hub.wake_when_ready(source, direction, key).is_err()
        {
            withdraw(core, key);
            raise_in_use();
            return Outcome::Failed;
        }
        park_entered(holder, core, key, at, true)
    }
}

/// Takes a wait out of the table; says whether it was still there.
///
/// # Safety
///
/// The GIL is held, and nothing of `core` borrowed.
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

pub(super) const PAUSE_DOC: &CStr = c"sleep(seconds=0, ref=True)\n\n\
Park the current greenlet for at least so long; 0 lets all others that are ready run first.\n\n\
With `ref` false, the sleep does not keep the loop from ending.";

pub(super) unsafe extern "C" fn pause(
    _module: *mut PyObject,
    given: *const *mut PyObject,
    count: isize,
    keyword_names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: as for `sleep`.
    unsafe {
        let found = class::arguments(c"sleep", &[c"seconds", c"ref"], 0, given, count, keyword_names);
        let Some([seconds, referenced]) = found else { return ptr::null_mut() };
        let seconds = if seconds.is_null() { 0.0 } else { ffi::PyFloat_AsDouble(seconds) };
        if seconds == -1.0 && !ffi::PyErr_Occurred().is_null() {
            return ptr::null_mut();
        }
        let Some(referenced) = class::truth(referenced, true) else { return ptr::null_mut() };
        if seconds.is_nan() {
            ffi::PyErr_SetString(ffi::PyExc_ValueError, c"the time to sleep is no number".as_ptr());
            return ptr::null_mut();
        }
        let Some(here) = super::here::here() else { return ptr::null_mut() };
        if seconds <= 0.0 {
            return none_unless_failed(park(here.holder, here.core, &Until::Nothing, None, true));
        }
        let Some(key) = enter(here.core) else { return ptr::null_mut() };
        let at = instant_after(seconds);
        none_unless_failed(park_entered(here.holder, here.core, key, at, referenced))
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
        let hub = (*core).greenlet;
        let thread = current_thread(current_thread_state());
        if !thread.is_null() && (*thread).hub_watches && !hub.is_null() && (*body(hub)).life != Life::Dead {
            return if tell_switched_out((*thread).current) { switch_to_hub(hub) } else { ptr::null_mut() };
        }
        let holder = owned(arguments.read());
        let result = switch_away(core);
        ffi::Py_DECREF(holder);
        result
    }
}
