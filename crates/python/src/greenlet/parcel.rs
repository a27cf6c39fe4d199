//! What a switch carries over, and how it becomes what `switch()` returns.

use std::ptr;

use pyo3::ffi::{self, PyObject};

use super::object::owned;
use super::types::errors;

/// What a switch carries over. All pointers are owned references.
#[derive(Debug)]
#[must_use]
pub(crate) enum Parcel {
    /// Nothing is under way.
    Empty,
    /// What `switch()` is to return.
    Value(*mut PyObject),
    /// A tuple and a dictionary or null: what to call `run` with, or to make a value of.
    Arguments(*mut PyObject, *mut PyObject),
    /// The exception that is set in the thread state.
    Exception,
}

impl Parcel {
    pub(crate) const EMPTY: Self = Self::Empty;

    /// Drops what it carries.
    ///
    /// # Safety
    ///
    /// The GIL is held. May run Python code.
    pub(crate) unsafe fn discard(self) {
        // SAFETY: owned references.
        unsafe {
            match self {
                Self::Empty | Self::Exception => {}
                Self::Value(value) => ffi::Py_DECREF(value),
                Self::Arguments(arguments, keywords) => {
                    ffi::Py_DECREF(arguments);
                    ffi::Py_XDECREF(keywords);
                }
            }
        }
    }

    /// What `switch()` returns for it: one positional argument itself, several as a tuple, keywords as a dictionary,
    /// both as a pair. Null if an exception is set.
    ///
    /// # Safety
    ///
    /// The GIL is held. May run Python code.
    pub(crate) unsafe fn into_value(self) -> *mut PyObject {
        // SAFETY: owned references; a dictionary or null is what `Arguments` holds.
        unsafe {
            match self {
                Self::Value(value) => value,
                Self::Arguments(arguments, keywords) => {
                    if keywords.is_null() || ffi::PyDict_Size(keywords) == 0 {
                        ffi::Py_XDECREF(keywords);
                        single_result(arguments)
                    } else if ffi::PyTuple_Size(arguments) == 0 {
                        ffi::Py_DECREF(arguments);
                        keywords
                    } else {
                        let pair = ffi::PyTuple_Pack(2, arguments, keywords);
                        ffi::Py_DECREF(arguments);
                        ffi::Py_DECREF(keywords);
                        pair
                    }
                }
                Self::Empty | Self::Exception => ptr::null_mut(),
            }
        }
    }
}

/// The only element of a tuple of one, anything else as it is; takes and gives a reference.
unsafe fn single_result(result: *mut PyObject) -> *mut PyObject {
    // SAFETY: an owned, live object.
    unsafe {
        if ffi::PyTuple_Check(result) == 0 || ffi::PyTuple_GET_SIZE(result) != 1 {
            return result;
        }
        let only = owned(ffi::PyTuple_GET_ITEM(result, 0));
        ffi::Py_DECREF(result);
        only
    }
}

/// What a greenlet ends with: `GreenletExit` counts as a return of that exception.
///
/// # Safety
///
/// The GIL is held; `result` is owned, or null with an exception set.
pub(crate) unsafe fn handle_exit(result: *mut PyObject) -> Parcel {
    // SAFETY: the exception is fetched whole, and what is not passed on is dropped.
    unsafe {
        if !result.is_null() {
            return Parcel::Value(result);
        }
        if ffi::PyErr_ExceptionMatches(errors().greenlet_exit) == 0 {
            return Parcel::Exception;
        }
        let (mut kind, mut value, mut traceback) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        #[allow(deprecated, reason = "the one pair of functions that all supported versions have")]
        ffi::PyErr_Fetch(&raw mut kind, &raw mut value, &raw mut traceback);
        ffi::Py_XDECREF(kind);
        ffi::Py_XDECREF(traceback);
        if value.is_null() { Parcel::Value(owned(ffi::Py_None())) } else { Parcel::Value(value) }
    }
}

/// A tuple of so many arguments; null with an exception set.
///
/// # Safety
///
/// The GIL is held; `arguments` has `count` live objects.
pub(crate) unsafe fn tuple_of(arguments: *const *mut PyObject, count: isize) -> *mut PyObject {
    // SAFETY: the caller's promise; the tuple is new.
    unsafe {
        if count == 0 {
            return owned(errors().empty_tuple);
        }
        let tuple = ffi::PyTuple_New(count);
        if !tuple.is_null() {
            for index in 0..count {
                ffi::PyTuple_SET_ITEM(tuple, index, owned(arguments.offset(index).read()));
            }
        }
        tuple
    }
}

/// Packs what `switch()` was called with for a target that is not simply resumed.
///
/// # Safety
///
/// The GIL is held; vectorcall's conventions hold.
pub(crate) unsafe fn pack(
    arguments: *const *mut PyObject,
    count: isize,
    keyword_names: *mut PyObject,
) -> Option<Parcel> {
    // SAFETY: vectorcall's conventions: `count` positional ones, then one for each name.
    unsafe {
        let positional = tuple_of(arguments, count);
        if positional.is_null() {
            return None;
        }
        let mut keywords = ptr::null_mut();
        if !keyword_names.is_null() {
            keywords = ffi::PyDict_New();
            let mut complete = !keywords.is_null();
            let mut index = 0;
            while complete && index < ffi::PyTuple_GET_SIZE(keyword_names) {
                let name = ffi::PyTuple_GET_ITEM(keyword_names, index);
                let value = arguments.offset(count + index).read();
                complete = ffi::PyDict_SetItem(keywords, name, value) == 0;
                index += 1;
            }
            if !complete {
                ffi::Py_DECREF(positional);
                ffi::Py_XDECREF(keywords);
                return None;
            }
        }
        Some(Parcel::Arguments(positional, keywords))
    }
}
