//! The methods that have to be quick: functions as the interpreter calls them, which has checked that `this` is a [`SemLock`].

use std::ffi::CStr;
use std::ptr;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi::{self, PyMethodDef, PyObject};
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::SemLock;
use crate::definitions::{fast, method, plain};
use crate::gil::GilCell;

/// # Safety
///
/// The GIL is held, and `this` is a SemLock that lives at least as long as what is returned is used.
#[inline(always)]
pub(in super::super) unsafe fn body<'a>(this: *mut PyObject) -> &'a SemLock {
    // SAFETY: by the contract; nothing is counted or dropped through the borrowed object.
    unsafe {
        let py = Python::assume_attached();
        &*ptr::from_ref(Borrowed::from_ptr(py, this).cast_unchecked::<SemLock>().get())
    }
}

fn finish(outcome: PyResult<*mut PyObject>, py: Python<'_>) -> *mut PyObject {
    outcome.unwrap_or_else(|error| {
        error.restore(py);
        ptr::null_mut()
    })
}

/// # Safety
///
/// The GIL is held.
#[inline(always)]
unsafe fn truth(value: bool) -> *mut PyObject {
    // SAFETY: the GIL is held; both live for ever.
    unsafe { ffi::Py_NewRef(if value { ffi::Py_True() } else { ffi::Py_False() }) }
}

const ACQUIRE_DOC: &CStr = c"acquire($self, /, block=True, timeout=None)
--

Acquire it, and say whether that was possible.

If it has to be waited for: `timeout` seconds (None: for ever), or not at all if `block` is false.
Raises `weft.OwnerDied` if the process that held the lock died with it; it is free then.";

unsafe extern "C" fn acquire(
    this: *mut PyObject,
    arguments: *const *mut PyObject,
    count: ffi::Py_ssize_t,
    names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter, with the GIL and a SemLock.
    unsafe {
        let lock = body(this);
        if count == 0 && names.is_null() && lock.acquire_quickly() {
            return truth(true);
        }
        Python::attach(|py| {
            let outcome = options(py, arguments, count, names)
                .and_then(|(block, timeout)| lock.acquire_slowly(py, block, timeout));
            finish(outcome.map(|done| truth(done)), py)
        })
    }
}

/// The arguments of `acquire`: `block` and `timeout`.
///
/// # Safety
///
/// `arguments` and `names` are those of a call.
#[cold]
unsafe fn options(
    py: Python<'_>,
    arguments: *const *mut PyObject,
    count: ffi::Py_ssize_t,
    names: *mut PyObject,
) -> PyResult<(bool, Option<f64>)> {
    // SAFETY: by the contract: so many by position, then those with names, which are in a tuple.
    let argument = |index: usize| unsafe { Borrowed::from_ptr(py, *arguments.add(index)) };
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: as above.
    let names = unsafe { Bound::from_borrowed_ptr_or_opt(py, names) };
    let named: Vec<String> = names.map_or_else(|| Ok(Vec::new()), |names| names.extract())?;
    if count + named.len() > 2 {
        let given = count + named.len();
        return Err(PyTypeError::new_err(format!("acquire() takes at most 2 arguments ({given} given)")));
    }
    let mut found = [None, None];
    for (index, place) in found.iter_mut().enumerate().take(count) {
        *place = Some(argument(index));
    }
    for (index, name) in named.iter().enumerate() {
        let place = match name.as_str() {
            "block" => 0,
            "timeout" => 1,
            _ => {
                return Err(PyTypeError::new_err(format!(
                    "'{name}' is an invalid keyword argument for acquire()"
                )));
            }
        };
        if found[place].replace(argument(count + index)).is_some() {
            return Err(PyTypeError::new_err(format!(
                "argument for acquire() given by name ('{name}') and position ({})",
                place + 1
            )));
        }
    }
    let block = found[0].map_or(Ok(true), |block| block.is_truthy())?;
    let timeout = found[1].map_or(Ok(None), |timeout| timeout.extract::<Option<f64>>())?;
    if timeout.is_some_and(f64::is_nan) {
        return Err(PyValueError::new_err("a timeout must be a number, not nan"));
    }
    Ok((block, timeout))
}

/// # Safety
///
/// The GIL is held.
#[inline(always)]
pub(in super::super) unsafe fn enter(lock: &SemLock) -> *mut PyObject {
    // SAFETY: the GIL is held.
    unsafe {
        if lock.acquire_quickly() {
            return truth(true);
        }
        Python::attach(|py| finish(lock.acquire_slowly(py, true, None).map(|done| truth(done)), py))
    }
}

/// # Safety
///
/// The GIL is held.
#[inline(always)]
pub(in super::super) unsafe fn leave(lock: &SemLock) -> *mut PyObject {
    // SAFETY: the GIL is held; None lives for ever.
    unsafe {
        if lock.release_once() {
            return ffi::Py_NewRef(ffi::Py_None());
        }
        Python::attach(|py| finish(Err(lock.refusal()), py))
    }
}

const RELEASE_DOC: &CStr = c"release($self, /)
--

Release it.

Raises ValueError if it is released oftener than acquired; AssertionError if it is recursive and another thread's.";

unsafe extern "C" fn release(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by the interpreter, with the GIL and a SemLock.
    unsafe { leave(body(this)) }
}

const ENTER_DOC: &CStr = c"__enter__($self, /)
--

Acquire it.";

unsafe extern "C" fn enter_method(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by the interpreter, with the GIL and a SemLock.
    unsafe { enter(body(this)) }
}

const EXIT_DOC: &CStr = c"__exit__($self, /, *_exception)
--

Release it.";

unsafe extern "C" fn exit_method(
    this: *mut PyObject,
    _arguments: *mut *mut PyObject,
    _count: ffi::Py_ssize_t,
) -> *mut PyObject {
    // SAFETY: called by the interpreter, with the GIL and a SemLock.
    unsafe { leave(body(this)) }
}

static METHODS: GilCell<[PyMethodDef; 4]> = GilCell::new([
    method(c"acquire", acquire, ACQUIRE_DOC),
    plain(c"release", release, RELEASE_DOC),
    plain(c"__enter__", enter_method, ENTER_DOC),
    fast(c"__exit__", exit_method, EXIT_DOC),
]);

/// Adds methods to a class.
///
/// # Safety
///
/// The table lives for ever, nobody changes it, and its functions take objects of this class.
pub(in super::super) unsafe fn add(
    class: &Bound<'_, PyType>,
    methods: *mut PyMethodDef,
    count: usize,
) -> PyResult<()> {
    for index in 0..count {
        // SAFETY: by the contract; the GIL is held.
        unsafe {
            let method = methods.add(index);
            let descriptor = ffi::PyDescr_NewMethod(class.as_type_ptr(), method);
            let descriptor = Bound::from_owned_ptr_or_err(class.py(), descriptor)?;
            class.setattr(CStr::from_ptr((*method).ml_name).to_string_lossy().as_ref(), descriptor)?;
        }
    }
    Ok(())
}

pub(in super::super) fn add_methods(py: Python<'_>) -> PyResult<()> {
    // SAFETY: a static table; all four take a SemLock.
    unsafe { add(&py.get_type::<SemLock>(), METHODS.get().cast(), 4) }
}
