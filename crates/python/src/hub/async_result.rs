//! `AsyncResult`: a value, or an exception, that is waited for.

use std::ffi::{c_int, c_void};
use std::ptr;

use pyo3::ffi::{self, PyObject};

use super::class::{
    self, Given, Spec, alias, attribute, boolean, named, none, none_if, or_none, own, plain, source_argument,
    truth,
};
use super::faces::names;
use super::limit::{self, Ended, limit};
use super::linkable::{self, Home, Linkable, What};
use crate::greenlet::object::{clear, owned};
use crate::greenlet::types::errors;

unsafe extern "C" fn init(this: *mut PyObject, arguments: *mut PyObject, keywords: *mut PyObject) -> c_int {
    // SAFETY: called by the interpreter with a result. What was there before is dropped when nothing is borrowed.
    unsafe {
        if class::init_arguments(c"AsyncResult", &[], arguments, keywords).is_none() {
            return -1;
        }
        let (value, exc_info) = parts(this);
        let empty = What::Result { value: ptr::null_mut(), exc_info: ptr::null_mut() };
        (*own::<Linkable>(this)).what = empty;
        ffi::Py_XDECREF(value);
        ffi::Py_XDECREF(exc_info);
        0
    }
}

/// `AsyncResult()`.
pub(super) unsafe extern "C" fn make_by_call(
    kind: *mut PyObject,
    given: *const *mut PyObject,
    count: usize,
    keyword_names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: called by the interpreter with the face's class.
    unsafe {
        linkable::make_by_call(
            kind,
            c"AsyncResult",
            What::Result { value: ptr::null_mut(), exc_info: ptr::null_mut() },
            given,
            count,
            keyword_names,
        )
    }
}

/// The value and the exception's three parts, borrowed; null before they are set.
unsafe fn parts(this: *mut PyObject) -> (*mut PyObject, *mut PyObject) {
    // SAFETY: a live result, says the caller.
    unsafe {
        match (*own::<Linkable>(this)).what {
            What::Result { value, exc_info } => (value, exc_info),
            _ => (ptr::null_mut(), ptr::null_mut()),
        }
    }
}

/// Stores a value, or an exception's three parts, which are taken, and tells those that wait. False with an exception set.
unsafe fn store(this: *mut PyObject, new_value: *mut PyObject, new_exc_info: *mut PyObject) -> bool {
    // SAFETY: a live result; what was there before is dropped when nothing is borrowed.
    unsafe {
        // Of one that was never set up, which has no place for them, they are dropped at once.
        let mut old = [new_value, new_exc_info];
        if let What::Result { value, exc_info } = &mut (*own::<Linkable>(this)).what {
            old = [ptr::null_mut(); 2];
            if !new_value.is_null() {
                old[0] = std::mem::replace(value, new_value);
            }
            if !new_exc_info.is_null() {
                old[1] = std::mem::replace(exc_info, new_exc_info);
            }
        }
        for mut object in old {
            clear(&raw mut object);
        }
        linkable::check_and_notify(this)
    }
}

unsafe fn set(this: *mut PyObject, [value]: Given<1>) -> *mut PyObject {
    // SAFETY: called by the interpreter with a result.
    unsafe { none_if(store(this, or_none(value), ptr::null_mut())) }
}

unsafe fn set_exception(this: *mut PyObject, [exception, exc_info]: Given<2>) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let Some(has_info) = truth(exc_info, false) else { return ptr::null_mut() };
        let stored = if has_info {
            ffi::PySequence_Tuple(exc_info)
        } else {
            ffi::PyTuple_Pack(3, ffi::Py_TYPE(exception), exception, ffi::Py_None())
        };
        if stored.is_null() {
            return stored;
        }
        if ffi::PyTuple_GET_SIZE(stored) != 3 {
            ffi::Py_DECREF(stored);
            ffi::PyErr_SetString(
                ffi::PyExc_ValueError,
                c"exc_info is a type, an exception and a traceback".as_ptr(),
            );
            return ptr::null_mut();
        }
        none_if(store(this, ptr::null_mut(), stored))
    }
}

