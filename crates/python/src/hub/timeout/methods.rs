//! A timeout as programs see it.

use std::ffi::{c_int, c_void};
use std::ptr;

use pyo3::ffi::{self, PyObject, visitproc};

use super::super::class::{
    self, Given, Spec, attribute, boolean, named, none, none_if, of_class, or_none, plain, truth,
};
use super::super::faces::{faces, names};
use super::{TYPE, Timeout, base, cancel, init, is_pending, is_timeout, new, own, set_up, start, stop};
use crate::greenlet::object::{clear, owned};

unsafe extern "C" fn start_method(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by the interpreter with a timeout.
    unsafe { none_if(start(this)) }
}

unsafe extern "C" fn cancel_method(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { cancel(this) };
    none()
}

unsafe extern "C" fn close_method(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        stop(this);
        clear(&raw mut (*own(this)).holder);
    }
    none()
}

unsafe extern "C" fn enter(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { if is_pending(this) || start(this) { owned(this) } else { ptr::null_mut() } }
}

unsafe fn exit(this: *mut PyObject, [_, value, _]: Given<3>) -> *mut PyObject {
    // SAFETY: as above.
    unsafe {
        stop(this);
        clear(&raw mut (*own(this)).holder);
        if value == this && (*own(this)).exception == ffi::Py_False() { boolean(true) } else { none() }
    }
}

unsafe fn start_new(
    kind: *mut PyObject,
    [timeout, exception, referenced, one_shot]: Given<4>,
) -> *mut PyObject {
    // SAFETY: called by the interpreter with the class.
    unsafe {
        if !timeout.is_null() && is_timeout(timeout) {
            return if is_pending(timeout) || start(timeout) { owned(timeout) } else { ptr::null_mut() };
        }
        let made = if kind == faces().timeout {
            let Some(referenced) = truth(referenced, true) else { return ptr::null_mut() };
            let Some(one_shot) = truth(one_shot, false) else { return ptr::null_mut() };
            let made = new(kind.cast(), ptr::null_mut(), ptr::null_mut());
            if !made.is_null() && !set_up(made, timeout, exception, referenced, one_shot) {
                ffi::Py_DECREF(made);
                return ptr::null_mut();
            }
            made
        } else {
            // A class of somebody's own, whose `__init__` may take only what it needs.
            let positional = [or_borrowed_none(timeout), or_borrowed_none(exception)];
            let keywords = ffi::PyDict_New();
            if keywords.is_null() {
                return ptr::null_mut();
            }
            let set = (referenced.is_null()
                || ffi::PyDict_SetItemString(keywords, c"ref".as_ptr(), referenced) == 0)
                && (one_shot.is_null()
                    || ffi::PyDict_SetItemString(keywords, c"_one_shot".as_ptr(), one_shot) == 0);
            let made = if set {
                ffi::PyObject_VectorcallDict(kind, positional.as_ptr(), 2, keywords)
            } else {
                ptr::null_mut()
            };
            ffi::Py_DECREF(keywords);
            made
        };
        if made.is_null() {
            return made;
        }
        let result = if is_timeout(made) && (*ffi::Py_TYPE(made)).tp_base == *TYPE.get() {
            if start(made) { owned(ffi::Py_None()) } else { ptr::null_mut() }
        } else {
            ffi::PyObject_CallMethodNoArgs(made, names().start)
        };
        if result.is_null() {
            ffi::Py_DECREF(made);
            return ptr::null_mut();
        }
        ffi::Py_DECREF(result);
        made
    }
}

unsafe fn or_borrowed_none(object: *mut PyObject) -> *mut PyObject {
    // SAFETY: None lives for ever.
    unsafe { if object.is_null() { ffi::Py_None() } else { object } }
}

unsafe extern "C" fn get_pending(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: called by the interpreter with a timeout.
    boolean(unsafe { is_pending(this) })
}

unsafe extern "C" fn get_seconds(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { or_none((*own(this)).seconds) }
}

unsafe extern "C" fn get_exception(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: as above.
    unsafe { or_none((*own(this)).exception) }
}

