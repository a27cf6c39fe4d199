//! What a greenlet is given to run.

use std::ffi::c_int;
use std::ptr;

use pyo3::ffi::{self, PyObject};

use super::super::faces::{faces, names};
use super::super::here::here;
use super::super::tree;
use super::lifetime::make;
use super::{Spawned, of};
use crate::greenlet::object::{PyGreenlet, body, clear, owned};
use crate::greenlet::parcel::{Parcel, pack};

/// Whether its class is the face's own, so that what it runs is in its field.
unsafe fn is_exact(this: *mut Spawned) -> bool {
    // SAFETY: a live object, says the caller.
    unsafe { ffi::Py_TYPE(this.cast()).cast() == faces().greenlet }
}

/// Says what it runs; references are taken. False with an exception set.
unsafe fn set_up(
    this: *mut Spawned,
    run: *mut PyObject,
    arguments: *mut PyObject,
    keywords: *mut PyObject,
) -> bool {
    // SAFETY: a live object; old values are dropped when nothing is borrowed.
    unsafe {
        let object: *mut PyObject = this.cast();
        let old = [
            std::mem::replace(&mut (*this).arguments, arguments),
            std::mem::replace(&mut (*this).keywords, keywords),
        ];
        for mut object in old {
            clear(&raw mut object);
        }
        let mut run = run;
        let mut fine = true;
        if run == ffi::Py_None() {
            clear(&raw mut run);
        }
        if is_exact(this) {
            if run.is_null() || ffi::PyCallable_Check(run) != 0 {
                let old = std::mem::replace(&mut (*this).run, run);
                ffi::Py_XDECREF(old);
            } else {
                ffi::Py_DECREF(run);
                fine = false;
            }
        } else {
            if !run.is_null() {
                let status = ffi::PyObject_SetAttr(object, names()._run, run);
                ffi::Py_DECREF(run);
                if status != 0 {
                    return false;
                }
            }
            let found = ffi::PyObject_GetAttr(object, names()._run);
            if found.is_null() {
                return false;
            }
            fine = ffi::PyCallable_Check(found) != 0;
            ffi::Py_DECREF(found);
        }
        if !fine {
            ffi::PyErr_SetString(
                ffi::PyExc_TypeError,
                c"The run argument or self._run must be callable".as_ptr(),
            );
            return false;
        }
        if tree::note_spawner(this.cast()).is_none() {
            return false;
        }
        if tree::is_tracked() {
            tree::Frames::note(&raw mut (*this).frames, ffi::Py_TYPE(object));
        }
        true
    }
}

pub(super) unsafe extern "C" fn init_spawned(
    this: *mut PyObject,
    arguments: *mut PyObject,
    keywords: *mut PyObject,
) -> c_int {
    // SAFETY: called by the interpreter with such a greenlet, a tuple, and a dictionary or null.
    unsafe {
        let count = ffi::PyTuple_GET_SIZE(arguments);
        let mut run = if count > 0 { owned(ffi::PyTuple_GET_ITEM(arguments, 0)) } else { ptr::null_mut() };
        let rest = ffi::PyTuple_GetSlice(arguments, count.min(1), count);
        if rest.is_null() {
            ffi::Py_XDECREF(run);
            return -1;
        }
        let mut named = ptr::null_mut();
        if !keywords.is_null() && ffi::PyDict_Size(keywords) > 0 {
            named = ffi::PyDict_Copy(keywords);
            if named.is_null() || !take_run(named, &mut run) {
                ffi::Py_XDECREF(run);
                ffi::Py_DECREF(rest);
                ffi::Py_XDECREF(named);
                return -1;
            }
        }
        // Its class may say otherwise what it was made with, but the hub is this thread's.
        let Some(here) = here() else {
            ffi::Py_XDECREF(run);
            ffi::Py_DECREF(rest);
            ffi::Py_XDECREF(named);
            return -1;
        };
        let greenlet: *mut PyGreenlet = this.cast();
        if (*body(greenlet)).parent.cast() != here.hub {
            let old = std::mem::replace(&mut (*body(greenlet)).parent, owned(here.hub.cast()));
            ffi::Py_XDECREF(old.cast());
        }
        if set_up(of(this), run, rest, named) { 0 } else { -1 }
    }
}

/// Takes `run` out of the keywords, if it is there. False with an exception set.
unsafe fn take_run(keywords: *mut PyObject, run: &mut *mut PyObject) -> bool {
    // SAFETY: a dictionary of ours.
    unsafe {
        let found = ffi::PyDict_GetItemString(keywords, c"run".as_ptr());
        if found.is_null() {
            return true;
        }
        if !run.is_null() {
            ffi::PyErr_SetString(
                ffi::PyExc_TypeError,
                c"Greenlet() got multiple values for argument 'run'".as_ptr(),
            );
            return false;
        }
        *run = owned(found);
        ffi::PyDict_DelItemString(keywords, c"run".as_ptr()) == 0
    }
}

/// `Greenlet(run, *args, **kwargs)`.
pub(in super::super) unsafe extern "C" fn make_by_call(
    _kind: *mut PyObject,
    given: *const *mut PyObject,
    count: usize,
    keyword_names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter with the face's class.
    unsafe { make_for_call(given, ffi::PyVectorcall_NARGS(count), keyword_names).cast() }
}

/// One of the face's class for a call's arguments; null with an exception set.
pub(super) unsafe fn make_for_call(
    given: *const *mut PyObject,
    count: isize,
    keyword_names: *mut PyObject,
) -> *mut PyGreenlet {
    // SAFETY: vectorcall's conventions.
    unsafe {
        let first = count.min(1);
        let Some(Parcel::Arguments(arguments, keywords)) =
            pack(given.offset(first), count - first, keyword_names)
        else {
            return ptr::null_mut();
        };
        let mut run = if first > 0 { owned(given.read()) } else { ptr::null_mut() };
        let fine = keywords.is_null() || take_run(keywords, &mut run);
        let greenlet = if fine { make(faces().greenlet.cast(), true) } else { ptr::null_mut() };
        if greenlet.is_null() {
            ffi::Py_XDECREF(run);
            ffi::Py_DECREF(arguments);
            ffi::Py_XDECREF(keywords);
            return greenlet;
        }
        if !set_up(of(greenlet.cast()), run, arguments, keywords) {
            ffi::Py_DECREF(greenlet.cast());
            return ptr::null_mut();
        }
        greenlet
    }
}
