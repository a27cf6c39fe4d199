//! Switching away: to the next one that is ready, or to the hub.

use std::ptr;

use pyo3::ffi::{self, PyObject};

use super::super::core::Core;
use super::super::eventloop::core_of_loop;
use super::super::names;
use super::super::ready::{self, Step};
use crate::ffi::current_thread_state;
use crate::gil::GilCell;
use crate::greenlet::object::{Life, PyGreenlet, body, owned};
use crate::greenlet::parcel::Parcel;
use crate::greenlet::switch;
use crate::greenlet::thread::{Thread, current_thread};

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
            // Asked before the clock is.
            && (*core).hub.waiters.ready_len() > 0
            && (*core).hub.may_hand_over()
    }
}

/// Whom a greenlet that has ended hands over to; `None` if that is the hub, its parent.
///
/// # Safety
///
/// As [`Successor`](crate::greenlet::thread::Successor) says.
pub(in super::super) unsafe fn successor(
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
pub(in super::super) unsafe fn type_lookup(
    kind: *mut ffi::PyTypeObject,
    name: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: the caller's promise.
    unsafe { _PyType_Lookup(kind, name) }
}

/// The type that was found last to have no `switch_out`, as its version says: a type that is changed has another one, or none.
static HAS_NONE: GilCell<(*mut ffi::PyTypeObject, u32)> = GilCell::new((ptr::null_mut(), 0));

/// Whether the type has a `switch_out`: most greenlets are of one type that has none.
#[inline]
unsafe fn has_switch_out(kind: *mut ffi::PyTypeObject, name: *mut PyObject) -> bool {
    // SAFETY: with the GIL; a live type. No two types have the same version, so a new one at the place of one that is gone is
    // not taken for it.
    unsafe {
        if *HAS_NONE.get() == (kind, (*kind).tp_version_tag) {
            return false;
        }
        if !type_lookup(kind, name).is_null() {
            return true;
        }
        let version = (*kind).tp_version_tag;
        if version != 0 {
            *HAS_NONE.get() = (kind, version);
        }
        false
    }
}

/// Whether the loop still has what it keeps, and its hub. False with an exception set.
unsafe fn is_still_there(holder: *mut PyObject, core: *mut Core, hub: *mut PyGreenlet) -> bool {
    // SAFETY: the GIL is held; the loop is alive, and with it the memory of its core.
    unsafe {
        if core_of_loop(holder) == core && (*core).greenlet == hub {
            return true;
        }
        ffi::PyErr_SetString(ffi::PyExc_ValueError, c"operation on destroyed loop".as_ptr());
        false
    }
}

/// Calls the greenlet's `switch_out()`, if it has one, which may be anything: `holder` is the loop that `core` is of, and is
/// still to be there afterwards. False with an exception set.
pub(super) unsafe fn tell_switched_out(
    holder: *mut PyObject,
    core: *mut Core,
    greenlet: *mut PyGreenlet,
) -> bool {
    // SAFETY: the GIL is held, and the greenlet the current one.
    unsafe {
        let name = names().switch_out;
        let hub = (*core).greenlet;
        if !has_switch_out(ffi::Py_TYPE(greenlet.cast()), name) {
            let dict = (*greenlet).dict;
            if dict.is_null() {
                return true;
            }
            // May run Python code, if somebody has put in keys of his own.
            if ffi::PyDict_GetItemWithError(dict, name).is_null() {
                return ffi::PyErr_Occurred().is_null() && is_still_there(holder, core, hub);
            }
        }
        owned(holder);
        let result = ffi::PyObject_CallMethodNoArgs(greenlet.cast(), name);
        let mut fine = !result.is_null();
        ffi::Py_XDECREF(result);
        fine = fine && is_still_there(holder, core, hub);
        ffi::Py_DECREF(holder);
        fine
    }
}

/// Switches away: to the next one that is ready, or to the hub. Gives what the switch back brings.
///
/// # Safety
///
/// The GIL is held; `holder` is a live loop, and `core` what it keeps, of which nothing is borrowed.
pub(in super::super) unsafe fn switch_away(holder: *mut PyObject, core: *mut Core) -> *mut PyObject {
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
            let result = ffi::PyObject_CallMethodNoArgs(hub.cast(), names().switch_out);
            if !result.is_null() {
                ffi::Py_DECREF(result);
                ffi::PyErr_SetString(ffi::PyExc_RuntimeError, c"the hub cannot wait".as_ptr());
            }
            return ptr::null_mut();
        }
        if (*thread).hub_watches && (*thread).hub == hub.cast() {
            // It switches by `switch()`, which ends in `switch_to_hub`.
            return ffi::PyObject_CallMethodNoArgs(hub.cast(), names().switch);
        }
        if !tell_switched_out(holder, core, current) {
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
pub(super) unsafe fn switch_to_hub(hub: *mut PyGreenlet) -> *mut PyObject {
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