unsafe fn set(place: *mut *mut PyObject, value: *mut PyObject) -> c_int {
    // SAFETY: a field with an owned reference; a live object, or null for a deletion.
    unsafe {
        let old = place.replace(or_none(value));
        ffi::Py_XDECREF(old);
        0
    }
}

unsafe extern "C" fn set_seconds(this: *mut PyObject, value: *mut PyObject, _closure: *mut c_void) -> c_int {
    // SAFETY: as above. What it counts is what it was made with.
    unsafe { set(&raw mut (*own(this)).seconds, value) }
}

unsafe extern "C" fn set_exception(
    this: *mut PyObject,
    value: *mut PyObject,
    _closure: *mut c_void,
) -> c_int {
    // SAFETY: as above.
    unsafe { set(&raw mut (*own(this)).exception, value) }
}

unsafe extern "C" fn traverse(this: *mut PyObject, visit: visitproc, argument: *mut c_void) -> c_int {
    // SAFETY: called by the collector with a live timeout.
    unsafe {
        let own = own(this);
        for object in
            [(*own).seconds, (*own).exception, (*own).holder, (*own).greenlet.cast(), (*own).coroutine]
        {
            if !object.is_null() {
                let status = visit(object, argument);
                if status != 0 {
                    return status;
                }
            }
        }
        (*base()).tp_traverse.map_or(0, |traverse| traverse(this, visit, argument))
    }
}

unsafe extern "C" fn clear_all(this: *mut PyObject) -> c_int {
    // SAFETY: called by the collector with a live timeout that is not started: the loop would hold it.
    unsafe {
        let own = own(this);
        clear(&raw mut (*own).seconds);
        clear(&raw mut (*own).exception);
        clear(&raw mut (*own).greenlet);
        clear(&raw mut (*own).coroutine);
        clear(&raw mut (*own).holder);
        (*base()).tp_clear.map_or(0, |clear| clear(this))
    }
}

unsafe extern "C" fn dealloc(this: *mut PyObject) {
    // SAFETY: called by the interpreter with a timeout whose last reference is gone.
    unsafe {
        ffi::PyObject_GC_UnTrack(this.cast());
        clear_all(this);
        if let Some(free) = (*ffi::Py_TYPE(this)).tp_free {
            free(this.cast());
        }
    }
}

/// Makes the type. False with an exception set.
///
/// # Safety
///
/// The GIL is held; called once.
pub(in super::super) unsafe fn ready(module: *mut PyObject) -> bool {
    // SAFETY: as the caller says.
    unsafe {
        let kind = class::blank(&Spec {
            name: c"weft._native._hub.TimeoutBase",
            doc: c"TimeoutBase(seconds=None, exception=None, ref=True, priority=-1)",
            base: base(),
            methods: &[
                plain(c"start", start_method, c"Begin to count."),
                plain(c"cancel", cancel_method, c"Do not raise. It can be started again."),
                plain(c"close", close_method, c"Do not raise, ever."),
                plain(c"__enter__", enter, c"Start it, unless it is started."),
                named!(
                    c"__exit__",
                    [c"typ", c"value", c"tb"],
                    3,
                    exit,
                    c"Close it; silent if `exception` is False."
                ),
                of_class(named!(
                    c"start_new",
                    [c"timeout", c"exception", c"ref", c"_one_shot"],
                    0,
                    start_new,
                    c"A started timeout: of so many seconds, or `timeout` itself if it is one."
                )),
            ],
            attributes: &[
                attribute(c"pending", get_pending, None, c"Whether it is started, and did not raise yet."),
                attribute(c"seconds", get_seconds, Some(set_seconds), c"After how many seconds it raises."),
                attribute(
                    c"exception",
                    get_exception,
                    Some(set_exception),
                    c"What it raises, if not itself.",
                ),
            ],
        });
        (*kind).tp_basicsize = size_of::<Timeout>().cast_signed();
        (*kind).tp_flags |= ffi::Py_TPFLAGS_BASE_EXC_SUBCLASS;
        (*kind).tp_new = Some(new);
        (*kind).tp_init = Some(init);
        (*kind).tp_dealloc = Some(dealloc);
        (*kind).tp_traverse = Some(traverse);
        (*kind).tp_clear = Some(clear_all);
        *TYPE.get() = kind;
        class::ready(module, kind)
    }
}
