//! Attributes that lie in another dictionary than the object's own: what `local` is made of.
//!
//! A greenlet-local object has a dictionary for each greenlet. To put the right one into the object, and then look, would be two
//! steps, between which another thread may look. The interpreter has functions that are told which dictionary to use; these
//! are they.

use std::ffi::{CStr, c_int};
use std::ptr;

use pyo3::ffi::{self, PyObject};

use super::class::check_count;
use crate::greenlet::object::owned;

unsafe extern "C" {
    // What object.__getattribute__ and object.__setattr__ are in CPython; exported, unchanged since 3.7.
    fn _PyObject_GenericGetAttrWithDict(
        object: *mut PyObject,
        name: *mut PyObject,
        dict: *mut PyObject,
        suppress: c_int,
    ) -> *mut PyObject;
    fn _PyObject_GenericSetAttrWithDict(
        object: *mut PyObject,
        name: *mut PyObject,
        value: *mut PyObject,
        dict: *mut PyObject,
    ) -> c_int;
}

pub(super) const GETATTR_IN_DOC: &CStr = c"getattr_in(owner, name, attributes) -> object\n\n\
As object.__getattribute__, with `attributes` for the object's dictionary.";
pub(super) const SETATTR_IN_DOC: &CStr = c"setattr_in(owner, name, value, attributes) -> None\n\n\
As object.__setattr__, with `attributes` for the object's dictionary.";
pub(super) const DELATTR_IN_DOC: &CStr = c"delattr_in(owner, name, attributes) -> None\n\n\
As object.__delattr__, with `attributes` for the object's dictionary.";

/// Whether there are `wanted` arguments, of which the last is a dictionary; otherwise with a TypeError set.
unsafe fn checked(name: &CStr, arguments: *const *mut PyObject, count: isize, wanted: isize) -> bool {
    // SAFETY: vectorcall's conventions.
    unsafe {
        if !check_count(name, count, wanted, wanted) {
            return false;
        }
        if ffi::PyDict_Check(arguments.offset(wanted - 1).read()) == 0 {
            ffi::PyErr_Format(
                ffi::PyExc_TypeError,
                c"%s() needs a dict for its last argument".as_ptr(),
                name.as_ptr(),
            );
            return false;
        }
        true
    }
}

pub(super) unsafe extern "C" fn getattr_in(
    _module: *mut PyObject,
    arguments: *mut *mut PyObject,
    count: isize,
) -> *mut PyObject {
    // SAFETY: called by the interpreter; the arguments are alive throughout.
    unsafe {
        if !checked(c"getattr_in", arguments, count, 3) {
            return ptr::null_mut();
        }
        _PyObject_GenericGetAttrWithDict(
            arguments.read(),
            arguments.add(1).read(),
            arguments.add(2).read(),
            0,
        )
    }
}

pub(super) unsafe extern "C" fn setattr_in(
    _module: *mut PyObject,
    arguments: *mut *mut PyObject,
    count: isize,
) -> *mut PyObject {
    // SAFETY: as for `getattr_in`.
    unsafe {
        if !checked(c"setattr_in", arguments, count, 4) {
            return ptr::null_mut();
        }
        let [owner, name, value] = [arguments.read(), arguments.add(1).read(), arguments.add(2).read()];
        none_if_zero(_PyObject_GenericSetAttrWithDict(owner, name, value, arguments.add(3).read()))
    }
}

pub(super) unsafe extern "C" fn delattr_in(
    _module: *mut PyObject,
    arguments: *mut *mut PyObject,
    count: isize,
) -> *mut PyObject {
    // SAFETY: as for `getattr_in`.
    unsafe {
        if !checked(c"delattr_in", arguments, count, 3) {
            return ptr::null_mut();
        }
        let [owner, name, dict] = [arguments.read(), arguments.add(1).read(), arguments.add(2).read()];
        none_if_zero(_PyObject_GenericSetAttrWithDict(owner, name, ptr::null_mut(), dict))
    }
}

unsafe fn none_if_zero(status: c_int) -> *mut PyObject {
    // SAFETY: the GIL is held.
    if status == 0 { unsafe { owned(ffi::Py_None()) } } else { ptr::null_mut() }
}
