//! What a socket of `weft.gevent.socket` does for every message, without a frame of Python's.
//!
//! The class is Python's, with a stream and a time limit in slots of its own. Its `recv` and `sendall` are here: method descriptors
//! such as built-in types have, made for the class once it exists.

use std::ffi::{CStr, c_void};
use std::ptr;

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi::{self, PyMethodDef, PyObject, PyTypeObject};
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::super::class::{check_count, fast, none};
use super::super::names;
use super::super::park::note_wait;
use super::attempt::instant_of;
use super::calls::{bytes_received, flags_argument, sent, size_and_flags};
use crate::gil::GilCell;
use crate::greenlet::object::owned;

/// Where an object of the class has its slots, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slots {
    stream: isize,
    timeout: isize,
}

static SLOTS: GilCell<Option<Slots>> = GilCell::new(None);

static METHODS: GilCell<[PyMethodDef; 2]> = GilCell::new([
    fast(
        c"recv",
        recv,
        c"recv($self, bufsize, flags=0, /)\n--\n\nUp to `bufsize` bytes; none at the end.",
    ),
    fast(
        c"sendall",
        sendall,
        c"sendall($self, data, flags=0, /)\n--\n\nSend all of it. After an error nobody knows how much was sent.",
    ),
]);

/// What `descrobject.h` has for a member of a class's objects.
#[repr(C)]
struct MemberDescriptor {
    base: PyObject,
    of: *mut PyTypeObject,
    name: *mut PyObject,
    qualified_name: *mut PyObject,
    member: *const ffi::PyMemberDef,
}

fn offset_of(class_: &Bound<'_, PyType>, name: &str) -> PyResult<isize> {
    let member = class_.getattr("__dict__")?.get_item(name)?;
    // SAFETY: the type of the descriptor is looked at before it is read; its member lives as long as the class.
    unsafe {
        if ffi::Py_TYPE(member.as_ptr()) != &raw mut ffi::PyMemberDescr_Type {
            return Err(PyTypeError::new_err(format!("{name} of {class_} is no slot")));
        }
        Ok((*(*member.as_ptr().cast::<MemberDescriptor>()).member).offset)
    }
}

/// Gives the class its `recv` and `sendall`. Its objects have slots `_stream`, None until `_open()` makes one, and `_timeout`.
#[pyfunction]
pub(in super::super) fn add_socket_methods(class_: &Bound<'_, PyType>) -> PyResult<()> {
    let slots = Slots { stream: offset_of(class_, "_stream")?, timeout: offset_of(class_, "_timeout")? };
    // SAFETY: with the GIL; the table is a static.
    unsafe {
        if (*SLOTS.get()).is_some_and(|known| known != slots) {
            return Err(PyRuntimeError::new_err(format!("another class like {class_} has other slots")));
        }
        *SLOTS.get() = Some(slots);
        for index in 0..(*METHODS.get()).len() {
            let definition = &raw mut (*METHODS.get())[index];
            let method = ffi::PyDescr_NewMethod(class_.as_type_ptr(), definition);
            let method = Bound::from_owned_ptr_or_err(class_.py(), method)?;
            class_.setattr(CStr::from_ptr((*definition).ml_name), method)?;
        }
    }
    Ok(())
}

/// The stream of a socket, owned, and its time limit; `None` with an exception set.
unsafe fn parts(socket: *mut PyObject) -> Option<(*mut PyObject, Option<u64>)> {
    // SAFETY: the descriptor has checked that it is an object of the class, whose slots are objects or null.
    unsafe {
        let slots = (*SLOTS.get())?;
        let slot = |offset| socket.cast::<c_void>().byte_offset(offset).cast::<*mut PyObject>().read();
        let timeout: *mut PyObject = slot(slots.timeout);
        if timeout.is_null() {
            ffi::PyErr_SetString(ffi::PyExc_AttributeError, c"the socket was never made".as_ptr());
            return None;
        }
        let at = instant_of(timeout).ok()?;
        let stream = slot(slots.stream);
        let stream = if stream.is_null() || stream == ffi::Py_None() {
            ffi::PyObject_CallMethodNoArgs(socket, names()._open)
        } else {
            owned(stream)
        };
        (!stream.is_null()).then_some((stream, at))
    }
}

unsafe extern "C" fn recv(
    socket: *mut PyObject,
    arguments: *mut *mut PyObject,
    count: isize,
) -> *mut PyObject {
    // SAFETY: called by the interpreter; the socket and the arguments are alive throughout.
    unsafe {
        if !check_count(c"recv", count, 1, 2) {
            return ptr::null_mut();
        }
        let Some((size, flags)) = size_and_flags(arguments, count) else { return ptr::null_mut() };
        let Some((stream, at)) = parts(socket) else { return ptr::null_mut() };
        note_wait(socket);
        let bytes = bytes_received(stream, size, flags, at);
        note_wait(ptr::null_mut());
        ffi::Py_DECREF(stream);
        bytes
    }
}

unsafe extern "C" fn sendall(
    socket: *mut PyObject,
    arguments: *mut *mut PyObject,
    count: isize,
) -> *mut PyObject {
    // SAFETY: as for `recv`.
    unsafe {
        if !check_count(c"sendall", count, 1, 2) {
            return ptr::null_mut();
        }
        let Some(flags) = flags_argument(arguments, count, 1) else { return ptr::null_mut() };
        let Some((stream, at)) = parts(socket) else { return ptr::null_mut() };
        note_wait(socket);
        let done = sent(stream, arguments.read(), flags, at, true).is_some();
        note_wait(ptr::null_mut());
        ffi::Py_DECREF(stream);
        if done { none() } else { ptr::null_mut() }
    }
}
