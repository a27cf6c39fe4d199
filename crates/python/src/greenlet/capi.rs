//! The C API of the greenlet package: a capsule with twelve pointers, in the order of its public header.
//!
//! Extensions that were compiled against that header (gevent's among them) find types, exceptions and functions here.

use std::ffi::{c_int, c_void};
use std::ptr;

use pyo3::ffi::{self, PyObject};

use super::object::{Life, PyGreenlet, body, is_greenlet, owned, owned_or_null};
use super::parcel::Parcel;
use super::switch;
use super::types::{self, errors};
use super::{attributes, lifetime, methods};
use crate::gil::GilCell;

/// The capsule's name, which `PyCapsule_Import` takes apart into a module and an attribute.
const NAME: &std::ffi::CStr = c"greenlet._C_API";

const POINTERS: usize = 12;

static TABLE: GilCell<[*mut c_void; POINTERS]> = GilCell::new([ptr::null_mut(); POINTERS]);

unsafe extern "C" fn new(run: *mut PyObject, parent: *mut PyGreenlet) -> *mut PyGreenlet {
    // SAFETY: called with the GIL; live objects or null.
    unsafe {
        let arguments = [if run.is_null() { ffi::Py_None() } else { run }, parent.cast()];
        let greenlet: *mut PyGreenlet =
            lifetime::new(types::greenlet_type(), ptr::null_mut(), ptr::null_mut()).cast();
        if greenlet.is_null() {
            return greenlet;
        }
        let set_run =
            !run.is_null() && attributes::set_run(greenlet.cast(), arguments[0], ptr::null_mut()) != 0;
        let set_parent =
            !parent.is_null() && attributes::set_parent(greenlet.cast(), arguments[1], ptr::null_mut()) != 0;
        if set_run || set_parent {
            ffi::Py_DECREF(greenlet.cast());
            return ptr::null_mut();
        }
        greenlet
    }
}

unsafe extern "C" fn get_current() -> *mut PyGreenlet {
    // SAFETY: called with the GIL.
    unsafe { switch::current() }
}

/// Whether it is a greenlet; if not, the error that a bad argument gets.
unsafe fn check(greenlet: *mut PyGreenlet) -> bool {
    // SAFETY: a live object or null.
    unsafe {
        let good = is_greenlet(greenlet.cast());
        if !good {
            ffi::PyErr_BadArgument();
        }
        good
    }
}

unsafe extern "C" fn throw(
    greenlet: *mut PyGreenlet,
    kind: *mut PyObject,
    value: *mut PyObject,
    traceback: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called with the GIL; live objects or null.
    unsafe {
        if !check(greenlet) || kind.is_null() {
            if ffi::PyErr_Occurred().is_null() {
                ffi::PyErr_BadArgument();
            }
            return ptr::null_mut();
        }
        methods::throw_pieces(greenlet.cast(), kind, value, traceback)
    }
}

unsafe extern "C" fn switch_to(
    greenlet: *mut PyGreenlet,
    arguments: *mut PyObject,
    keywords: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called with the GIL; live objects or null. What is no tuple is passed on as it is, as one argument.
    unsafe {
        if !check(greenlet) {
            return ptr::null_mut();
        }
        let arguments = owned(if arguments.is_null() { errors().empty_tuple } else { arguments });
        let keywords = if keywords.is_null() || ffi::PyDict_Check(keywords) == 0 {
            ptr::null_mut()
        } else {
            owned(keywords)
        };
        if ffi::PyTuple_Check(arguments) == 0 {
            ffi::Py_XDECREF(keywords);
            return switch::switch(greenlet, Parcel::Value(arguments));
        }
        switch::switch(greenlet, Parcel::Arguments(arguments, keywords))
    }
}

unsafe extern "C" fn set_parent(greenlet: *mut PyGreenlet, parent: *mut PyGreenlet) -> c_int {
    // SAFETY: called with the GIL; a live greenlet.
    unsafe { attributes::set_parent(greenlet.cast(), parent.cast(), ptr::null_mut()) }
}

unsafe extern "C" fn is_main(greenlet: *mut PyGreenlet) -> c_int {
    // SAFETY: called with the GIL; a live object.
    unsafe { if check(greenlet) { (*body(greenlet)).is_main.into() } else { -1 } }
}

unsafe extern "C" fn is_started(greenlet: *mut PyGreenlet) -> c_int {
    // SAFETY: called with the GIL; a live object.
    unsafe { if check(greenlet) { ((*body(greenlet)).life != Life::Pending).into() } else { -1 } }
}

unsafe extern "C" fn is_active(greenlet: *mut PyGreenlet) -> c_int {
    // SAFETY: called with the GIL; a live object.
    unsafe { if check(greenlet) { ((*body(greenlet)).life == Life::Active).into() } else { -1 } }
}

unsafe extern "C" fn get_parent(greenlet: *mut PyGreenlet) -> *mut PyGreenlet {
    // SAFETY: called with the GIL; a live object.
    unsafe { if check(greenlet) { owned_or_null(attributes::parent_of(greenlet)) } else { ptr::null_mut() } }
}

/// The capsule, as a new reference; null with an exception set on failure.
///
/// # Safety
///
/// The GIL is held, and the types are ready.
pub(crate) unsafe fn capsule() -> *mut PyObject {
    // SAFETY: the table is written before anyone can have it, and lives for ever.
    unsafe {
        TABLE.get().write([
            types::greenlet_type().cast(),
            errors().greenlet_error.cast(),
            errors().greenlet_exit.cast(),
            new as *mut c_void,
            get_current as *mut c_void,
            throw as *mut c_void,
            switch_to as *mut c_void,
            set_parent as *mut c_void,
            is_main as *mut c_void,
            is_started as *mut c_void,
            is_active as *mut c_void,
            get_parent as *mut c_void,
        ]);
        ffi::PyCapsule_New(TABLE.get().cast(), NAME.as_ptr(), None)
    }
}
