//! What can be asked of a greenlet.

use std::ffi::{CStr, c_int, c_void};

use pyo3::ffi::{self, PyMethodDef, PyMethodDefPointer, PyObject};

use super::super::class::{boolean, none, or_none};
use super::super::faces::names;
use super::super::park;
use super::{Spawned, Start, of};
use crate::gil::GilCell;
use crate::greenlet::attributes;
use crate::greenlet::object::{owned, type_name};
use crate::greenlet::types::errors;

pub(super) unsafe fn is_dead(this: *mut Spawned) -> bool {
    // SAFETY: a live object, says the caller.
    unsafe {
        // One that begins to run is not dead, whatever its start looks like.
        if park::current().cast() == this {
            return false;
        }
        matches!((*this).start, Start::Cancelled | Start::Aborted | Start::Fired)
            || !attributes::is_not_dead(this.cast())
    }
}

pub(super) unsafe fn is_ready(this: *mut Spawned) -> bool {
    // SAFETY: as above.
    unsafe { (*this).ended || is_dead(this) }
}

pub(super) unsafe extern "C" fn truth_of(this: *mut PyObject) -> c_int {
    // SAFETY: called by the interpreter with such a greenlet.
    unsafe { c_int::from(!matches!((*of(this)).start, Start::Never) && !(*of(this)).ended) }
}

pub(super) unsafe extern "C" fn get_started(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { boolean(truth_of(this) != 0) }
}

pub(super) unsafe extern "C" fn get_dead(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { boolean(is_dead(of(this))) }
}

pub(super) unsafe extern "C" fn ready_method(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { boolean(is_ready(of(this))) }
}

pub(super) unsafe extern "C" fn successful(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { boolean((*of(this)).ended && (*of(this)).exc_info.is_null()) }
}

pub(super) unsafe extern "C" fn get_exception(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let info = (*of(this)).exc_info;
        if info.is_null() { none() } else { owned(ffi::PyTuple_GET_ITEM(info, 1)) }
    }
}

pub(super) unsafe extern "C" fn get_exc_info(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { or_none((*of(this)).exc_info) }
}

pub(super) unsafe extern "C" fn get_loop(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        // What looks it up may give the greenlet another parent.
        let parent = or_none(attributes::parent_of(this.cast()).cast());
        let found = ffi::PyObject_GetAttr(parent, names().r#loop);
        ffi::Py_DECREF(parent);
        found
    }
}

/// What is called is called with a tuple and a dictionary. False with a TypeError set.
unsafe fn is_a(value: *mut PyObject, fits: c_int, wanted: &CStr) -> bool {
    // SAFETY: the GIL is held; a live object.
    unsafe {
        if fits == 0 {
            let message = c"a Greenlet runs with a %s, not %s".as_ptr();
            ffi::PyErr_Format(ffi::PyExc_TypeError, message, wanted.as_ptr(), type_name(value));
        }
        fits != 0
    }
}

/// The functions of an attribute that is made when it is first asked for; `$fits` says whether it can be set to a `value`.
macro_rules! field {
    ($get:ident, $set:ident, $field:ident, $empty:expr, $value:ident => $fits:expr) => {
        pub(super) unsafe extern "C" fn $get(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
            // SAFETY: called by the interpreter with such a greenlet.
            unsafe {
                let place = &raw mut (*of(this)).$field;
                if (*place).is_null() {
                    let made: *mut PyObject = $empty;
                    if made.is_null() {
                        return made;
                    }
                    *place = made;
                }
                owned(*place)
            }
        }

        pub(super) unsafe extern "C" fn $set(
            this: *mut PyObject,
            value: *mut PyObject,
            _closure: *mut c_void,
        ) -> c_int {
            // SAFETY: as above; null is a deletion.
            unsafe {
                let $value = value;
                if !value.is_null() && !$fits {
                    return -1;
                }
                ffi::Py_XINCREF(value);
                let old = std::mem::replace(&mut (*of(this)).$field, value);
                ffi::Py_XDECREF(old);
                0
            }
        }
    };
}

field!(get_args, set_args, arguments, owned(errors().empty_tuple),
    value => is_a(value, ffi::PyTuple_Check(value), c"tuple of arguments"));
field!(get_kwargs, set_kwargs, keywords, ffi::PyDict_New(),
    value => is_a(value, ffi::PyDict_Check(value), c"dict of keyword arguments"));
field!(get_value, set_value, value, none(), _value => true);

static DEFAULT_RUN: GilCell<PyMethodDef> = GilCell::new(PyMethodDef {
    ml_name: c"_run".as_ptr(),
    ml_meth: PyMethodDefPointer { PyCFunction: default_run },
    ml_flags: ffi::METH_VARARGS,
    ml_doc: c"What to run, if nothing was given.".as_ptr(),
});

pub(super) unsafe extern "C" fn default_run(
    _this: *mut PyObject,
    _arguments: *mut PyObject,
) -> *mut PyObject {
    none()
}

pub(super) unsafe extern "C" fn get_run(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above; the definition is a static.
    unsafe {
        let run = (*of(this)).run;
        if run.is_null() {
            ffi::PyCFunction_NewEx(DEFAULT_RUN.get(), this, std::ptr::null_mut())
        } else {
            owned(run)
        }
    }
}

pub(super) unsafe extern "C" fn set_run(
    this: *mut PyObject,
    run: *mut PyObject,
    _closure: *mut c_void,
) -> c_int {
    // SAFETY: as above; null is a deletion.
    unsafe {
        ffi::Py_XINCREF(run);
        let old = std::mem::replace(&mut (*of(this)).run, run);
        ffi::Py_XDECREF(old);
        0
    }
}
