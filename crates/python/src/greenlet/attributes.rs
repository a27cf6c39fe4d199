//! What can be asked of a greenlet: `run`, `parent`, `dead`, `gr_frame`, `gr_context`, `__dict__`, truth and `repr()`.

use std::ffi::{c_int, c_void};
use std::ptr;

use pyo3::ffi::{self, PyObject};

use super::lifetime::holds_stale_state;
use super::object::{Life, PyGreenlet, body, is_greenlet, owned, owned_or_null, type_name};
use super::thread::{self, belongs_to_ended_thread, current_thread, thread_of};
use crate::ffi::{context_changed, context_of, current_thread_state};

/// Sets an exception of a built-in kind and returns -1.
macro_rules! refuse {
    ($kind:ident, $message:literal) => {{
        ffi::PyErr_SetString(ffi::$kind, $message.as_ptr());
        return -1;
    }};
}

/// Whether it was not started or may still run. Notices that its thread has ended.
///
/// # Safety
///
/// The GIL is held; a live greenlet.
pub(crate) unsafe fn is_not_dead(greenlet: *mut PyGreenlet) -> bool {
    // SAFETY: the GIL is held; a live greenlet.
    unsafe {
        if belongs_to_ended_thread(greenlet) {
            super::lifetime::make_dead(greenlet);
            return false;
        }
        (*body(greenlet)).life != Life::Dead
    }
}

/// Whether it is some thread's current greenlet.
unsafe fn is_running(greenlet: *mut PyGreenlet) -> bool {
    // SAFETY: the GIL is held; a live greenlet.
    unsafe {
        let thread = thread_of(greenlet);
        !thread.is_null() && (*thread).current == greenlet
    }
}

/// Whether it is the calling thread's current greenlet.
unsafe fn is_current(greenlet: *mut PyGreenlet) -> bool {
    // SAFETY: the GIL is held.
    unsafe {
        let thread = current_thread(current_thread_state());
        !thread.is_null() && (*thread).current == greenlet
    }
}

/// `bool(greenlet)`: started and not finished.
pub(crate) unsafe extern "C" fn truth(this: *mut PyObject) -> c_int {
    // SAFETY: called by the interpreter with a greenlet.
    unsafe { c_int::from((*body(this.cast())).life == Life::Active) }
}

/// `greenlet.dead`.
pub(crate) unsafe extern "C" fn get_dead(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: called by the interpreter with a greenlet.
    unsafe { ffi::PyBool_FromLong((!is_not_dead(this.cast())).into()) }
}

/// `greenlet._stack_saved`: bytes of C stack that it keeps while it is suspended.
pub(crate) unsafe extern "C" fn get_stack_saved(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: called by the interpreter with a greenlet.
    unsafe { ffi::PyLong_FromSize_t(thread::suspended_size(this.cast())) }
}

/// `greenlet.run`.
pub(crate) unsafe extern "C" fn get_run(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: called by the interpreter with a greenlet.
    unsafe {
        let this = body(this.cast());
        if (*this).is_main {
            ffi::PyErr_SetString(
                ffi::PyExc_AttributeError,
                c"Main greenlets do not have a run attribute.".as_ptr(),
            );
            return ptr::null_mut();
        }
        if (*this).life != Life::Pending || (*this).run.is_null() {
            ffi::PyErr_SetString(ffi::PyExc_AttributeError, c"run".as_ptr());
            return ptr::null_mut();
        }
        owned((*this).run)
    }
}

/// `greenlet.run = callable`.
pub(crate) unsafe extern "C" fn set_run(
    this: *mut PyObject,
    run: *mut PyObject,
    _closure: *mut c_void,
) -> c_int {
    // SAFETY: called by the interpreter with a greenlet; null means deletion.
    unsafe {
        let this = body(this.cast());
        if (*this).is_main {
            refuse!(PyExc_AttributeError, c"Main greenlets do not have a run attribute.");
        }
        if (*this).life != Life::Pending {
            refuse!(PyExc_AttributeError, c"run cannot be set after the start of the greenlet");
        }
        let old = std::mem::replace(&mut (*this).run, owned_or_null(run));
        ffi::Py_XDECREF(old);
        0
    }
}

