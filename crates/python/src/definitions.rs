//! Methods and attributes as the interpreter's tables have them, for what is made without the bindings.

use std::ffi::{CStr, c_int};
use std::ptr;

use pyo3::ffi::{self, PyGetSetDef, PyMethodDef, PyMethodDefPointer, PyObject};

/// A method with the fast calling convention, keywords included.
pub(crate) type Method =
    unsafe extern "C" fn(*mut PyObject, *const *mut PyObject, isize, *mut PyObject) -> *mut PyObject;

/// A method that takes any arguments.
pub(crate) const fn method(name: &'static CStr, function: Method, doc: &'static CStr) -> PyMethodDef {
    PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: PyMethodDefPointer { PyCFunctionFastWithKeywords: function },
        ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
        ml_doc: doc.as_ptr(),
    }
}

/// The same method, of the class.
pub(crate) const fn of_class(mut definition: PyMethodDef) -> PyMethodDef {
    definition.ml_flags |= ffi::METH_CLASS;
    definition
}

/// The same method under another name.
pub(crate) const fn alias(
    name: &'static CStr,
    mut definition: PyMethodDef,
    doc: &'static CStr,
) -> PyMethodDef {
    definition.ml_name = name.as_ptr();
    definition.ml_doc = doc.as_ptr();
    definition
}

/// A method without arguments.
pub(crate) const fn plain(
    name: &'static CStr,
    function: ffi::PyCFunction,
    doc: &'static CStr,
) -> PyMethodDef {
    classic(name, function, ffi::METH_NOARGS, doc)
}

/// A method with exactly one argument.
pub(crate) const fn one(name: &'static CStr, function: ffi::PyCFunction, doc: &'static CStr) -> PyMethodDef {
    classic(name, function, ffi::METH_O, doc)
}

/// A method that takes another pointer, which the flags say what it is of.
pub(crate) const fn classic(
    name: &'static CStr,
    function: ffi::PyCFunction,
    flags: c_int,
    doc: &'static CStr,
) -> PyMethodDef {
    PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: PyMethodDefPointer { PyCFunction: function },
        ml_flags: flags,
        ml_doc: doc.as_ptr(),
    }
}

/// An attribute.
pub(crate) const fn attribute(
    name: &'static CStr,
    get: ffi::getter,
    set: Option<ffi::setter>,
    doc: &'static CStr,
) -> PyGetSetDef {
    PyGetSetDef { name: name.as_ptr(), get: Some(get), set, doc: doc.as_ptr(), closure: ptr::null_mut() }
}

/// A function with the interpreter's fast calling convention, without keywords.
pub(crate) type Fast = unsafe extern "C" fn(*mut PyObject, *mut *mut PyObject, isize) -> *mut PyObject;

pub(crate) const fn fast(name: &'static CStr, function: Fast, doc: &'static CStr) -> PyMethodDef {
    PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: PyMethodDefPointer { PyCFunctionFast: function },
        ml_flags: ffi::METH_FASTCALL,
        ml_doc: doc.as_ptr(),
    }
}
