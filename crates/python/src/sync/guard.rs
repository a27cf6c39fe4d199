//! What the classes derive from that keep their lock in `_semlock`: `with` goes to it without Python in between.

use std::ffi::CStr;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::exceptions::PyAttributeError;
use pyo3::ffi::{self, PyMethodDef, PyObject};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::ready;
use super::semlock::{self, SemLock};
use crate::definitions::{fast, plain};
use crate::gil::GilCell;

/// What of a guard's lock is kept bound.
#[derive(Debug, Clone, Copy)]
#[repr(usize)]
pub(super) enum Method {
    Enter,
    Exit,
}

/// Something with a lock in `_semlock`, for `with`.
#[pyclass(frozen, subclass, weakref, name = "Guard", module = "weft.multiprocessing._sync")]
pub(super) struct Guard {
    /// Guarded by the GIL.
    lock: GilCell<Option<Py<PyAny>>>,
    /// Its [`Method`]s, from the first `with` on. Guarded by the GIL.
    bound: GilCell<[Option<Py<PyAny>>; 2]>,
    /// The same, if it is a [`SemLock`].
    native: AtomicPtr<PyObject>,
}

/// What a guard had.
type Former = (Option<Py<PyAny>>, [Option<Py<PyAny>>; 2]);

impl Guard {
    fn replace(&self, _py: Python<'_>, lock: Option<Bound<'_, PyAny>>) -> Former {
        let native = lock.as_ref().filter(|lock| lock.is_instance_of::<SemLock>());
        let native = native.map_or(ptr::null_mut(), Bound::as_ptr);
        self.native.store(native, Ordering::Relaxed);
        // SAFETY: the GIL is held, and nothing runs between.
        unsafe {
            let bound = std::mem::take(&mut *self.bound.get());
            (std::mem::replace(&mut *self.lock.get(), lock.map(Bound::unbind)), bound)
        }
    }

    /// A method of its lock, borrowed; null if it was not bound yet.
    ///
    /// # Safety
    ///
    /// The GIL is held.
    #[inline(always)]
    pub(super) unsafe fn bound(&self, which: Method) -> *mut PyObject {
        // SAFETY: by the contract, and nothing runs meanwhile.
        let bound = unsafe { &(&*self.bound.get())[which as usize] };
        bound.as_ref().map_or(ptr::null_mut(), Py::as_ptr)
    }

    /// Binds a method of its lock, if that is one of ours.
    #[cold]
    pub(super) fn bind<'py>(&self, py: Python<'py>, which: Method) -> Option<Bound<'py, PyAny>> {
        if self.native.load(Ordering::Relaxed).is_null() {
            return None;
        }
        let lock = self.lock(py).ok()?;
        let name = match which {
            Method::Enter => pyo3::intern!(py, "__enter__"),
            Method::Exit => pyo3::intern!(py, "__exit__"),
        };
        let bound = lock.bind(py).getattr(name).ok()?;
        // Whatever ran meanwhile may have given the guard another lock.
        if self.native.load(Ordering::Relaxed) == lock.as_ptr() {
            // SAFETY: the GIL is held, and nothing runs between; what was there is dropped afterwards.
            let former = unsafe { (&mut *self.bound.get())[which as usize].replace(bound.clone().unbind()) };
            drop(former);
        }
        Some(bound)
    }
}

#[pymethods]
impl Guard {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> Self {
        Self {
            lock: GilCell::new(None),
            bound: GilCell::new([None, None]),
            native: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// The lock itself.
    #[getter(_semlock)]
    fn lock(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        // SAFETY: the GIL is held.
        let lock = unsafe { &*self.lock.get() };
        let missing = || PyAttributeError::new_err("_semlock");
        lock.as_ref().map(|lock| lock.clone_ref(py)).ok_or_else(missing)
    }

    #[setter(_semlock)]
    fn set_lock(&self, lock: Bound<'_, PyAny>) {
        let py = lock.py();
        // Only afterwards does the old one go, and whatever runs then finds the new one.
        drop(self.replace(py, Some(lock)));
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: the collector runs with the GIL.
        unsafe {
            visit.call(&*self.lock.get())?;
            (&*self.bound.get()).iter().try_for_each(|bound| visit.call(bound))
        }
    }

    fn __clear__(&self, py: Python<'_>) {
        drop(self.replace(py, None));
    }
}

/// Calls a method of the lock of a guard that is none of ours.
fn foreign(this: *mut PyObject, name: &str, arguments: &[*mut PyObject]) -> *mut PyObject {
    Python::attach(|py| {
        let call = || {
            // SAFETY: the caller's objects, which live through the call.
            let (this, arguments) = unsafe {
                let arguments: Vec<_> =
                    arguments.iter().map(|one| Bound::from_borrowed_ptr(py, *one)).collect();
                (Bound::from_borrowed_ptr(py, this), PyTuple::new(py, arguments)?)
            };
            this.getattr("_semlock")?.call_method1(name, arguments)
        };
        match call() {
            Ok(value) => value.into_ptr(),
            Err(error) => {
                error.restore(py);
                ptr::null_mut()
            }
        }
    })
}

/// The lock of a guard, if it is one of ours.
///
/// # Safety
///
/// The GIL is held, and `this` is a Guard.
#[inline(always)]
unsafe fn native(this: *mut PyObject) -> *mut PyObject {
    // SAFETY: by the contract.
    unsafe {
        let py = Python::assume_attached();
        Borrowed::from_ptr(py, this).cast_unchecked::<Guard>().get().native.load(Ordering::Relaxed)
    }
}

const ENTER_DOC: &CStr = c"__enter__($self, /)
--

Acquire the lock.";

unsafe extern "C" fn enter(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by the interpreter, with the GIL and a Guard. The lock is held on to while it is waited for.
    unsafe {
        let lock = native(this);
        if lock.is_null() {
            return foreign(this, "__enter__", &[]);
        }
        ffi::Py_INCREF(lock);
        let value = semlock::enter(semlock::body(lock));
        ffi::Py_DECREF(lock);
        value
    }
}

const EXIT_DOC: &CStr = c"__exit__($self, /, *_exception)
--

Release the lock.";

unsafe extern "C" fn exit(
    this: *mut PyObject,
    arguments: *mut *mut PyObject,
    count: ffi::Py_ssize_t,
) -> *mut PyObject {
    // SAFETY: called by the interpreter, with the GIL and a Guard, and with so many arguments.
    unsafe {
        let lock = native(this);
        if lock.is_null() {
            let arguments = match usize::try_from(count) {
                Ok(count) if count > 0 => std::slice::from_raw_parts(arguments, count),
                _ => &[],
            };
            return foreign(this, "__exit__", arguments);
        }
        semlock::leave(semlock::body(lock))
    }
}

static METHODS: GilCell<[PyMethodDef; 2]> =
    GilCell::new([plain(c"__enter__", enter, ENTER_DOC), fast(c"__exit__", exit, EXIT_DOC)]);

pub(super) fn add_methods(py: Python<'_>) -> PyResult<()> {
    // SAFETY: a static table; both take a Guard.
    unsafe {
        let class = py.get_type::<Guard>();
        semlock::add(&class, METHODS.get().cast(), 2)?;
        ready::replace(&class, &[(c"__enter__", Method::Enter), (c"__exit__", Method::Exit)])
    }
}
