//! `spawn_raw`: a plain greenlet that the hub starts.

use std::ptr;

use pyo3::ffi::{self, PyObject, PyTypeObject};

use super::super::core::Item;
use super::super::faces::faces;
use super::super::here::here;
use super::super::tree;
use super::TYPES;
use crate::greenlet::object::{self, body, owned};
use crate::greenlet::parcel::{self, Parcel};

/// Has a plain greenlet run `function(*args, **kwargs)`, soon. It has no links and no result.
pub(in super::super) unsafe extern "C" fn spawn_raw(
    _module: *mut PyObject,
    given: *const *mut PyObject,
    count: isize,
    keyword_names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter; vectorcall's conventions.
    unsafe {
        if count < 1 || ffi::PyCallable_Check(given.read()) == 0 {
            let kind = if count < 1 { c"nothing".as_ptr() } else { object::type_name(given.read()) };
            ffi::PyErr_Format(ffi::PyExc_TypeError, c"function must be callable, not %s".as_ptr(), kind);
            return ptr::null_mut();
        }
        let Some(here) = here() else { return ptr::null_mut() };
        let Some(packed) = parcel::pack(given.add(1), count - 1, keyword_names) else {
            return ptr::null_mut();
        };
        let Parcel::Arguments(arguments, keywords) = packed else {
            return ptr::null_mut();
        };
        let kind: *mut PyTypeObject = faces().raw_greenlet.cast();
        let kind = if kind.is_null() { (*TYPES.get()).raw } else { kind };
        let greenlet = object::allocate_known(kind, false, true);
        if greenlet.is_null() {
            ffi::Py_DECREF(arguments);
            ffi::Py_XDECREF(keywords);
            return ptr::null_mut();
        }
        (*body(greenlet)).parent = owned(here.hub.cast());
        let function =
            if keywords.is_null() { owned(given.read()) } else { with_keywords(given.read(), keywords) };
        (*body(greenlet)).run = function;
        (*body(greenlet)).starts_plainly = true;
        if function.is_null() || tree::note_spawner(greenlet.cast()).is_none() {
            ffi::Py_DECREF(arguments);
            ffi::Py_DECREF(greenlet.cast());
            return ptr::null_mut();
        }
        (*here.core).hub.waiters.post(Item::StartWith(owned(greenlet), arguments));
        greenlet.cast()
    }
}

/// `functools.partial(function, **keywords)`; takes the dictionary.
pub(super) unsafe fn with_keywords(function: *mut PyObject, keywords: *mut PyObject) -> *mut PyObject {
    // SAFETY: live objects; every result is checked.
    unsafe {
        let module = ffi::PyImport_ImportModule(c"functools".as_ptr());
        let partial = if module.is_null() {
            ptr::null_mut()
        } else {
            ffi::PyObject_GetAttrString(module, c"partial".as_ptr())
        };
        let made = if partial.is_null() {
            ptr::null_mut()
        } else {
            let arguments = [function];
            ffi::PyObject_VectorcallDict(partial, arguments.as_ptr(), 1, keywords)
        };
        ffi::Py_XDECREF(module);
        ffi::Py_XDECREF(partial);
        ffi::Py_DECREF(keywords);
        made
    }
}
