//! An object in shared memory with its lock.

use std::sync::OnceLock;

use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyTuple};

use super::number::Number;
use crate::sync::semlock::SemLock;

/// What such an object consists of.
pub(super) struct Parts {
    pub(super) obj: Py<PyAny>,
    pub(super) lock: Py<PyAny>,
    pub(super) acquire: Py<PyAny>,
    pub(super) release: Py<PyAny>,
    /// What these two are methods of, if it is one of weft's locks: then nothing has to be called.
    pub(super) native: Option<Py<SemLock>>,
    /// The number that `obj` is, if it is one.
    pub(super) number: Option<Number>,
}

/// A ctypes object and its lock: the part of `SynchronizedBase` that has to be quick.
///
/// A face's class derives from it and calls `_begin` once.
#[pyclass(frozen, subclass, weakref, name = "SynchronizedBase", module = "weft._native")]
pub(crate) struct SynchronizedBase(OnceLock<Parts>);

impl SynchronizedBase {
    #[inline(always)]
    pub(super) fn known_parts(&self) -> Option<&Parts> {
        self.0.get()
    }

    #[inline]
    pub(super) fn parts(&self) -> PyResult<&Parts> {
        self.0.get().ok_or_else(|| PyRuntimeError::new_err("the object was not initialised: call __init__"))
    }
}

/// What a lock's methods belong to, if they are those of one of weft's: who made a lock of their own meant its methods.
fn native(lock: &Bound<'_, PyAny>) -> PyResult<Option<Py<SemLock>>> {
    let owner = |name| -> PyResult<_> { lock.getattr(name)?.getattr_opt("__self__") };
    let (Some(first), Some(second)) = (owner("acquire")?, owner("release")?) else { return Ok(None) };
    let known = first.is(&second) && first.is_instance_of::<SemLock>() && is_native(lock)?;
    Ok(known.then(|| first.cast_into::<SemLock>()).transpose()?.map(Bound::unbind))
}

/// Whether both methods are built in.
fn is_native(lock: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(lock.getattr("acquire")?.is_instance_of::<PyCFunction>()
        && lock.getattr("release")?.is_instance_of::<PyCFunction>())
}

#[pymethods]
impl SynchronizedBase {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> Self {
        Self(OnceLock::new())
    }

    /// Become the wrapper of `obj`, which `lock` guards.
    fn _begin(&self, obj: &Bound<'_, PyAny>, lock: &Bound<'_, PyAny>) -> PyResult<()> {
        let parts = Parts {
            number: Number::of(obj)?,
            obj: obj.clone().unbind(),
            acquire: lock.getattr("acquire")?.unbind(),
            release: lock.getattr("release")?.unbind(),
            native: native(lock)?,
            lock: lock.clone().unbind(),
        };
        self.0.set(parts).map_err(|_| PyRuntimeError::new_err("the object was initialised already"))
    }

    #[getter]
    fn _obj(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.parts()?.obj.clone_ref(py))
    }

    #[getter]
    fn _lock(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.parts()?.lock.clone_ref(py))
    }

    /// The lock's method of this name.
    #[getter]
    fn acquire(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.parts()?.acquire.clone_ref(py))
    }

    /// The lock's method of this name.
    #[getter]
    fn release(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.parts()?.release.clone_ref(py))
    }

    /// The object without its lock.
    fn get_obj(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.parts()?.obj.clone_ref(py))
    }

    fn __enter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.parts()?.lock.bind(py).call_method0(pyo3::intern!(py, "__enter__"))
    }

    #[pyo3(signature = (*error))]
    fn __exit__<'py>(&self, py: Python<'py>, error: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        self.parts()?.lock.bind(py).call_method1(pyo3::intern!(py, "__exit__"), error)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(parts) = self.0.get() {
            for part in [&parts.obj, &parts.lock, &parts.acquire, &parts.release] {
                visit.call(part)?;
            }
        }
        Ok(())
    }
}
