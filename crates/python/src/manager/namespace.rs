//! Attributes of a namespace, by way of its proxy.
//!
//! The interpreter finds out that an object has no attribute of its own by making an exception, and calls `__getattr__` then: that
//! is more work than the call to the server. So the class of proxies has a function of its own for looking attributes up,
//! which goes the same ways without the exception. The interpreter does not pass it on to classes that derive from this one, and replaces it as soon as
//! anything of the class is changed that it depends on.

use pyo3::exceptions::{PyAttributeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyType};

use super::proxy::{Arguments, GETATTRIBUTE, ProxyBase, call, class_attribute, interned, overridden};

/// Let the attributes of proxies of exactly this class be looked up more quickly. Its `__getattr__` is the one that `proxy_method` makes.
#[pyfunction]
pub(super) fn quicken_namespace(cls: &Bound<'_, PyType>) -> PyResult<()> {
    if !cls.is_subclass_of::<ProxyBase>()? {
        return Err(PyTypeError::new_err("the class is none of proxies"));
    }
    // SAFETY: a class of its own, made at run time, with the GIL held; the interpreter reads this place at each look-up.
    unsafe {
        (*cls.as_type_ptr()).tp_getattro = Some(attribute);
        ffi::PyType_Modified(cls.as_type_ptr());
    }
    Ok(())
}

unsafe extern "C" fn attribute(slf: *mut ffi::PyObject, name: *mut ffi::PyObject) -> *mut ffi::PyObject {
    let work = || {
        // SAFETY: the interpreter calls it, with the GIL, for an object of a class that derives from `ProxyBase`.
        let (py, slf, name) = unsafe {
            let py = Python::assume_attached();
            (py, Bound::from_borrowed_ptr(py, slf), Bound::from_borrowed_ptr(py, name))
        };
        let Ok(name) = name.cast_exact::<PyString>() else {
            return generic(&slf, &name).or_else(|error| otherwise(&slf, &name, error));
        };
        if !is_remote(&slf, name) || overridden(&slf).is_some() {
            return generic(&slf, name).or_else(|error| otherwise(&slf, name, error));
        }
        let method = interned(py)?[GETATTRIBUTE].bind(py);
        call(slf.cast::<ProxyBase>()?, Some(GETATTRIBUTE), method, &Arguments::Array(&[name.as_ptr()]))
    };
    super::proxy::guarded(work)
}

/// Whether it is plain that the proxy has no such attribute itself.
#[inline]
fn is_remote(slf: &Bound<'_, PyAny>, name: &Bound<'_, PyString>) -> bool {
    if !name.to_str().is_ok_and(|name| !name.starts_with('_')) || class_attribute(slf, name).is_some() {
        return false;
    }
    // SAFETY: the GIL is held, and the objects are alive; the dictionary is owned, what is found in it borrowed, and only looked at.
    unsafe {
        let own = ffi::PyObject_GenericGetDict(slf.as_ptr(), std::ptr::null_mut());
        let Some(own) = Bound::from_owned_ptr_or_opt(slf.py(), own) else {
            ffi::PyErr_Clear();
            return false;
        };
        let found = ffi::PyDict_GetItemWithError(own.as_ptr(), name.as_ptr());
        found.is_null() && PyErr::take(slf.py()).is_none()
    }
}

fn generic<'py>(slf: &Bound<'py, PyAny>, name: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the GIL is held, and both are alive.
    unsafe {
        let found = ffi::PyObject_GenericGetAttr(slf.as_ptr(), name.as_ptr());
        Bound::from_owned_ptr_or_err(slf.py(), found)
    }
}

/// What the interpreter does about an attribute that is missing.
fn otherwise<'py>(
    slf: &Bound<'py, PyAny>,
    name: &Bound<'py, PyAny>,
    error: PyErr,
) -> PyResult<Bound<'py, PyAny>> {
    let py = slf.py();
    if !error.is_instance_of::<PyAttributeError>(py) {
        return Err(error);
    }
    slf.get_type().getattr(pyo3::intern!(py, "__getattr__"))?.call1((slf, name))
}