/// `greenlet.parent`.
pub(crate) unsafe extern "C" fn get_parent(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: called by the interpreter with a greenlet.
    unsafe {
        let parent = parent_of(this.cast());
        owned(if parent.is_null() { ffi::Py_None() } else { parent.cast() })
    }
}

/// The parent, borrowed; null for a main greenlet and after a collection.
///
/// # Safety
///
/// `greenlet` is a live greenlet.
pub(crate) unsafe fn parent_of(greenlet: *mut PyGreenlet) -> *mut PyGreenlet {
    // SAFETY: a main greenlet keeps something else in that field.
    unsafe { if (*body(greenlet)).is_main { ptr::null_mut() } else { (*body(greenlet)).parent } }
}

/// `greenlet.parent = other`.
pub(crate) unsafe extern "C" fn set_parent(
    this: *mut PyObject,
    new_parent: *mut PyObject,
    _closure: *mut c_void,
) -> c_int {
    // SAFETY: called by the interpreter with a greenlet; null means deletion.
    unsafe {
        let greenlet: *mut PyGreenlet = this.cast();
        let this_body = body(greenlet);
        if new_parent.is_null() {
            refuse!(PyExc_AttributeError, c"can't delete attribute");
        }
        if (*this_body).is_main {
            refuse!(PyExc_AttributeError, c"cannot set the parent of a main greenlet");
        }
        if !is_greenlet(new_parent) {
            ffi::PyErr_Format(
                ffi::PyExc_TypeError,
                c"GreenletChecker: Expected any type of greenlet, not %s".as_ptr(),
                type_name(new_parent),
            );
            return -1;
        }
        let mut main = ptr::null_mut();
        let mut ancestor: *mut PyGreenlet = new_parent.cast();
        while !ancestor.is_null() {
            if ancestor == greenlet {
                refuse!(PyExc_ValueError, c"cyclic parent chain");
            }
            main = (*body(ancestor)).main;
            ancestor = parent_of(ancestor);
        }
        if main.is_null() {
            refuse!(PyExc_ValueError, c"parent must not be garbage collected");
        }
        if (*this_body).life != Life::Pending && (*this_body).main != main {
            refuse!(PyExc_ValueError, c"parent cannot be on a different thread");
        }
        let old = std::mem::replace(&mut (*this_body).parent, owned(new_parent).cast());
        ffi::Py_XDECREF(old.cast());
        0
    }
}

/// `greenlet.gr_frame`: the innermost frame of a suspended greenlet, else `None`.
pub(crate) unsafe extern "C" fn get_frame(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: called by the interpreter with a greenlet; only a suspended one is asked for its frame.
    unsafe {
        let greenlet: *mut PyGreenlet = this.cast();
        let suspended = (*body(greenlet)).life == Life::Active && !holds_stale_state(greenlet);
        if suspended {
            let state = &raw const (*body(greenlet)).coroutine.host;
            let frame: *mut PyObject = (*state).frame_object(current_thread_state()).cast();
            if !frame.is_null() {
                return frame;
            }
            if !ffi::PyErr_Occurred().is_null() {
                return ptr::null_mut();
            }
        }
        owned(ffi::Py_None())
    }
}

/// `greenlet.gr_context`: its `contextvars.Context`, or `None` for the empty one.
pub(crate) unsafe extern "C" fn get_context(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: called by the interpreter with a greenlet.
    unsafe {
        let greenlet: *mut PyGreenlet = this.cast();
        let place = if is_running(greenlet) {
            if !is_current(greenlet) {
                ffi::PyErr_SetString(
                    ffi::PyExc_ValueError,
                    c"cannot get context of a greenlet that is running in a different thread".as_ptr(),
                );
                return ptr::null_mut();
            }
            context_of(current_thread_state())
        } else if holds_stale_state(greenlet) {
            return owned(ffi::Py_None());
        } else {
            (*body(greenlet)).coroutine.host.context_slot()
        };
        let context = place.read();
        owned(if context.is_null() { ffi::Py_None() } else { context })
    }
}

