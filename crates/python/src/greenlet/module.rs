//! The module `greenlet._greenlet` and its functions.

use std::ffi::CStr;
use std::ptr;
use std::sync::atomic::Ordering;

use pyo3::ffi::{self, PyMethodDef, PyObject};
use pyo3::prelude::*;

use super::object::owned;
use super::thread::{self, CLEANUP_CLOCKS, MAIN_GREENLETS};
use super::types::{self, errors};
use super::{capi, switch, tracing};
use crate::definitions::classic;
use crate::ffi::{current_thread_state, datastack, trash_delete_nesting};
use crate::gil::GilCell;

unsafe extern "C" fn getcurrent(_module: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by the interpreter.
    unsafe { switch::current().cast() }
}

unsafe extern "C" fn set_thread_local(_module: *mut PyObject, arguments: *mut PyObject) -> *mut PyObject {
    let (mut key, mut value) = (ptr::null_mut::<PyObject>(), ptr::null_mut::<PyObject>());
    // SAFETY: called by the interpreter with a tuple.
    unsafe {
        let name = c"set_thread_local".as_ptr();
        if ffi::PyArg_UnpackTuple(arguments, name, 2, 2, &raw mut key, &raw mut value) == 0 {
            return ptr::null_mut();
        }
        let dict = ffi::PyThreadState_GetDict();
        if dict.is_null() {
            return ffi::PyErr_NoMemory();
        }
        if ffi::PyDict_SetItem(dict, key, value) != 0 {
            return ptr::null_mut();
        }
        owned(ffi::Py_None())
    }
}

unsafe extern "C" fn get_pending_cleanup_count(
    _module: *mut PyObject,
    _unused: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter.
    unsafe { ffi::PyLong_FromSize_t(thread::pending_cleanups()) }
}

unsafe extern "C" fn get_total_main_greenlets(
    _module: *mut PyObject,
    _unused: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter.
    unsafe { ffi::PyLong_FromSsize_t(MAIN_GREENLETS.load(Ordering::Relaxed)) }
}

unsafe extern "C" fn get_clocks_used_doing_optional_cleanup(
    _module: *mut PyObject,
    _unused: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter.
    unsafe {
        match CLEANUP_CLOCKS.load(Ordering::Relaxed) {
            -1 => owned(ffi::Py_None()),
            clocks => ffi::PyLong_FromSsize_t(clocks),
        }
    }
}

