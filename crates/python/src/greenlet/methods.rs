//! `greenlet.switch` and `greenlet.throw`.

use std::ffi::CStr;
use std::ptr;

use pyo3::ffi::{self, PyObject};

use super::object::{is_greenlet, owned, type_name};
use super::parcel::pack;
use super::switch::{self, switch_quickly};
use super::types::errors;

pub(crate) const SWITCH_DOC: &CStr = c"switch(*args, **kwargs)\n\n\
Switch to this greenlet.\n\n\
A greenlet that was not started begins with ``self.run(*args, **kwargs)``. In a\n\
suspended one, the call that it is suspended in returns: the only argument, a\n\
tuple of several, a dictionary of keywords, or a pair of both; ``()`` if there\n\
are none. A dead greenlet stands for its parent.\n\n\
:returns: what is sent to the greenlet that calls this, when somebody switches back.\n\
:raises greenlet.error: if this greenlet belongs to another thread.\n\
:raises MemoryError: if there is no memory for a stack.";

pub(crate) const THROW_DOC: &CStr = c"throw([typ, [val, [tb]]])\n\n\
Switch to this greenlet, and raise the exception there.\n\n\
Without arguments it is :class:`GreenletExit`. A greenlet that was not started\n\
ends at once; a dead one passes the exception to its parent, except that\n\
``GreenletExit`` is then returned instead of raised.\n\n\
:raises TypeError: if the arguments are no exception.\n\
:raises greenlet.error: if this greenlet belongs to another thread.";

/// `switch(*args, **kwargs)`, with the fast calling convention.
pub(crate) unsafe extern "C" fn switch(
    this: *mut PyObject,
    arguments: *const *mut PyObject,
    count: isize,
    keyword_names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter with a greenlet, which the call keeps alive.
    unsafe {
        if keyword_names.is_null()
            && let Some(result) = switch_quickly(this.cast(), arguments, count)
        {
            return result;
        }
        switch_packed(this, arguments, count, keyword_names)
    }
}

#[inline(never)]
unsafe fn switch_packed(
    this: *mut PyObject,
    arguments: *const *mut PyObject,
    count: isize,
    keyword_names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: as for `switch`.
    unsafe {
        match pack(arguments, count, keyword_names) {
            Some(parcel) => switch::switch_from_call(this.cast(), parcel, arguments),
            None => ptr::null_mut(),
        }
    }
}

/// `throw([typ, [val, [tb]]])`.
pub(crate) unsafe extern "C" fn throw(this: *mut PyObject, arguments: *mut PyObject) -> *mut PyObject {
    let mut kind = errors().greenlet_exit;
    let (mut value, mut traceback) = (ptr::null_mut::<PyObject>(), ptr::null_mut::<PyObject>());
    // SAFETY: called by the interpreter with a greenlet and a tuple; the format has three objects.
    unsafe {
        let parsed = ffi::PyArg_ParseTuple(
            arguments,
            c"|OOO:throw".as_ptr(),
            &raw mut kind,
            &raw mut value,
            &raw mut traceback,
        );
        if parsed == 0 {
            return ptr::null_mut();
        }
        throw_pieces(this, kind, value, traceback)
    }
}

/// Throws what the three arguments say, which are borrowed; `value` and `traceback` may be null.
///
/// # Safety
///
/// The GIL is held; `this` is a greenlet that the caller keeps alive.
pub(crate) unsafe fn throw_pieces(
    this: *mut PyObject,
    kind: *mut PyObject,
    value: *mut PyObject,
    traceback: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: live objects or null; references are taken before they are given to the interpreter.
    unsafe {
        let traceback = if traceback == ffi::Py_None() { ptr::null_mut() } else { traceback };
        if !traceback.is_null() && ffi::PyTraceBack_Check(traceback) == 0 {
            ffi::PyErr_SetString(
                ffi::PyExc_TypeError,
                c"throw() third argument must be a traceback object".as_ptr(),
            );
            return ptr::null_mut();
        }
        let (mut kind, mut value) = (kind, value);
        if ffi::PyExceptionClass_Check(kind) != 0 {
            ffi::Py_INCREF(kind);
            ffi::Py_XINCREF(value);
            ffi::Py_XINCREF(traceback);
            let mut traceback = traceback;
            #[allow(deprecated, reason = "the one set of functions that all supported versions have")]
            {
                ffi::PyErr_NormalizeException(&raw mut kind, &raw mut value, &raw mut traceback);
                ffi::PyErr_Restore(kind, value, traceback);
            }
        } else if ffi::PyExceptionInstance_Check(kind) != 0 {
            if !value.is_null() && value != ffi::Py_None() {
                ffi::PyErr_SetString(
                    ffi::PyExc_TypeError,
                    c"instance exception may not have a separate value".as_ptr(),
                );
                return ptr::null_mut();
            }
            value = owned(kind);
            kind = owned(ffi::Py_TYPE(value).cast::<PyObject>());
            ffi::Py_XINCREF(traceback);
            #[allow(deprecated, reason = "the one set of functions that all supported versions have")]
            ffi::PyErr_Restore(kind, value, traceback);
        } else {
            ffi::PyErr_Format(
                ffi::PyExc_TypeError,
                c"exceptions must be classes, or instances, not %s".as_ptr(),
                type_name(kind),
            );
            return ptr::null_mut();
        }
        debug_assert!(is_greenlet(this));
        switch::throw(this.cast())
    }
}