/// `greenlet.gr_context = context`; `None` stands for the empty one.
pub(crate) unsafe extern "C" fn set_context(
    this: *mut PyObject,
    context: *mut PyObject,
    _closure: *mut c_void,
) -> c_int {
    // SAFETY: called by the interpreter with a greenlet; null means deletion.
    unsafe {
        let greenlet: *mut PyGreenlet = this.cast();
        if context.is_null() {
            refuse!(PyExc_AttributeError, c"can't delete context attribute");
        }
        let context = if context == ffi::Py_None() { ptr::null_mut() } else { context };
        if !context.is_null() && ffi::PyContext_CheckExact(context) == 0 {
            refuse!(PyExc_TypeError, c"greenlet context must be a contextvars.Context or None");
        }
        let thread_state = current_thread_state();
        let running = is_running(greenlet);
        let place = if running {
            if !is_current(greenlet) {
                refuse!(
                    PyExc_ValueError,
                    c"cannot set context of a greenlet that is running in a different thread"
                );
            }
            context_of(thread_state)
        } else if holds_stale_state(greenlet) {
            // The main greenlet of a thread that has ended: nothing will run in it.
            return 0;
        } else {
            (*body(greenlet)).coroutine.host.context_slot()
        };
        let old = place.replace(owned_or_null(context));
        if running {
            context_changed(thread_state);
        }
        ffi::Py_XDECREF(old);
        0
    }
}

/// `greenlet.__dict__`.
pub(crate) unsafe extern "C" fn get_dict(this: *mut PyObject, _closure: *mut c_void) -> *mut PyObject {
    // SAFETY: called by the interpreter with a greenlet.
    unsafe {
        let greenlet: *mut PyGreenlet = this.cast();
        if (*greenlet).dict.is_null() {
            let dict = ffi::PyDict_New();
            if dict.is_null() {
                return dict;
            }
            // Making it may have run a finalizer that was here first.
            if (*greenlet).dict.is_null() {
                (*greenlet).dict = dict;
            } else {
                ffi::Py_DECREF(dict);
            }
        }
        owned((*greenlet).dict)
    }
}

/// `greenlet.__dict__ = mapping`.
pub(crate) unsafe extern "C" fn set_dict(
    this: *mut PyObject,
    dict: *mut PyObject,
    _closure: *mut c_void,
) -> c_int {
    // SAFETY: called by the interpreter with a greenlet; null means deletion.
    unsafe {
        let greenlet: *mut PyGreenlet = this.cast();
        if dict.is_null() {
            refuse!(PyExc_TypeError, c"__dict__ may not be deleted");
        }
        if ffi::PyDict_Check(dict) == 0 {
            refuse!(PyExc_TypeError, c"__dict__ must be a dictionary");
        }
        let old = std::mem::replace(&mut (*greenlet).dict, owned(dict));
        ffi::Py_XDECREF(old);
        0
    }
}

/// `repr(greenlet)`: `<greenlet.greenlet object at 0x... (otid=0x...) current active started main>`.
pub(crate) unsafe extern "C" fn repr(this: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by the interpreter with a greenlet; the format's arguments have its types.
    unsafe {
        let greenlet: *mut PyGreenlet = this.cast();
        let name = type_name(this);
        let thread = thread_of(greenlet);
        if !is_not_dead(greenlet) {
            let ended = if belongs_to_ended_thread(greenlet) { c"(thread exited) " } else { c"" };
            return ffi::PyUnicode_FromFormat(
                c"<%s object at %p (otid=%p) %sdead>".as_ptr(),
                name,
                this,
                thread,
                ended.as_ptr(),
            );
        }
        let life = (*body(greenlet)).life;
        let place = if is_current(greenlet) {
            c" current"
        } else if life == Life::Active {
            c" suspended"
        } else {
            c""
        };
        let active = if life == Life::Active { c" active" } else { c"" };
        let started = if life == Life::Pending { c" pending" } else { c" started" };
        let main = if (*body(greenlet)).is_main { c" main" } else { c"" };
        ffi::PyUnicode_FromFormat(
            c"<%s object at %p (otid=%p)%s%s%s%s>".as_ptr(),
            name,
            this,
            thread,
            place.as_ptr(),
            active.as_ptr(),
            started.as_ptr(),
            main.as_ptr(),
        )
    }
}

/// `__getstate__`: greenlets cannot be pickled.
pub(crate) unsafe extern "C" fn getstate(this: *mut PyObject, _unused: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by the interpreter with a greenlet.
    unsafe {
        ffi::PyErr_Format(ffi::PyExc_TypeError, c"cannot serialize '%s' object".as_ptr(), type_name(this));
    }
    ptr::null_mut()
}
