//! Links that are functions: called by the hub, or by another one if they are the `switch` of another thread's greenlet.

use std::ptr;

use pyo3::ffi::{self, PyObject};

use super::super::here;
use crate::greenlet::object::SavedError;

/// Calls a link, and tells the loop's `handle_error` of what it raises. Takes the function's reference.
///
/// # Safety
///
/// The GIL is held; live objects, `holder` is a loop or null.
pub(in super::super) unsafe fn call_link(
    holder: *mut PyObject,
    function: *mut PyObject,
    source: *mut PyObject,
) {
    // SAFETY: everything is raw before anything can switch.
    unsafe {
        let result = ffi::PyObject_CallOneArg(function, source);
        if result.is_null() {
            if belongs_elsewhere(function) {
                post_elsewhere(function, source);
            } else if holder.is_null() {
                ffi::PyErr_WriteUnraisable(function);
            } else {
                let saved = SavedError::take();
                let context = ffi::PyTuple_Pack(2, function, source);
                saved.restore();
                super::super::turns::handle_error(holder, if context.is_null() { function } else { context });
                ffi::Py_XDECREF(context);
            }
        } else {
            ffi::Py_DECREF(result);
        }
        ffi::Py_DECREF(function);
    }
}

/// Whether a call failed because it was the `switch` of a greenlet that another thread runs.
unsafe fn belongs_elsewhere(function: *mut PyObject) -> bool {
    // SAFETY: an exception is set; a live object.
    unsafe {
        ffi::PyErr_ExceptionMatches(crate::greenlet::types::errors().greenlet_error) != 0
            && !greenlet_of(function).is_null()
    }
}

/// The greenlet that a built-in method is bound to, borrowed; null if it is none.
unsafe fn greenlet_of(function: *mut PyObject) -> *mut PyObject {
    // SAFETY: a live object.
    unsafe {
        if ffi::PyCFunction_Check(function) == 0 {
            return ptr::null_mut();
        }
        let of = ffi::PyCFunction_GetSelf(function);
        if crate::greenlet::object::is_greenlet(of) { of } else { ptr::null_mut() }
    }
}

/// Has the hub of the greenlet's own thread call it.
unsafe fn post_elsewhere(function: *mut PyObject, source: *mut PyObject) {
    // SAFETY: an exception is set, which is dropped if the other hub takes over; live objects.
    unsafe {
        let saved = SavedError::take();
        let hub = crate::greenlet::attributes::parent_of(greenlet_of(function).cast());
        let result = if hub.is_null() {
            ptr::null_mut()
        } else {
            match here::loop_of(hub.cast()) {
                Some((holder, _)) => {
                    let result = ffi::PyObject_CallMethod(
                        holder,
                        c"run_callback_threadsafe".as_ptr(),
                        c"OO".as_ptr(),
                        function,
                        source,
                    );
                    ffi::Py_DECREF(holder);
                    result
                }
                None => ptr::null_mut(),
            }
        };
        if result.is_null() {
            saved.restore();
            ffi::PyErr_WriteUnraisable(function);
        } else {
            saved.discard();
            ffi::Py_DECREF(result);
        }
    }
}