/// Raises what an exception's three parts say, with the traceback that they have and no more.
///
/// # Safety
///
/// The GIL is held; a tuple of three live objects.
pub(super) unsafe fn reraise(exc_info: *mut PyObject) {
    // SAFETY: the caller's promise; the parts are held while they are used.
    unsafe {
        let exc_info = owned(exc_info);
        let kind = ffi::PyTuple_GET_ITEM(exc_info, 0);
        let value = ffi::PyTuple_GET_ITEM(exc_info, 1);
        let traceback = ffi::PyTuple_GET_ITEM(exc_info, 2);
        if ffi::PyExceptionInstance_Check(value) != 0 {
            if traceback == ffi::Py_None() || ffi::PyTraceBack_Check(traceback) != 0 {
                ffi::PyException_SetTraceback(value, traceback);
            }
            ffi::PyErr_SetObject(ffi::Py_TYPE(value).cast(), value);
        } else {
            ffi::PyErr_SetObject(kind, value);
        }
        ffi::Py_DECREF(exc_info);
    }
}

/// The value, or null with the exception raised; `None` if neither is there.
unsafe fn outcome(this: *mut PyObject) -> Option<*mut PyObject> {
    // SAFETY: a live result, says the caller.
    unsafe {
        let (value, exc_info) = parts(this);
        if !value.is_null() {
            return Some(owned(value));
        }
        if exc_info.is_null() {
            return None;
        }
        reraise(exc_info);
        Some(ptr::null_mut())
    }
}

unsafe fn get_within(this: *mut PyObject, block: bool, timeout: *mut PyObject) -> *mut PyObject {
    // SAFETY: a live result and its arguments, held by the call.
    unsafe {
        if let Some(outcome) = outcome(this) {
            return outcome;
        }
        if !block {
            limit::raise_timeout(ffi::Py_None());
            return ptr::null_mut();
        }
        let Some(home) = linkable::home(own(this), true) else { return ptr::null_mut() };
        let Some(limit) = limit(timeout) else { return ptr::null_mut() };
        let (ended, _) = linkable::wait(this, limit, false, matches!(home, Home::Foreign), false);
        match ended {
            Ended::Failed => ptr::null_mut(),
            Ended::Expired => match outcome(this) {
                Some(outcome) => outcome,
                None => limit::raise(limit, ptr::null_mut()),
            },
            Ended::Woken => outcome(this).unwrap_or_else(|| {
                limit::raise_timeout(ffi::Py_None());
                ptr::null_mut()
            }),
        }
    }
}

unsafe fn get(this: *mut PyObject, [block, timeout]: Given<2>) -> *mut PyObject {
    // SAFETY: called by the interpreter with a result.
    unsafe {
        let Some(block) = truth(block, true) else { return ptr::null_mut() };
        get_within(this, block, timeout)
    }
}

unsafe extern "C" fn get_nowait(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { get_within(this, false, ptr::null_mut()) }
}

unsafe fn result(this: *mut PyObject, [timeout]: Given<1>) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { get_within(this, true, timeout) }
}

unsafe fn wait(this: *mut PyObject, [timeout]: Given<1>) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        if linkable::home(own(this), true).is_none()
            || (!is_ready(this) && !linkable::wait_for(this, timeout))
        {
            return ptr::null_mut();
        }
        or_none(parts(this).0)
    }
}

unsafe fn is_ready(this: *mut PyObject) -> bool {
    // SAFETY: a live result, says the caller.
    unsafe {
        let (value, exc_info) = parts(this);
        !value.is_null() || !exc_info.is_null()
    }
}

unsafe extern "C" fn ready_method(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by the interpreter with a result.
    boolean(unsafe { is_ready(this) })
}

unsafe extern "C" fn successful(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    boolean(unsafe { !parts(this).0.is_null() })
}

unsafe extern "C" fn never(_this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    boolean(false)
}

