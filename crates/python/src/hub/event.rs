//! `Event`: a flag that greenlets wait for.

use std::ffi::c_int;
use std::ptr;

use pyo3::ffi::PyObject;

use super::class::{self, Given, Spec, boolean, named, none, none_if, own, plain};
use super::limit::{Ended, Limit, limit};
use super::linkable::{self, Home, Linkable, What};

unsafe extern "C" fn init(this: *mut PyObject, arguments: *mut PyObject, keywords: *mut PyObject) -> c_int {
    // SAFETY: called by the interpreter with an event.
    unsafe {
        if class::init_arguments(c"Event", &[], arguments, keywords).is_none() {
            return -1;
        }
        (*own::<Linkable>(this)).what = What::Event(false);
        0
    }
}

/// `Event()`.
pub(super) unsafe extern "C" fn make_by_call(
    kind: *mut PyObject,
    given: *const *mut PyObject,
    count: usize,
    keyword_names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter with the face's class.
    unsafe { linkable::make_by_call(kind, c"Event", What::Event(false), given, count, keyword_names) }
}

unsafe fn flag(this: *mut PyObject) -> bool {
    // SAFETY: a live event, says the caller.
    unsafe { matches!((*own::<Linkable>(this)).what, What::Event(true)) }
}

unsafe extern "C" fn is_set(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by the interpreter with an event.
    boolean(unsafe { flag(this) })
}

unsafe extern "C" fn set(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        (*own::<Linkable>(this)).what = What::Event(true);
        none_if(linkable::check_and_notify(this))
    }
}

unsafe extern "C" fn clear(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { (*own::<Linkable>(this)).what = What::Event(false) };
    none()
}

unsafe fn wait(this: *mut PyObject, [timeout]: Given<1>) -> *mut PyObject {
    // SAFETY: as above; the call holds the event and its arguments.
    unsafe {
        let own = own::<Linkable>(this);
        let Some(home) = linkable::home(own, true) else { return ptr::null_mut() };
        if flag(this) {
            if linkable::is_telling(own) && matches!(home, Home::Here(_)) {
                // Those that had to wait come first.
                let (ended, _) = linkable::wait(this, Limit::Never, false, false, true);
                if ended == Ended::Failed {
                    return ptr::null_mut();
                }
            }
            return boolean(true);
        }
        let Some(limit) = limit(timeout) else { return ptr::null_mut() };
        let foreign = matches!(home, Home::Foreign);
        match linkable::wait(this, limit, false, foreign, false) {
            (Ended::Failed, _) => ptr::null_mut(),
            (_, told) => boolean(told),
        }
    }
}

/// Makes the type. False with an exception set.
///
/// # Safety
///
/// The GIL is held; called once.
pub(super) unsafe fn ready(module: *mut PyObject) -> bool {
    // SAFETY: as the caller says.
    unsafe {
        let kind = class::make::<Linkable>(&Spec {
            name: c"weft._native._hub.EventBase",
            doc: c"EventBase()",
            base: linkable::base(),
            methods: &[
                plain(c"is_set", is_set, c"Whether the flag is set."),
                plain(c"isSet", is_set, c"Whether the flag is set."),
                plain(c"ready", is_set, c"Whether the flag is set."),
                plain(c"set", set, c"Set the flag: whoever waits goes on."),
                plain(c"clear", clear, c"Take the flag down."),
                named!(c"wait", [c"timeout"], 0, wait,
                    c"wait(timeout=None) -> bool\n\nWait until the flag is set; False if it was not in `timeout` seconds.",
                ),
            ],
            attributes: &[],
        });
        (*kind).tp_init = Some(init);
        class::ready(module, kind)
    }
}