unsafe extern "C" fn enable_optional_cleanup(_module: *mut PyObject, flag: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by the interpreter.
    unsafe {
        match ffi::PyObject_IsTrue(flag) {
            -1 => return ptr::null_mut(),
            0 => CLEANUP_CLOCKS.store(-1, Ordering::Relaxed),
            _ => {
                // What was counted before stays counted.
                let _ = CLEANUP_CLOCKS.compare_exchange(-1, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
        owned(ffi::Py_None())
    }
}

unsafe extern "C" fn get_tstate_trash_delete_nesting(
    _module: *mut PyObject,
    _unused: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter.
    unsafe {
        let nesting = trash_delete_nesting(current_thread_state()).unwrap_or(0);
        ffi::PyLong_FromLong(nesting.into())
    }
}

static FUNCTIONS: GilCell<[PyMethodDef; 9]> = GilCell::new([
    classic(
        c"getcurrent",
        getcurrent,
        ffi::METH_NOARGS,
        c"getcurrent() -> greenlet\n\nThe greenlet that calls this.\n\n:raises RuntimeError: while the interpreter shuts down.",
    ),
    classic(
        c"settrace",
        tracing::settrace,
        ffi::METH_VARARGS,
        c"settrace(callback) -> object\n\n\
        Have ``callback(event, (origin, target))`` called at every switch of this thread;\n\
        *event* is 'switch' or 'throw'. None switches it off.\n\n:returns: the callback that was set before, or None.",
    ),
    classic(
        c"gettrace",
        tracing::gettrace,
        ffi::METH_NOARGS,
        c"gettrace() -> object\n\nThe callback that :func:`settrace` set in this thread, or None.",
    ),
    classic(
        c"set_thread_local",
        set_thread_local,
        ffi::METH_VARARGS,
        c"set_thread_local(key, value) -> None\n\nSet an item of the thread state's dictionary. For tests.",
    ),
    classic(
        c"get_pending_cleanup_count",
        get_pending_cleanup_count,
        ffi::METH_NOARGS,
        c"get_pending_cleanup_count() -> int\n\nHow many threads have ended and wait to be cleaned up. For tests.",
    ),
    classic(
        c"get_total_main_greenlets",
        get_total_main_greenlets,
        ffi::METH_NOARGS,
        c"get_total_main_greenlets() -> int\n\nHow many main greenlets exist. For tests.",
    ),
    classic(
        c"get_clocks_used_doing_optional_cleanup",
        get_clocks_used_doing_optional_cleanup,
        ffi::METH_NOARGS,
        c"get_clocks_used_doing_optional_cleanup() -> int | None\n\n\
        Processor time spent looking for main greenlets that ended threads leaked, in units\n\
        of which CLOCKS_PER_SEC are a second; None if :func:`enable_optional_cleanup` switched it off.",
    ),
    classic(
        c"enable_optional_cleanup",
        enable_optional_cleanup,
        ffi::METH_O,
        c"enable_optional_cleanup(flag) -> None\n\n\
        Whether to look, after a thread has ended, for a main greenlet that it leaked. That asks the\n\
        garbage collector for referrers, which takes time in proportion to all objects. On by default.",
    ),
    NO_FUNCTION,
]);

const NO_FUNCTION: PyMethodDef = PyMethodDef::zeroed();

/// Only interpreters that count nested deallocations have it.
static TRASH_FUNCTION: GilCell<[PyMethodDef; 2]> = GilCell::new([
    classic(
        c"get_tstate_trash_delete_nesting",
        get_tstate_trash_delete_nesting,
        ffi::METH_NOARGS,
        c"get_tstate_trash_delete_nesting() -> int\n\nHow deep deallocations are nested. For tests.",
    ),
    NO_FUNCTION,
]);

/// What is also an attribute of the type, as in the greenlet package.
const ALSO_ON_THE_TYPE: [&CStr; 5] = [c"getcurrent", c"error", c"GreenletExit", c"settrace", c"gettrace"];

/// Makes `greenlet._greenlet` and hangs it on the native module.
pub(crate) fn init(native: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = native.py();
    let module = PyModule::new(py, "greenlet._greenlet")?;
    // SAFETY: under the GIL, at import, before any greenlet exists. Tables and types are statics.
    unsafe {
        if !types::ready() {
            return Err(PyErr::fetch(py));
        }
        datastack::install_cache();
        thread::install_fork_handler();
        let has_trash = trash_delete_nesting(current_thread_state()).is_some();
        let tables: [(*mut PyMethodDef, bool); 2] =
            [(FUNCTIONS.get().cast(), true), (TRASH_FUNCTION.get().cast(), has_trash)];
        for (table, wanted) in tables {
            if wanted && ffi::PyModule_AddFunctions(module.as_ptr(), table) != 0 {
                return Err(PyErr::fetch(py));
            }
        }
        let borrowed = [
            (c"greenlet", types::greenlet_type().cast::<PyObject>()),
            (c"UnswitchableGreenlet", types::unswitchable_type().cast()),
            (c"error", errors().greenlet_error),
            (c"GreenletExit", errors().greenlet_exit),
        ];
        for (name, object) in borrowed {
            if ffi::PyModule_AddObjectRef(module.as_ptr(), name.as_ptr(), object) != 0 {
                return Err(PyErr::fetch(py));
            }
        }
        let capsule = Bound::from_owned_ptr_or_err(py, capi::capsule())?;
        module.setattr("_C_API", capsule)?;
    }
    module.setattr("GREENLET_USE_GC", true)?;
    module.setattr("GREENLET_USE_TRACING", true)?;
    module.setattr("GREENLET_USE_CONTEXT_VARS", true)?;
    module.setattr("GREENLET_USE_STANDARD_THREADING", true)?;
    module.setattr("CLOCKS_PER_SEC", libc_clocks_per_second())?;
    for name in ALSO_ON_THE_TYPE {
        let attribute = module.getattr(name.to_str().expect("ASCII names"))?;
        // SAFETY: the type's dictionary exists once the type is ready; nobody has looked anything up in it yet.
        let status = unsafe {
            ffi::PyDict_SetItemString((*types::greenlet_type()).tp_dict, name.as_ptr(), attribute.as_ptr())
        };
        if status != 0 {
            return Err(PyErr::fetch(py));
        }
    }
    native.setattr("_greenlet", module)
}

/// POSIX fixes it at a million.
const fn libc_clocks_per_second() -> i64 {
    1_000_000
}