/// As a link: takes over what another one has.
unsafe extern "C" fn call(
    this: *mut PyObject,
    arguments: *mut PyObject,
    keywords: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: as above; every result is checked and dropped.
    unsafe {
        let source = source_argument(arguments, keywords);
        if source.is_null() {
            return source;
        }
        let names = names();
        let good = ffi::PyObject_CallMethodNoArgs(source, names.successful);
        if good.is_null() {
            return good;
        }
        let truth = ffi::PyObject_IsTrue(good);
        ffi::Py_DECREF(good);
        if truth < 0 {
            return ptr::null_mut();
        }
        let stored = if truth != 0 {
            let value = ffi::PyObject_GetAttr(source, names.value);
            !value.is_null() && store(this, value, ptr::null_mut())
        } else {
            let mut info = ffi::PyObject_GetAttr(source, names.exc_info);
            if info.is_null() {
                ffi::PyErr_Clear();
            } else if ffi::PyTuple_Check(info) == 0 || ffi::PyTuple_GET_SIZE(info) != 3 {
                clear(&raw mut info);
            }
            if info.is_null() {
                let exception = ffi::PyObject_GetAttr(source, names.exception);
                if exception.is_null() {
                    return exception;
                }
                info = ffi::PyTuple_Pack(3, ffi::Py_TYPE(exception), exception, ffi::Py_None());
                ffi::Py_DECREF(exception);
            }
            !info.is_null() && store(this, ptr::null_mut(), info)
        };
        none_if(stored)
    }
}

unsafe extern "C" fn get_value(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { or_none(parts(this).0) }
}

unsafe extern "C" fn get_exception(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let (_, exc_info) = parts(this);
        if exc_info.is_null() { none() } else { owned(ffi::PyTuple_GET_ITEM(exc_info, 1)) }
    }
}

unsafe extern "C" fn get_exc_info(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        let (_, exc_info) = parts(this);
        owned(if exc_info.is_null() { errors().empty_tuple } else { exc_info })
    }
}

/// Makes the type. False with an exception set.
///
/// # Safety
///
/// The GIL is held; called once.
pub(super) unsafe fn ready(module: *mut PyObject) -> bool {
    // SAFETY: as the caller says.
    unsafe {
        let set =
            named!(c"set", [c"value"], 0, set, c"set(value=None)\n\nSet the value, and wake who waits.",);
        let kind = class::make::<Linkable>(&Spec {
            name: c"weft._native._hub.AsyncResultBase",
            doc: c"AsyncResultBase()",
            base: linkable::base(),
            methods: &[
                plain(c"ready", ready_method, c"Whether a value or an exception was set."),
                plain(c"done", ready_method, c"Whether a value or an exception was set."),
                plain(c"successful", successful, c"Whether a value was set."),
                plain(c"cancel", never, c"Never possible."),
                plain(c"cancelled", never, c"Never."),
                set,
                alias(c"set_result", set, c"set_result(value=None)\n\nSet the value, and wake who waits."),
                named!(c"set_exception", [c"exception", c"exc_info"], 1, set_exception,
                    c"set_exception(exception, exc_info=None)\n\nSet the exception, which is raised in who waits.",
                ),
                named!(c"get", [c"block", c"timeout"], 0, get,
                    c"get(block=True, timeout=None)\n\n\
                    Return the value or raise the exception, waiting for it; Timeout if it did not come.",
                ),
                plain(c"get_nowait", get_nowait, c"The same, without waiting."),
                named!(c"result", [c"timeout"], 0, result, c"result(timeout=None)\n\nThe same as `get()`."),
                named!(c"wait", [c"timeout"], 0, wait,
                    c"wait(timeout=None)\n\nWait until something is set; return the value, or None.",
                ),
            ],
            attributes: &[
                attribute(c"value", get_value, None, c"The value; None if there is none."),
                attribute(c"exception", get_exception, None, c"The exception; None if there is none."),
                attribute(
                    c"exc_info",
                    get_exc_info,
                    None,
                    c"Type, exception and traceback; an empty tuple if there is none.",
                ),
            ],
        });
        (*kind).tp_init = Some(init);
        (*kind).tp_call = Some(call);
        class::ready(module, kind)
    }
}
