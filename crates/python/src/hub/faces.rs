//! What the native half needs of the face: its classes, and names as the interpreter keeps them.

use std::ffi::CStr;
use std::ptr;

use pyo3::exceptions::PyValueError;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use crate::gil::GilCell;

macro_rules! table {
    ($(#[$doc:meta])* $table:ident, $type:ident { $($name:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub(super) struct $type { $(pub(super) $name: *mut PyObject),+ }

        static $table: GilCell<$type> = GilCell::new($type { $($name: ptr::null_mut()),+ });

        impl $type {
            /// Where it lies, by its name.
            fn place(&mut self, name: &str) -> Option<&mut *mut PyObject> {
                match name {
                    $(stringify!($name) => Some(&mut self.$name),)+
                    _ => None,
                }
            }

            /// All names.
            const NAMES: &'static [&'static str] = &[$(stringify!($name)),+];
        }
    };
}

table! {
    /// Classes and exceptions of the face, borrowed for ever; null before it is imported.
    FACES, Faces {
        greenlet, raw_greenlet, timeout, event, async_result, simple_queue, queue, full, empty, shut_down, concurrent_use,
        invalid_switch, invalid_thread, never,
    }
}

table! {
    /// Interned strings, borrowed for ever.
    NAMES_TABLE, Names {
        switch_out, switch, handle_error, r#loop, _run, rawlink, unlink, start, throw, spawn_tree_locals,
        spawning_stack_limit, exception, successful, value, exc_info, append, popleft, _put, _get, _peek, _qsize, _init,
        __self__, __name__, _open,
    }
}

/// The face's classes.
#[inline(always)]
pub(super) fn faces() -> Faces {
    // SAFETY: read with the GIL.
    unsafe { *FACES.get() }
}

/// The interned names.
#[inline(always)]
pub(super) fn names() -> Names {
    // SAFETY: written once at import, under the GIL.
    unsafe { *NAMES_TABLE.get() }
}

/// Tells the native half of a class of the face's.
#[pyfunction]
pub(super) fn set_face(name: &str, object: Py<PyAny>) -> PyResult<()> {
    // SAFETY: with the GIL. What was there before stays alive, as objects of it may exist.
    unsafe {
        match (*FACES.get()).place(name) {
            Some(place) => {
                *place = object.into_ptr();
                let call: Option<ffi::vectorcallfunc> = match name {
                    "greenlet" => Some(super::spawned::make_by_call),
                    "timeout" => Some(super::timeout::make_by_call),
                    "event" => Some(super::event::make_by_call),
                    "async_result" => Some(super::async_result::make_by_call),
                    _ => None,
                };
                if let Some(call) = call {
                    // To call the class makes an object without a tuple of arguments in between. Classes that derive from
                    // it do not have this.
                    (*(*place).cast::<ffi::PyTypeObject>()).tp_vectorcall = Some(call);
                }
                Ok(())
            }
            None => Err(PyValueError::new_err(format!(
                "there is no {name}; there are {}",
                Faces::NAMES.join(", ")
            ))),
        }
    }
}

/// Makes the names. False with an exception set.
///
/// # Safety
///
/// The GIL is held; called once.
pub(super) unsafe fn ready() -> bool {
    // SAFETY: as the caller says.
    unsafe {
        for name in Names::NAMES {
            let text = name.trim_start_matches("r#");
            let string = ffi::PyUnicode_FromStringAndSize(text.as_ptr().cast(), text.len().cast_signed());
            if string.is_null() {
                return false;
            }
            let mut string = string;
            ffi::PyUnicode_InternInPlace(&raw mut string);
            if let Some(place) = (*NAMES_TABLE.get()).place(name) {
                *place = string;
            }
        }
        true
    }
}

/// Sets an exception of the face's, or a RuntimeError before it is imported.
///
/// # Safety
///
/// The GIL is held.
pub(super) unsafe fn raise(kind: *mut PyObject, message: &CStr) -> *mut PyObject {
    // SAFETY: as the caller says.
    unsafe {
        ffi::PyErr_SetString(if kind.is_null() { ffi::PyExc_RuntimeError } else { kind }, message.as_ptr());
        ptr::null_mut()
    }
}
