//! What a wait that fails raises: exceptions of the face.

use std::ffi::CStr;
use std::ptr;

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::gil::GilCell;
use crate::greenlet::object::PyGreenlet;

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
pub(in super::super) fn set_exceptions(invalid_switch: Py<PyAny>, in_use: Py<PyAny>, cancelled: Py<PyAny>) {
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
pub(in super::super) unsafe fn raise_invalid_switch(me: *mut PyGreenlet, result: *mut PyObject) {
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
pub(in super::super) unsafe fn raise_in_use() -> *mut PyObject {
    // SAFETY: the GIL is held.
    unsafe { raise(|all| all.in_use, c"this socket is already used by another greenlet") }
}

/// Says that what is waited for was closed.
pub(in super::super) unsafe fn raise_cancelled() -> *mut PyObject {
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
