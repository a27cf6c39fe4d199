//! What programs call: to sleep, to give way, and to switch away.

use std::ffi::CStr;
use std::ptr;

use pyo3::ffi::{self, PyObject};

use super::super::class::{arguments, none, truth};
use super::super::eventloop::loop_argument;
use super::super::here::here;
use super::hand_over::{switch_away, switch_to_hub, tell_switched_out};
use super::{Outcome, Until, enter, instant_after, park, park_entered};
use crate::ffi::current_thread_state;
use crate::greenlet::object::{Life, body, owned};
use crate::greenlet::thread::current_thread;

pub(in super::super) const SLEEP_DOC: &CStr = c"sleep(loop, seconds) -> None\n\n\
Park the current greenlet for so long. Others run meanwhile.";

pub(in super::super) unsafe extern "C" fn sleep(
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

pub(in super::super) const GIVE_WAY_DOC: &CStr = c"give_way(loop) -> None\n\n\
Park the current greenlet behind all that are ready.";

pub(in super::super) unsafe extern "C" fn give_way(
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

pub(in super::super) const PAUSE_DOC: &CStr = c"sleep(seconds=0, ref=True)\n\n\
Park the current greenlet for at least so long; 0 lets all others that are ready run first.\n\n\
With `ref` false, the sleep does not keep the loop from ending.";

pub(in super::super) unsafe extern "C" fn pause(
    _module: *mut PyObject,
    given: *const *mut PyObject,
    count: isize,
    keyword_names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: as for `sleep`.
    unsafe {
        let found = arguments(c"sleep", &[c"seconds", c"ref"], 0, given, count, keyword_names);
        let Some([seconds, referenced]) = found else { return ptr::null_mut() };
        let seconds = if seconds.is_null() { 0.0 } else { ffi::PyFloat_AsDouble(seconds) };
        if seconds == -1.0 && !ffi::PyErr_Occurred().is_null() {
            return ptr::null_mut();
        }
        let Some(referenced) = truth(referenced, true) else { return ptr::null_mut() };
        if seconds.is_nan() {
            ffi::PyErr_SetString(ffi::PyExc_ValueError, c"the time to sleep is no number".as_ptr());
            return ptr::null_mut();
        }
        let Some(here) = here() else { return ptr::null_mut() };
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
        _ => none(),
    }
}

pub(in super::super) const SWITCH_DOC: &CStr = c"switch(loop) -> object\n\n\
Switch away from the current greenlet, which has arranged to be switched back to;\n\
returns what that switch brings.";

pub(in super::super) unsafe extern "C" fn switch(
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
        let hub = (*core).greenlet;
        let thread = current_thread(current_thread_state());
        let watches =
            !thread.is_null() && (*thread).hub_watches && !hub.is_null() && (*body(hub)).life != Life::Dead;
        let result = if !watches {
            switch_away(holder, core)
        } else if tell_switched_out(holder, core, (*thread).current) {
            switch_to_hub(hub)
        } else {
            ptr::null_mut()
        };
        ffi::Py_DECREF(holder);
        result
    }
}
