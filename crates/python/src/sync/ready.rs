//! Methods that are bound before they are looked up, for `with`.
//!
//! A `with` statement looks up `__enter__` and `__exit__` in the class and has both bound to the object, which are two Python
//! objects to be made and dropped: as dear as the lock itself. These descriptors give out what was made the first
//! time: the methods of the [`Guard`]'s own lock, as bound as its `acquire` and `release`. They are bound to the lock, not
//! the guard, so that nothing goes round in a circle.
//!
//! Looked up in the class, or for a guard whose lock is none of weft's, they are the ordinary methods.

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::ptr;

use pyo3::ffi::{self, PyObject, PyType_Slot, PyType_Spec};
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::guard::{Guard, Method};
use crate::gil::GilCell;

/// One descriptor, as it lies in memory.
#[repr(C)]
struct Ready {
    head: PyObject,
    /// The ordinary method's descriptor; owned.
    plain: *mut PyObject,
    which: Method,
}

/// # Safety
///
/// Called by the interpreter for a `Ready`, with the GIL; `object` is null or alive.
unsafe extern "C" fn get(this: *mut PyObject, object: *mut PyObject, class: *mut PyObject) -> *mut PyObject {
    // SAFETY: by the contract; `plain` is a descriptor, whose class has this slot.
    unsafe {
        let Ready { plain, which, .. } = *this.cast::<Ready>();
        if object.is_null() {
            return ffi::Py_NewRef(plain);
        }
        let py = Python::assume_attached();
        if let Ok(guard) = Borrowed::from_ptr(py, object).cast::<Guard>() {
            let bound = guard.get().bound(which);
            if !bound.is_null() {
                return ffi::Py_NewRef(bound);
            }
            if let Some(bound) = guard.get().bind(py, which) {
                return bound.into_ptr();
            }
        }
        match (*ffi::Py_TYPE(plain)).tp_descr_get {
            Some(bind) => bind(plain, object, class),
            None => ffi::Py_NewRef(plain),
        }
    }
}

unsafe extern "C" fn dealloc(this: *mut PyObject) {
    // SAFETY: called by the interpreter for a `Ready` that nobody has any more; instances hold their class.
    unsafe {
        let class = ffi::Py_TYPE(this);
        ffi::Py_DECREF((*this.cast::<Ready>()).plain);
        if let Some(free) = (*class).tp_free {
            free(this.cast());
        }
        ffi::Py_DECREF(class.cast());
    }
}

// The interpreter reads these once.
static SLOTS: GilCell<[PyType_Slot; 3]> = GilCell::new([
    PyType_Slot { slot: ffi::Py_tp_descr_get, pfunc: get as *mut c_void },
    PyType_Slot { slot: ffi::Py_tp_dealloc, pfunc: dealloc as *mut c_void },
    PyType_Slot { slot: 0, pfunc: ptr::null_mut() },
]);

/// Puts descriptors in the place of a class's methods.
///
/// # Safety
///
/// The class is that of guards, and has these methods.
pub(super) unsafe fn replace(class: &Bound<'_, PyType>, methods: &[(&CStr, Method)]) -> PyResult<()> {
    let py = class.py();
    let mut spec = PyType_Spec {
        name: c"weft._native._sync.ready_method".as_ptr(),
        basicsize: size_of::<Ready>() as c_int,
        itemsize: 0,
        flags: (ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION) as c_uint,
        slots: SLOTS.get().cast(),
    };
    // SAFETY: the specification is whole, and only read; the name lives for ever.
    let own = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpec(&raw mut spec))? };
    for (name, which) in methods {
        let name = name.to_string_lossy();
        let plain = class.getattr(&*name)?;
        // SAFETY: a new object of this size and class, zeroed but for its head, whose fields are set before anybody sees it.
        let ready = unsafe {
            let ready = Bound::from_owned_ptr_or_err(py, ffi::PyType_GenericAlloc(own.as_ptr().cast(), 0))?;
            let place = ready.as_ptr().cast::<Ready>();
            (*place).plain = plain.into_ptr();
            (*place).which = *which;
            ready
        };
        class.setattr(&*name, ready)?;
    }
    Ok(())
}
