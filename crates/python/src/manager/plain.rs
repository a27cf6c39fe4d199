//! Calls of objects of plain classes, made as the interpreter itself makes them: without a bound method in between.
//!
//! Each does exactly what the method does; what is not here is left to the method.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::proxy::number;

/// What class an object is exactly of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Dict,
    List,
    /// `multiprocessing.managers.Namespace`
    Namespace,
    /// `multiprocessing.managers.Value`
    Value,
    /// None of these.
    Other,
}

impl Sort {
    /// By the name that the table in `_manager_objects.py` has for it.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        Some(match name {
            "dict" => Self::Dict,
            "list" => Self::List,
            "Namespace" => Self::Namespace,
            "Value" => Self::Value,
            "" => Self::Other,
            _ => return None,
        })
    }
}

const GETITEM: usize = number("__getitem__");
const SETITEM: usize = number("__setitem__");
const CONTAINS: usize = number("__contains__");
const LEN: usize = number("__len__");
const GET: usize = number("get");
const SET: usize = number("set");
const APPEND: usize = number("append");
const GETATTRIBUTE: usize = number("__getattribute__");
const SETATTR: usize = number("__setattr__");

/// Calls the method with this number of `object`, which is of the class that `sort` says. `None` if it is none of those that are
/// known here, or called with other arguments.
#[inline]
pub(super) fn call<'py>(
    sort: Sort,
    object: &Bound<'py, PyAny>,
    method: usize,
    args: &[Bound<'py, PyAny>],
) -> Option<PyResult<Bound<'py, PyAny>>> {
    let py = object.py();
    let this = object.as_ptr();
    let none = |status: i32| match status {
        0 => Ok(py.None().into_bound(py)),
        _ => Err(PyErr::fetch(py)),
    };
    // SAFETY: the GIL is held, all objects are alive, and the object is of the class that each function is for. What is borrowed
    // of a dictionary becomes owned before anything else is done.
    unsafe {
        Some(match (sort, method, args) {
            (Sort::Dict, GETITEM, [key]) => match find(object, key) {
                Ok(Some(value)) => Ok(value),
                Ok(None) => Err(missing(key)),
                Err(error) => Err(error),
            },
            (Sort::Dict, GET, [key]) => {
                find(object, key).map(|found| found.unwrap_or_else(|| py.None().into_bound(py)))
            }
            (Sort::Dict, GET, [key, default]) => {
                find(object, key).map(|found| found.unwrap_or_else(|| default.clone()))
            }
            (Sort::Dict, SETITEM, [key, value]) => {
                none(ffi::PyDict_SetItem(this, key.as_ptr(), value.as_ptr()))
            }
            (Sort::Dict, CONTAINS, [key]) => match ffi::PyDict_Contains(this, key.as_ptr()) {
                -1 => Err(PyErr::fetch(py)),
                found => Ok(pyo3::types::PyBool::new(py, found != 0).to_owned().into_any()),
            },
            (Sort::Dict | Sort::List, LEN, []) => {
                Bound::from_owned_ptr_or_err(py, ffi::PyLong_FromSsize_t(ffi::PyObject_Size(this)))
            }
            (Sort::List, APPEND, [item]) => none(ffi::PyList_Append(this, item.as_ptr())),
            (Sort::Namespace, GETATTRIBUTE, [name]) if is_text(name) => {
                Bound::from_owned_ptr_or_err(py, ffi::PyObject_GetAttr(this, name.as_ptr()))
            }
            (Sort::Namespace, SETATTR, [name, value]) if is_text(name) => {
                none(ffi::PyObject_SetAttr(this, name.as_ptr(), value.as_ptr()))
            }
            (Sort::Value, GET, []) => object.getattr(pyo3::intern!(py, "_value")),
            (Sort::Value, SET, [value]) => {
                none(ffi::PyObject_SetAttr(this, pyo3::intern!(py, "_value").as_ptr(), value.as_ptr()))
            }
            _ => return None,
        })
    }
}

fn is_text(object: &Bound<'_, PyAny>) -> bool {
    object.get_type_ptr() == &raw mut ffi::PyUnicode_Type
}

/// # Safety
///
/// The object is a dictionary.
unsafe fn find<'py>(
    dict: &Bound<'py, PyAny>,
    key: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = dict.py();
    // SAFETY: a dictionary, by the contract; the GIL is held.
    unsafe {
        let found = ffi::PyDict_GetItemWithError(dict.as_ptr(), key.as_ptr());
        match Bound::from_borrowed_ptr_or_opt(py, found) {
            Some(value) => Ok(Some(value)),
            None => PyErr::take(py).map_or(Ok(None), Err),
        }
    }
}

#[cold]
fn missing(key: &Bound<'_, PyAny>) -> PyErr {
    // In a tuple: a key that is one itself would be taken for the arguments.
    match PyTuple::new(key.py(), [key]) {
        Ok(args) => pyo3::exceptions::PyKeyError::new_err(args.unbind()),
        Err(error) => error,
    }
}

/// Calls anything.
#[inline]
pub(super) fn call_method<'py>(
    method: &Bound<'py, PyAny>,
    args: &[Bound<'py, PyAny>],
) -> PyResult<Bound<'py, PyAny>> {
    let pointers: [*mut ffi::PyObject; super::short::MOST] =
        std::array::from_fn(|index| args.get(index).map_or(std::ptr::null_mut(), Bound::as_ptr));
    // SAFETY: the GIL is held, so many arguments are there, and they are kept alive by the caller.
    unsafe {
        let result = ffi::PyObject_Vectorcall(
            method.as_ptr(),
            pointers.as_ptr(),
            args.len().min(pointers.len()),
            std::ptr::null_mut(),
        );
        Bound::from_owned_ptr_or_err(method.py(), result)
    }
}
